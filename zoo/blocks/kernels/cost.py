"""What `zoo.count_flops` sees of functions that are evaluated element by element: splines, rationals, Fourier bases.

Each such evaluation is many small tensor operations, and how many of them depends on the path taken (fused, in place, a
GPU kernel). Its cost is a property of the formula. So while costs are being counted - and only then - a module traces
one operator instead, which says what the formula costs; `zoo.costs.rules` has the rule for it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

from zoo.blocks.kernels import guard

_COUNTING: ContextVar[bool] = ContextVar("zoo_counting", default=False)


@contextmanager
def while_counting() -> Iterator[None]:
    """Within it, modules trace `evaluation` in place of what they compute."""
    token = _COUNTING.set(True)
    try:
        yield
    finally:
        _COUNTING.reset(token)


def counting() -> bool:
    """Whether costs are being counted, and nobody looks at the values."""
    return not guard.compiling() and _COUNTING.get()


@torch.library.custom_op("zoo::evaluation", mutates_args=())
def evaluation(x: Tensor, outputs: int, macs: int) -> Tensor:
    """Stands for a function of each element that gives `outputs` numbers for `macs` multiply-accumulates.

    Shape: ``(*, C) -> (*, outputs, C)``, of zeros.
    """
    return x.new_zeros(*x.shape[:-1], outputs, x.shape[-1])


@evaluation.register_fake
def _(x: Tensor, outputs: int, macs: int) -> Tensor:
    return x.new_empty(*x.shape[:-1], outputs, x.shape[-1])


@torch.library.custom_op("zoo::evaluation_backward", mutates_args=())
def evaluation_backward(grad: Tensor, x: Tensor, macs: int) -> Tensor:
    """Stands for the gradient with respect to the numbers: the derivatives, which cost what the values do."""
    return torch.zeros_like(x)


@evaluation_backward.register_fake
def _(grad: Tensor, x: Tensor, macs: int) -> Tensor:
    return torch.empty_like(x)


def _save(ctx, inputs: tuple, output: Tensor) -> None:
    x, _, ctx.macs = inputs
    ctx.save_for_backward(x)


def _pull_back(ctx, grad: Tensor) -> tuple[Tensor, None, None]:
    return evaluation_backward(grad, *ctx.saved_tensors, ctx.macs), None, None


evaluation.register_autograd(_pull_back, setup_context=_save)
