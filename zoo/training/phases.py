"""The phases of a training: when the model enters those that its modules know."""

from collections.abc import Callable, Mapping

import torch
from torch import nn
from torch.optim import Optimizer

from zoo.blocks.protocol import enter, phases_of
from zoo.checks import shown, unknown
from zoo.training.recipe.schema import Duration


def phases_by_step(
    model: nn.Module, phases: Mapping[str, Duration], steps: Callable[[Duration], int], total: int
) -> dict[int, list[str]]:
    """The phases that begin at each step, before its update, in the order of the recipe.

    Args:
        model: The model.
        phases: When each begins.
        steps: Makes steps of a duration.
        total: Steps of the whole training.

    Raises:
        ValueError: No module of the model knows the phase, or it would begin when the training is over.
    """
    by_step: dict[int, list[str]] = {}
    known = phases_of(model)
    for name, duration in phases.items():
        key = f"train.phases.{name}"
        if name not in known:
            raise ValueError(unknown(f"{key}: the phase {shown(name)}", name, known, "phases of the model"))
        if steps(duration) >= total:
            raise ValueError(f"{key} is {duration}: a phase must be entered before the last of the {total} steps")
        by_step.setdefault(steps(duration), []).append(name)
    return by_step


def enter_phase(model: nn.Module, phase: str, averaged: nn.Module | None, optimizer: Optimizer) -> None:
    """Let the model enter a phase, and an average of it likewise.

    The average gets the buffers that were changed, as they are now: it would follow only when most of it is from after
    the phase began. What the optimizer knows of the function before is dropped.
    """
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    enter(model, phase)
    if averaged is not None:
        buffers = dict(averaged.named_buffers())
        with torch.no_grad():
            for name, buffer in model.named_buffers():
                if name in before and not torch.equal(buffer, before[name]):
                    buffers[name].copy_(buffer)
    optimizer.state.clear()
