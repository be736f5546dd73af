"""Telling a training that has diverged, before and after an update."""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo.checks import printable

BLOWN_UP = 1e4  # times the first loss, or times 1 if that was less: a model with a greater loss has diverged


def check_before(quantity: str, value: float, step: int, folder: Path) -> None:
    """Raise FloatingPointError if the loss, or the norm of the gradient, is not finite."""
    if not math.isfinite(value):
        raise FloatingPointError(
            f"the {quantity} is {value} at step {step + 1}: stopped before the update, the weights are as before. "
            f"{_advice(folder)}"
        )


def noticed_late(quantity: str, step: int, folder: Path) -> FloatingPointError:
    """The error of a loss, or a norm of the gradient, that was not finite some steps ago, on an accelerator."""
    return FloatingPointError(
        f"the {quantity} was not finite at step {step + 1}: stopped, and nothing from after that step is saved. "
        f"{_advice(folder)}"
    )


def overflowing(step: int, folder: Path) -> FloatingPointError:
    """The error of gradients that overflow in fp16, however small the factor on the loss has become."""
    return FloatingPointError(
        f"the gradient overflows at step {step + 1} although the loss is scaled down: stopped. Take "
        f"train.precision=bf16, which has the range of fp32. {_advice(folder)}"
    )


def check_after(value: float, first: float | None, step: int, folder: Path) -> None:
    """Raise FloatingPointError if an update has left a loss that is not finite, or far above the first one."""
    most = BLOWN_UP * max(1.0, first or 0.0)
    if not math.isfinite(value) or value > most:
        raise FloatingPointError(
            f"the loss is {value:.4g} after the update of step {step + 1}, and above {most:.4g} a model counts as "
            f"diverged: stopped, and what is there now is not saved. {_advice(folder)}"
        )


def check_state(
    weights: dict[str, Tensor], names: Iterable[str], optimizer: dict[str, Any], step: int, folder: Path
) -> None:
    """Raise FloatingPointError if the weights of these names, or an optimizer's state, have values that are not finite.

    Costs a pass over them: some hundredths of a second for 100 MB.
    """
    tensors = {f"parameter {name}": weights[name] for name in names if name in weights}
    for key, state in optimizer.get("state", {}).items():
        if isinstance(state, dict):
            tensors |= {f"optimizer's {name} of parameter {key}": value for name, value in state.items()}
    tensors = {name: value for name, value in tensors.items() if isinstance(value, Tensor) and value.numel()}
    finite = torch.stack(
        [torch.ones((), dtype=torch.bool), *(_finite(value).cpu() for value in tensors.values())]
    ).tolist()
    if not all(finite):
        name = list(tensors)[finite.index(False) - 1]
        raise FloatingPointError(
            f"the {name} is not finite after step {step}: stopped, and what is there now is not saved. "
            f"{_advice(folder)}"
        )


def _finite(value: Tensor) -> Tensor:
    """Whether all is finite; by the least and the greatest, which are NaN if anything is, at a tenth of the time."""
    if not value.is_floating_point():
        return value.isfinite().all()
    return torch.stack(value.detach().aminmax()).isfinite().all()


def _advice(folder: Path) -> str:
    shown = printable(folder, 300)
    return (
        "Lower optim.lr, lengthen schedule.warmup or set train.grad_clip; see if train.precision=fp32 helps. With that "
        f"changed, run again to go on from the last checkpoint: in the same folder, {shown}, or in another with "
        f"--from {shown}"
    )
