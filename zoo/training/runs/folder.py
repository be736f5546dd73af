"""The folder of a run:

    recipe.yaml                     the resolved recipe; one that somebody else wrote, and that says the same, stays
    metrics.jsonl                   one record a line: `zoo.training.runs.records`
    checkpoints/step-00000400/      the latest checkpoint: `zoo.training.runs.checkpoints`
    model/                          the trained model, for zoo.create_model("local-dir:..."), Segmenter.open(...) or
                                    MultiTask.open(...)
    best/                           the best model by the validation part, in the same form, if the recipe keeps it
    run.lock                        while a training writes: which process that is
    sessions.jsonl, report.html     by `zoo.training.watching`, and what trackers write: tensorboard/, wandb/

A file or a checkpoint is written beside its place and renamed into it: a kill at any instant leaves the old or the new
one whole. What has none of these names is somebody's own and stays.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from zoo.checks import check_path, printable, some
from zoo.hub import save_pretrained
from zoo.hub.folder import MODEL
from zoo.storage.files import check_file, clear_left, folder_at, replacing, telling
from zoo.training.models.multitask import PARTS as OF_TASKS
from zoo.training.models.multitask import MultiTask
from zoo.training.models.segmenter import PARTS as OF_SEGMENTER
from zoo.training.models.segmenter import Segmenter
from zoo.training.recipe.recipe import Recipe, differences, dump_recipe, is_dump, load_recipe
from zoo.training.runs.checkpoints import (
    PARTIAL,
    Content,
    Weights,
    find_checkpoints,
    is_checkpoint,
    read_checkpoint,
    read_summary,
    recover,
    remove_checkpoint,
    step_of,
    write_checkpoint,
)
from zoo.training.runs.lock import FolderLock
from zoo.training.runs.records import append_record, keep_records, read_records

MARK = "# Written by zoo: the recipe of this run, with every default.\n"
# What may change in the folder of a run that diverged: it is what the error advises to change.
ADVISED = ("optim.", "schedule.", "train.grad_clip", "train.precision")


@dataclass(frozen=True)
class Start:
    """Where a run begins: at a step, with a checkpoint unless it is a new one.

    `record` is for `metrics.jsonl`, and empty unless the checkpoint is of another recipe.
    """

    step: int = 0
    checkpoint: Path | None = None
    record: dict[str, Any] = field(default_factory=dict)


class RunFolder:
    """One run's files."""

    def __init__(self, path: str | Path):
        check_path("output", path, "the run's folder")
        self.path = Path(path)
        self.recipe = self.path / "recipe.yaml"
        self.metrics = self.path / "metrics.jsonl"
        self.checkpoints = self.path / "checkpoints"
        self.model = self.path / "model"
        self.best = self.path / "best"
        self.lock = FolderLock(self.path / "run.lock")
        self.latest: Path | None = None  # the last checkpoint that was found here or written from here

    @contextmanager
    def held(self) -> Iterator[None]:
        """Be the only training that writes into the folder, which is made if need be.

        Raises:
            FileExistsError: another process is; the message says which, since when, and what to do.
        """
        self._check_places()
        with telling(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
        with self.lock.held():
            yield

    def open(self, recipe: Recipe, source: str | Path | None = None) -> Start:
        """Where a run of this recipe begins; nothing is written yet, but for a checkpoint that a kill left renamed.

        Args:
            recipe: The recipe.
            source: A run or a checkpoint to begin at, if there is no checkpoint here yet; this folder itself is none.

        Raises:
            FileExistsError: the folder holds something that is no run, or another process trains in it.
            ValueError: it holds a run of another recipe, and the message lists what differs; or a checkpoint is no
                whole one of its step.
            FileNotFoundError: `source` has no checkpoint.
        """
        if source is not None:
            check_path("source", source, "a run or a checkpoint, or None")
        self._check_places()
        self.lock.check()
        if self._is_foreign():
            raise FileExistsError(
                f"{printable(self.path)} is not empty and holds no recipe.yaml: choose another output folder"
            )
        # The user is told before the training that `save_model` could not write, not after it.
        pointers = {OF_TASKS.pointer: recipe.model.heads, OF_SEGMENTER.pointer: recipe.model.pyramid}
        pointer = next((pointer for pointer, section in pointers.items() if section is not None), MODEL)
        for target in [self.model] if recipe.train.best is None else [self.model, self.best]:
            pointer.check(target)
        old = load_recipe(self.recipe) if self.recipe.exists() else recipe
        changed = differences(old, recipe)
        advised = changed and all(change.startswith(ADVISED) for change in changed)
        advised = advised and self._is_own() and self.metrics.exists()
        if changed and not (advised and "diverged" in (read_records(self.metrics) or [{}])[-1]):
            changes = some(changed, 12, between="; ")
            raise ValueError(
                f"{printable(self.path)} holds a run of another recipe ({changes}): choose another output "
                f"folder, to which --from {printable(self.path)} may bring its last checkpoint, or remove this one"
            )
        recover(self.checkpoints)
        checkpoints = find_checkpoints(self.checkpoints)
        self.latest = checkpoints[-1] if checkpoints else None
        if source is not None and (place := _resolved(source)) in (None, self.path.resolve()):
            if place is None:
                raise _nothing_at(source)
            source = None
        if self.latest is not None:
            if source is not None and not self._began_at(source):
                raise ValueError(
                    f"{printable(self.path)} holds a run that did not begin at {printable(source)}: choose another "
                    "output folder, or leave out --from to go on with that run"
                )
            record = {"from": str(self.path.resolve()), "changed": changed} if changed else {}
            return Start(step_of(self.latest), self.latest, record)
        return Start() if source is None else _start_at(Path(source), recipe)

    def begin(self, recipe: Recipe, step: int, record: dict[str, Any] | None = None) -> None:
        """Write the recipe, drop the records after `step`, and clear what a killed run left; add a record if given.

        Raises:
            FileExistsError: another process has trained here since the folder was opened.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        checkpoints = find_checkpoints(self.checkpoints)
        if checkpoints[-1:] != ([self.latest] if self.latest else []):
            raise FileExistsError(
                f"{printable(self.path)} was trained in by another process since it was opened here: run again, to go "
                f"on from its last checkpoint, or choose another output folder"
            )
        if record:  # first: once the recipe is written, nobody knows that it was another
            record = {"step": step} | record
            if not self.metrics.exists() or record not in read_records(self.metrics):
                append_record(self.metrics, record)
        old = load_recipe(self.recipe) if self.recipe.exists() else None
        # One in somebody's own words that says the same stays.
        if old is None or (old != recipe and self._is_own()):
            with replacing(self.recipe) as file:
                file.write_text(MARK + dump_recipe(recipe), "utf-8")
        if self.metrics.exists():
            keep_records(self.metrics, lambda old: old["step"] <= step and not {"final", "diverged"} & old.keys())
        for path in [*checkpoints[:-1], *self.checkpoints.glob(PARTIAL)]:
            remove_checkpoint(path)
        clear_left(self.path)
        recover(self.checkpoints)

    def log(self, record: dict[str, Any]) -> None:
        """Append one record to `metrics.jsonl`."""
        append_record(self.metrics, record)

    def save_checkpoint(
        self, step: int, weights: Weights, optimizer: dict[str, Any], facts: dict[str, Any] | None = None
    ) -> None:
        """Write a checkpoint, then remove the older ones."""
        self.lock.check_kept()
        older, target = find_checkpoints(self.checkpoints), self.checkpoints / f"step-{step:08d}"
        if not write_checkpoint(target, weights, optimizer, facts or {}):
            return
        self.latest = target
        for path in [*older, *self.checkpoints.glob(PARTIAL)]:
            if path != target:
                remove_checkpoint(path)

    def load_checkpoint(self, path: Path, names: list[str]) -> Content:
        """Read what `save_checkpoint` wrote: the state dicts of these names, the optimizer's, and the facts.

        Raises:
            ValueError: a file is damaged or missing; the message names it and says what to do.
        """
        try:
            return read_checkpoint(path, names)
        except (ValueError, FileNotFoundError) as error:
            raise ValueError(f"{printable(path)} cannot be resumed from: {error}. {self.remedy(path)}") from error

    def remedy(self, path: Path) -> str:
        """What to do about a checkpoint that cannot be used."""
        older = [checkpoint for checkpoint in find_checkpoints(path.parent) if checkpoint < path]
        if older:
            return f"Remove {printable(path)} to go on from {older[-1].name}, which is older"
        if path.parent != self.checkpoints:
            return "There is no older one: begin at another"
        return (
            "There is no older one: put back a copy of it, choose another output folder to train anew, "
            f"or remove {printable(self.path)} to start again"
        )

    def save_model(self, model: nn.Module, *, best: bool = False) -> None:
        """Write the trained model, or the best one so far."""
        self.lock.check_kept()
        target = self.best if best else self.model
        if isinstance(model, (Segmenter, MultiTask)):
            model.save(target)
        else:
            save_pretrained(model, target)

    def _is_foreign(self) -> bool:
        """Whether the folder holds something, and it is no run. What is hidden, as `.DS_Store`, does not count."""
        if self.recipe.exists() or not self.path.exists():
            return False
        return any(p.name != self.lock.path.name and not p.name.startswith(".") for p in self.path.iterdir())

    def _check_places(self) -> None:
        """Raise an error if something else stands where a file or a folder of the run must be."""
        for folder in (self.path, self.checkpoints, self.model, self.best):
            folder_at(folder)
        stage = ".zoo-00000000.tmp"  # as where files are written before they get their places
        longest = self.model / stage / "backbone-00000000" / stage / "model-00000000.safetensors"
        for file in (self.recipe, self.metrics, self.lock.path, longest):
            check_file(file)

    def _began_at(self, source: str | Path) -> bool:
        """Whether a record names the source, by whatever path; older versions wrote it as it was given."""
        began = [origin.get("from") for origin in read_records(self.metrics)] if self.metrics.exists() else []
        return any(_resolved(origin) == Path(source).resolve() for origin in began if isinstance(origin, str))

    def _is_own(self) -> bool:
        """Whether recipe.yaml is in zoo's words, and not in somebody's; older versions did not mark it."""
        text = self.recipe.read_text("utf-8")
        return is_dump(text.removeprefix(MARK)) and (text.startswith(MARK) or self.metrics.exists())


def _resolved(path: str | Path) -> Path | None:
    """Where a path leads; None if no file can have it."""
    try:
        with suppress(FileNotFoundError):
            os.stat(path)
        return Path(path).resolve()
    except (OSError, ValueError, RuntimeError):  # a circle of links, too long a name, a null character
        return None


def _nothing_at(source: str | Path) -> FileNotFoundError:
    return FileNotFoundError(
        f"{printable(source)} holds no checkpoint: give the folder of a run, which has checkpoints/, or a "
        "checkpoint in one"
    )


def _start_at(source: Path, recipe: Recipe) -> Start:
    """The start at another run's last checkpoint, or at a checkpoint."""
    recover(source / "checkpoints")
    checkpoints = find_checkpoints(source / "checkpoints")
    checkpoint = checkpoints[-1] if checkpoints else source
    if not is_checkpoint(checkpoint):
        raise _nothing_at(source)
    step = step_of(checkpoint)
    try:
        step = read_summary(checkpoint)["step"] if step is None else step
    except ValueError as error:
        raise ValueError(f"{printable(source)} cannot be begun at: {error}") from error
    old = (source if checkpoints else source.resolve().parents[1]) / "recipe.yaml"
    changed = differences(load_recipe(old), recipe) if old.is_file() else None
    return Start(step, checkpoint, {"from": str(source.resolve()), "changed": changed})
