"""Measuring what a run has trained, once more or on another part of its data."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from zoo.checks import printable, shown, unknown
from zoo.create import create_model
from zoo.training.evaluation import evaluate_part, load_data
from zoo.training.models.multitask import MultiTask
from zoo.training.models.segmenter import Segmenter
from zoo.training.recipe.recipe import Data, Recipe, load_recipe, measured_part
from zoo.training.runs.folder import RunFolder


def open_trained(folder: str | Path, recipe: Recipe) -> nn.Module:
    """The model that a run of a recipe has saved: a plain one, a segmenter, or one for several tasks.

    Raises:
        FileNotFoundError: The run has saved none yet.
        ValueError: A file of it is damaged.
    """
    if recipe.model.heads is not None:
        return MultiTask.open(folder)
    return create_model(f"local-dir:{folder}") if recipe.model.pyramid is None else Segmenter.open(folder)


def recipe_of(run: RunFolder, overrides: Iterable[str] = ()) -> Recipe:
    """The recipe that lies in the folder of a run, with overrides.

    Raises:
        FileNotFoundError: The folder holds no run.
        ValueError: The recipe cannot be read.
    """
    if not run.recipe.is_file():
        raise FileNotFoundError(
            f"{printable(run.path)} holds no run: there is no {printable(run.recipe)}; zoo train RECIPE --output "
            f"{printable(run.path)} makes one"
        )
    return load_recipe(run.recipe, overrides)


def part_of(data: Data, part: str | None) -> str:
    """A part that the data of every task have; None is what a run itself measures at its end.

    Raises:
        ValueError: They have it not.
    """
    part = measured_part(data) if part is None else part
    there = set.intersection(*(set(splits) for splits in data.values()))
    if part not in there:
        raise ValueError(unknown(f"the part {shown(part)} of the data", part, there, "parts"))
    return part


def evaluate_run(
    path: str | Path,
    part: str | None = None,
    overrides: Iterable[str] = (),
    *,
    best: bool = False,
    device: str = "cpu",
    **how: Any,
) -> tuple[dict[str, float], str]:
    """The metrics of a run's model, and how they stand to what its recipe expects.

    Args:
        path: The folder of the run.
        part: Of the data: ``train``, ``validation`` or ``test``; by default what the run itself measured at its end.
        overrides: `key.sub=value` each, for data that lie elsewhere now.
        best: Measure the best model that the run kept, not the last.
        device: Where to measure.
        how: Keywords of `zoo.training.evaluate`.

    Raises:
        FileNotFoundError: The folder holds no run, or the run has saved no model yet.
        ValueError: The data have no such part, or the recipe or the model cannot be read.
    """
    run = RunFolder(path)
    recipe = recipe_of(run, overrides)
    folder = run.best if best else run.model
    if best and not folder.is_dir():
        raise FileNotFoundError(
            f"{printable(path)} has kept no best model: train with train.best={{metric: …}}, or measure the last one"
        )
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{printable(path)} has no trained model yet: train it to its end, zoo train {printable(run.recipe)} "
            f"--output {printable(path)}"
        )
    data = load_data(recipe)
    part = part_of(data, part)
    model = open_trained(folder, recipe).to(torch.device(device))
    metrics = evaluate_part(model, recipe, data, part, **how)
    return metrics, recipe.expect.compare(metrics)
