"""Numbers that follow from sizes, in programs too that are recorded once and then run on other sizes.

In `torch.jit.trace` a size is a tensor, in `torch.export` a symbol. Python's own ``math.ceil``, ``min`` and ``max``
would make a constant of it. On plain numbers the functions here give what Python's give, to the last bit.
"""

import math

import torch
from torch import Tensor

Size = int | Tensor


def wide(size: Size) -> Size:
    """A size that products and quotients with floats are taken of: as exact as Python's in a tensor too."""
    return size.to(torch.float64) if isinstance(size, Tensor) else size


def ceil(number: float | Tensor) -> Size:
    """The whole number above one that is not negative, of a symbol in operations that `torch.export.save` can write."""
    if isinstance(number, torch.SymFloat):
        below = math.trunc(number)
        return below + 1 - math.trunc(1 - (number - below))
    return number.ceil().long() if isinstance(number, Tensor) else math.ceil(number)


def ceil_of_quotient(a: Size, b: int) -> Size:
    """``ceil(a / b)`` of whole numbers, in operations that `torch.export.save` can write."""
    return -(-a // b)


def floor(number: float | Tensor) -> Size:
    """The whole number below one that is not negative, in an operation that `torch.export.save` can write."""
    return number.floor().long() if isinstance(number, Tensor) else math.trunc(number)


def least(a: Size, b: Size) -> Size:
    """The smaller of two sizes."""
    if isinstance(b, Tensor):
        return b.clamp(max=a)
    return a.clamp(max=b) if isinstance(a, Tensor) else torch.sym_min(a, b)


def most(a: Size, b: Size) -> Size:
    """The larger of two sizes."""
    if isinstance(b, Tensor):
        return b.clamp(min=a)
    return a.clamp(min=b) if isinstance(a, Tensor) else torch.sym_max(a, b)


def highest(x: Tensor, count: Size) -> Tensor:
    """Whether an entry is among so many highest along dimension 1, which has no fewer."""
    if isinstance(count, torch.SymInt):  # torch.export cannot prove that there are no fewer
        order = x.argsort(dim=1, descending=True, stable=True)
        return order.argsort(1) < count
    return torch.zeros_like(x, dtype=torch.bool).scatter(1, x.topk(count, 1).indices, 1)  # tracing knows no True


def mean(x: Tensor, *dims: int) -> Tensor:
    """Mean over some dimensions; of nothing it is zero, so that a loss of no tokens is no NaN."""
    count = math.prod([x.shape[dim] for dim in dims])  # a list: compilers trace no generator here
    if isinstance(count, Tensor):
        return x.sum(dims) / count.clamp(min=1)
    return x.mean(dims) if count else x.sum(dims)
