"""Measuring a model by a recipe's task."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import Tensor, nn

from zoo.training.data.batches import EvaluationBatches, Split, loader
from zoo.training.engine.precision import autocast
from zoo.training.recipe.recipe import Recipe


@contextlib.contextmanager
def cpu_threads(recipe: Recipe) -> Iterator[None]:
    """The recipe's number of threads as a context."""
    recipe.train.check_threads()
    before = torch.get_num_threads()
    torch.set_num_threads(recipe.train.threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def load_data(recipe: Recipe) -> dict[str, dict[str, Split]]:
    """The splits of each task of a recipe by its name; tasks may share their data."""
    loaded: dict[str, dict[str, Split]] = {}
    for name, objective in recipe.objectives.items():
        same = (loaded_name for loaded_name in loaded if recipe.objectives[loaded_name].data == objective.data)
        first = next(same, None)
        loaded[name] = objective.data.load() if first is None else loaded[first]
    return loaded


def evaluate_part(
    model: nn.Module, recipe: Recipe, data: Mapping[str, Mapping[str, Split]], part: str, **how: Any
) -> dict[str, float]:
    """The metrics of a part of the data as `part/name`, or of several tasks as `part/task/name`.

    Args:
        model, recipe: As for `evaluate`, and so are the keywords.
        data: As `load_data` gives it.
        part: ``train``, ``validation`` or ``test``.
    """
    metrics = {}
    for task, splits in data.items():
        values = evaluate(model, recipe, splits[part], task=task, **how)
        metrics |= {"/".join(filter(None, (part, task, name))): value for name, value in values.items()}
    return metrics


@torch.no_grad()
def evaluate(
    model: nn.Module,
    recipe: Recipe,
    split: Split,
    *,
    task: str = "",
    rank: int = 0,
    world: int = 1,
    progress: Callable[[int, int], object] = lambda done, total: None,
) -> dict[str, float]:
    """The task's metrics over a split, on the model's device, in the recipe's precision and threads.

    Of a recipe with several tasks, `task` is the name of one. Where `world` processes measure together, each calls this
    with its `rank` and all get the result. Where the data may skip pictures that cannot be read, `images` and
    `unreadable` say how many were measured and how many not. `progress` is called with how many batches are done, and
    of how many.

    Raises:
        ValueError: a picture cannot be read, and the recipe does not say to skip it; or none can.
    """
    train, device = recipe.train, next(model.parameters()).device
    objective, keywords = recipe.objectives[task].task, {"task": task} if task else {}
    batches = EvaluationBatches(split, objective, batch_size=train.batch_size, seed=train.seed, rank=rank, world=world)
    was_training = model.training
    model.eval()
    sums: dict[str, Tensor] = {}
    images = 0
    with cpu_threads(recipe):
        for number, (inputs, targets, counts) in enumerate(loader(batches, range(len(batches)))):
            progress(number, len(batches))
            with autocast(train.precision, device):
                outputs = model(inputs.to(device), **keywords)
            images += int(counts.sum())
            for name, values in objective.metrics(outputs.float(), targets.to(device)).items():
                sums[name] = sums.get(name, 0) + torch.tensordot(counts.double(), values.double().cpu(), 1)
    model.train(was_training)
    gathered = gather_object([(sums, images)]) if world > 1 else [(sums, images)]
    images = sum(count for _, count in gathered)
    if not images:
        raise ValueError("none of the pictures to measure on can be read: repair them, or give others")
    metrics = objective.summarise({name: sum(part[name] for part, _ in gathered) for name in sums}, images)
    skipped = {"images": images, "unreadable": len(split) - images} if split.skip else {}
    return metrics | skipped


def show(metrics: dict[str, Any]) -> str:
    """Metrics on one line, for people."""
    return "  ".join(f"{name} {value:.4g}" for name, value in metrics.items())
