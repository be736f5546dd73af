"""What a basis is, and the limits of the numbers it sees."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from zoo.blocks.kernels.functions import cached_rows
from zoo.blocks.options import with_options_of
from zoo.checks.ranges import Functions, GridRange, Width

CHUNK = 2**19  # values held at a time on the CPU, so that the steps of a formula meet in the cache of a core


class Basis(nn.Module):
    """Functions of one number, evaluated on every feature.

    A basis derives from this, sets `num` and `macs`, and writes `values`. Where more speed is wanted it writes `fill`
    and `pull_back` too, which neither autograd nor a compiler ever sees; by default they are made of `values`.

    Attributes:
        num: Number of functions.
        macs: Multiply-accumulates of evaluating all of them at one number. Additions of constants, exponentials, sines,
            divisions and comparisons are none.
        features: Number of features.
        base: Activation slot of the base function that suits it; ``none`` for no base term.
    """

    num: int
    macs: int
    base = "silu"
    no_decay: tuple[str, ...] = ()

    def __init__(self, features: Width, *, device=None, dtype=None):
        super().__init__()
        self.features = features

    def values(self, x: Tensor) -> Tensor:
        """Every function of every feature, in plain operations that autograd and compilers take.

        Shape: ``(*, features) -> (*, num, features)``.
        """
        raise NotImplementedError

    def fill(self, x: Tensor, out: Tensor) -> None:
        """Write `values` into `out`, which may be of lower precision.

        Shape: ``(N, features)``, into ``(N, num, features)``.
        """
        for rows in self._chunks(x):
            out[rows] = self.values(x[rows])

    def pull_back(self, x: Tensor, grad: Tensor) -> tuple[Tensor, ...]:
        """Gradients of ``(values(x) * grad).sum()`` by `x` and by the parameters, in the order of `parameters()`.

        Shape: ``(N, features)`` and ``(N, num, features)`` -> ``(N, features)`` and the parameters' own.
        """
        by_x, totals = torch.empty_like(x), [torch.zeros_like(p) for p in self.parameters()]
        for rows in self._chunks(x):
            with torch.enable_grad():
                part = x[rows].detach().requires_grad_()
                values = self.values(part)
            by_part = torch.autograd.grad(values, (part, *self.parameters()), grad[rows].to(values.dtype))
            by_x[rows], *by_parameters = by_part
            for total, one in zip(totals, by_parameters, strict=True):
                total += one
        return by_x, *totals

    def _chunks(self, x: Tensor) -> Iterator[slice]:
        """Ranges of rows whose values fit into the cache; on a GPU all rows at once."""
        return cached_rows(x, CHUNK // (self.num * self.features))

    def _rooms(self, x: Tensor, out: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """The chunks, each with a place to write its values to in the precision of `x`.

        That is the place in `out`, or where `out` is of another precision one that is copied there afterwards.
        """
        spare = None
        for rows in self._chunks(x):
            target = out[rows]
            if out.dtype == x.dtype:
                yield rows, target
                continue
            spare = x.new_empty(target.shape) if spare is None else spare
            yield rows, spare[: len(target)]
            target.copy_(spare[: len(target)])

    def extra_repr(self) -> str:
        return f"num={self.num}, features={self.features}"


class Spaced(Basis):
    """Functions that are evenly spaced over a range, with both its ends.

    Args:
        num: Number of functions.
        grid_range: The first and the last place.

    Attributes:
        title: What errors call the basis.

    Shape: ``(*, features) -> (*, num, features)``.
    Raises: ValueError for ends in the wrong order.
    """

    title: str

    @with_options_of(Basis)
    def __init__(self, features: Width, *, num: Functions = 8, grid_range: GridRange = (-2.0, 2.0), **options):
        super().__init__(features, **options)
        self.num, self.grid_range = num, range_ends(self.title, grid_range)


def range_ends(basis: str, grid_range: GridRange) -> tuple[float, float]:
    """The two ends of the range that functions are placed over.

    Raises:
        ValueError: They are in the wrong order; `basis` is the name in the message.
    """
    low, high = map(float, grid_range)
    if not low < high:
        raise ValueError(f"{basis} has grid_range={tuple(grid_range)}; it must be (low, high) with low < high")
    return low, high


def finite(x: Tensor) -> Tensor:
    """`x` with infinities, and what is beyond the square root of the largest number, brought back to that bound.

    There the bases have long become constant or zero, and the base term still has room for its sum over the features.
    So an infinite input gives what a very large one gives, and never a NaN; a NaN stays a NaN.
    """
    bound = math.sqrt(torch.finfo(x.dtype).max)
    return x.clamp(-bound, bound)


def wide(dtype: torch.dtype) -> torch.dtype:
    """The precision that functions are evaluated in: fp32 at least."""
    return torch.promote_types(dtype, torch.float32)
