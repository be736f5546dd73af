"""The checkpoint that a run goes on from: which it is, and which of its files are read."""

from collections.abc import Mapping
from pathlib import Path

from zoo.training.recipe.recipe import Recipe
from zoo.training.runs.checkpoints import Content
from zoo.training.runs.folder import RunFolder, Start


def load_start(
    folder: RunFolder, start: Start, recipe: Recipe, source: str | Path | None, parts: Mapping[str, bool]
) -> tuple[Start, Content]:
    """Read the checkpoint to start at, or a later one if a run that is still trained has removed it meanwhile.

    Args:
        folder: Of the run.
        start: What opening it gave.
        recipe: What is trained.
        source: The run that this one goes on from, if it is another.
        parts: What the run keeps beside the weights, by the names of files, and whether it does.

    Returns:
        The start, which may be a later one, and what its checkpoint holds.

    Raises:
        ValueError: The checkpoint is damaged, or a part of it is missing.
    """
    while True:
        path = start.checkpoint
        try:
            return start, folder.load_checkpoint(path, ["model", *_there(start, parts)])
        except ValueError:
            start = folder.open(recipe, source)
            if start.checkpoint in (path, None):
                raise


def _there(start: Start, parts: Mapping[str, bool]) -> list[str]:
    """The parts to read; of another recipe's checkpoint those that it has."""
    kept = [part for part, is_kept in parts.items() if is_kept]
    if not start.record:
        return kept
    return [part for part in kept if (start.checkpoint / f"{part}.safetensors").exists()]
