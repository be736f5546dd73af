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
from zoo.training.tasks.meter import Meter

TOGETHER = 2**18  # numbers of outputs that are measured at once: a metric takes as long for a few images as for many


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


@contextlib.contextmanager
def measuring(model: nn.Module, recipe: Recipe) -> Iterator[None]:
    """Within it the model is in evaluation mode, on the recipe's threads, and nothing is kept for a gradient."""
    was_training = model.training
    model.eval()
    try:
        with cpu_threads(recipe), torch.no_grad():
            yield
    finally:
        model.train(was_training)


def outputs_of(
    model: nn.Module,
    recipe: Recipe,
    split: Split,
    *,
    task: str = "",
    rank: int = 0,
    world: int = 1,
    progress: Callable[[int, int], object] = lambda done, total: None,
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """A model's outputs in float32 for batch after batch of a split, the targets, and the numbers of the images.

    Each image that can be read comes once, in one of the `world` processes; a batch may be empty. It is for the inside
    of `measuring`.
    """
    train, device = recipe.train, next(model.parameters()).device
    objective, keywords = recipe.objectives[task].task, {"task": task} if task else {}
    batches = EvaluationBatches(split, objective, batch_size=train.batch_size, seed=train.seed, rank=rank, world=world)
    for number, (inputs, targets, counts) in enumerate(loader(batches, range(len(batches)))):
        progress(number, len(batches))
        with autocast(train.precision, device):
            outputs = model(inputs.to(device), **keywords)
        outputs, targets, indices = outputs.float(), targets.to(device), torch.tensor(batches.numbers(number))
        if not counts.all():
            counted = counts.nonzero().squeeze(1)  # on the CPU, so that a GPU need not be waited for
            rows = counted.to(device)
            outputs, targets, indices = outputs[rows], targets[rows], indices[counted]
        yield outputs, targets, indices


def measure(
    model: nn.Module, recipe: Recipe, split: Split, *, task: str = "", rank: int = 0, world: int = 1, **how: Any
) -> tuple[Meter, int]:
    """What the task measures of a split, for its numbers and tables, and of how many images; else as `evaluate`."""
    device, images = _with_float64(next(model.parameters()).device), 0
    meter = recipe.objectives[task].task.meter(split.num_classes).to(device)
    pending: list[tuple[Tensor, Tensor]] = []  # batches, of which some are measured at once
    with measuring(model, recipe):
        for outputs, targets, indices in outputs_of(model, recipe, split, task=task, rank=rank, world=world, **how):
            images += len(indices)
            if len(indices):
                pending.append((outputs.to(device), targets.to(device)))
            if sum(batch.numel() for batch, _ in pending) >= TOGETHER:
                _update(meter, pending)
        _update(meter, pending)
    if world > 1:
        gathered = [part for part in gather_object([(meter.state(), images)]) if part[1]]
        images = sum(count for _, count in gathered)
        if images:
            meter.sum_up([state for state, _ in gathered])
    if not images:
        raise ValueError("none of the pictures to measure on can be read: repair them, or give others")
    return meter, images


def _update(meter: Meter, pending: list[tuple[Tensor, Tensor]]) -> None:
    """Add the batches to what is measured, and forget them."""
    if len(pending) > 1:
        meter.update(*map(torch.cat, zip(*pending, strict=True)))
    elif pending:
        meter.update(*pending[0])
    pending.clear()


def _with_float64(device: torch.device) -> torch.device:
    """Where to add up: Apple's GPUs have no float64."""
    return torch.device("cpu") if device.type == "mps" else device


def evaluate(model: nn.Module, recipe: Recipe, split: Split, **how: Any) -> dict[str, float]:
    """The task's metrics over a split, on the model's device, in the recipe's precision and threads.

    Args:
        model, recipe, split: What is measured, by what, on what.
        how: Keywords of `outputs_of`: of a recipe with several tasks, `task` is the name of one; where `world`
            processes measure together, each calls this with its `rank`, and all get the result; `progress` is called
            with how many batches are done, and of how many.

    Returns:
        The numbers by name. Where the data may skip pictures that cannot be read, `images` and `unreadable` say how
        many were measured and how many not.

    Raises:
        ValueError: a picture cannot be read, and the recipe does not say to skip it; or none can.
    """
    meter, images = measure(model, recipe, split, **how)
    skipped = {"images": images, "unreadable": len(split) - images} if split.skip else {}
    return meter.compute() | skipped


def show(metrics: dict[str, Any]) -> str:
    """Metrics on one line, for people."""
    return "  ".join(f"{name} {value:.4g}" for name, value in metrics.items())
