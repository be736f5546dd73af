"""B-splines of any order on any grid."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from zoo.blocks.kan.bases.base import Basis, finite, range_ends, wide
from zoo.blocks.kernels import guard
from zoo.blocks.kernels.reading import reading
from zoo.blocks.options import with_options_of
from zoo.checks.ranges import GridRange, GridSize, Order, Width
from zoo.slots.table import register


class EvenGrid(NamedTuple):
    """Evenly spaced knots as the closed form wants them, in a scaled distance (see `_unit`).

    Attributes:
        start: The first knot of every feature.
        scale: Scaled distance over distance, for every feature.
        centres: Scaled centres of the bumps, ``(num, 1)``.
    """

    start: Tensor
    scale: Tensor
    centres: Tensor


@reading(otherwise=None)
def even_grid(knots: Tensor, order: int) -> EvenGrid | None:
    """What the closed form needs; None if knots are unevenly spaced, by more than the rounding of stored numbers."""
    steps = knots.double().diff()
    rounding = 8 * torch.finfo(knots.dtype).eps * knots.abs().amax(1).double()
    if not ((steps.amax(1) - steps.amin(1)) <= rounding).all():
        return None
    intervals, unit = knots.shape[1] - 1, _unit(order)
    centres = torch.arange(intervals - order, device=knots.device, dtype=knots.dtype) + (order + 1) / 2
    return EvenGrid(knots[:, 0].clone(), intervals * unit / (knots[:, -1] - knots[:, 0]), (centres * unit)[:, None])


def _unit(order: int) -> float:
    """Length of an interval in the scaled distance: chosen so that the powers need no common factor."""
    return math.factorial(order) ** (-1 / max(order, 1))


@register("basis", "spline")
class Spline(Basis):
    """The ``grid_size + order`` B-splines over a grid of intervals that is continued by `order` intervals on each side.

    Inside the grid they sum to one. Outside of the continued grid they are all zero, and it is the base term of a layer
    that acts there. Each feature has knots of its own; as long as they are evenly spaced, each spline is the same bump
    moved, which has a closed form. On other grids the recursion of Cox and de Boor is used.

    Args:
        grid_size: Number of intervals.
        order: Degree of the polynomials: 1 for broken lines, 3 for cubic splines, 0 for steps.
        grid_range: Ends of the grid at the start.

    Shape: ``(*, features) -> (*, grid_size + order, features)``.

    Example:
        >>> basis = Spline(1, grid_size=4, order=2)
        >>> round(basis.values(torch.tensor([[0.3]])).sum().item(), 6)
        1.0

    Source: de Boor, "A Practical Guide to Splines"; the continued grid as in Liu et al., "KAN" (arXiv 2404.19756),
        section 2.2. The closed form is Schoenberg's for evenly spaced knots, folded at the centre of the bump.
    Differs: none known; what the recursion leaves at rounding errors differs by these.
    Cost: order x (order + 1) MACs a number, for the order + 1 splines that are not zero.
    Raises: ValueError for a grid without intervals, a negative order or ends in the wrong order.
    """

    @with_options_of(Basis)
    def __init__(
        self, features: Width, *, grid_size: GridSize = 5, order: Order = 3, grid_range: GridRange = (-1.0, 1.0), **dd
    ):
        super().__init__(features, **dd)
        self.order, self.grid_range, self.macs = order, range_ends("spline", grid_range), order * (order + 1)
        dd["dtype"] = wide(dd["dtype"] or torch.get_default_dtype())
        knots = torch.empty(features, grid_size + 2 * order + 1, **dd)
        self.register_buffer("knots", knots)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Put the knots evenly over `grid_range`."""
        low, high = self.grid_range
        places = torch.arange(-self.order, self.grid_size + self.order + 1, dtype=torch.float64)
        self.knots.copy_(low + (high - low) / self.grid_size * places)

    @property
    def grid_size(self) -> int:
        """Number of intervals."""
        return self.knots.shape[1] - 1 - 2 * self.order

    @property
    def num(self) -> int:
        """Number of functions."""
        return self.knots.shape[1] - 1 - self.order

    def set_knots(self, knots: Tensor) -> None:
        """Replace the knots, and with their number the number of functions.

        Args:
            knots: (features, grid_size + 2 * order + 1), rising in each row.

        Raises:
            ValueError: The shape is another, or the knots do not rise.
        """
        if knots.dim() != 2 or len(knots) != self.features or knots.shape[1] < 2 * self.order + 2:
            raise ValueError(
                f"knots have the shape {tuple(knots.shape)}; for {self.features} features and order {self.order} it "
                f"must be ({self.features}, grid_size + {2 * self.order + 1})"
            )
        if not knots.is_meta and not (knots.diff() > 0).all():
            raise ValueError("knots do not rise; each must be greater than the one before it")
        self.knots = knots.to(self.knots)

    def _apply(self, fn, recurse: bool = True):
        """Knots keep their precision where all else is rounded to 16 bits: near ones would become the same."""
        knots = self.knots
        super()._apply(fn, recurse)
        if self.knots.dtype is not wide(self.knots.dtype):
            self.knots = knots.to(self.knots.device)
        return self

    @property
    def even(self) -> bool:
        """Whether the knots are evenly spaced; False too where their values cannot be read, as in a compiler.

        What depends on it must be right for uneven knots wherever it is False.
        """
        return even_grid(self.knots, self.order) is not None

    def _grid(self) -> EvenGrid | None:
        """For the closed form; None where it does not hold, which is for steps too."""
        return even_grid(self.knots, self.order) if self.order else None

    # --- In plain operations ------------------------------------------------------------------------------------------

    def values(self, x: Tensor) -> Tensor:
        x, grid = finite(x), self._grid()
        if grid is None:
            return spline_values(x, self.knots, self.order) if guard.takes_operators() else self._recursion(x)[0]
        distance, total = (_scaled(x, grid) - grid.centres).abs(), None
        for weight, reach in self._powers():
            power = (reach - distance).clamp(min=0).pow(self.order)
            total = power if total is None else total + weight * power
        return total

    def _recursion(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """The splines by Cox and de Boor, and those of the order below (None for order 0)."""
        knots, x = self.knots.to(x.dtype).t(), x.unsqueeze(-2)
        splines, below = ((x >= knots[:-1]) & (x < knots[1:])).to(x.dtype), None
        for k in range(1, self.order + 1):
            # Each spline falls where the one behind it rises: one product a spline and order does for both.
            product = (x - knots[:-k]) / (knots[k:] - knots[:-k]) * splines
            splines, below = product[..., :-1, :] + splines[..., 1:, :] - product[..., 1:, :], splines
        return splines, below

    # --- The closed form: a sum of powers max(0, reach - |u|)^order of the distance u from a bump's centre ------------

    def _powers(self) -> list[tuple[float, float]]:
        """(factor, reach) of the powers, in the scaled distance."""
        k, unit = self.order, _unit(self.order)
        return [((-1) ** j * math.comb(k + 1, j), ((k + 1) / 2 - j) * unit) for j in range(k // 2 + 1)]

    # --- The same in place, chunk by chunk ----------------------------------------------------------------------------

    def fill(self, x: Tensor, out: Tensor) -> None:
        grid = self._grid()
        if grid is None:
            for rows in self._chunks(x):
                out[rows] = self._recursion(finite(x[rows]))[0]
            return
        scaled, (spare,) = _scaled(finite(x), grid), _spare(1, x, self)
        for rows, room in self._rooms(x, out):
            self._sum_powers_(torch.sub(scaled[rows], grid.centres, out=room).abs_(), spare[: len(room)], self.order)

    def pull_back(self, x: Tensor, grad: Tensor) -> tuple[Tensor, ...]:
        grid = self._grid()
        if grid is None:
            return (torch.cat([self._pull_back_recursion(finite(x[rows]), grad[rows]) for rows in self._chunks(x)]),)
        scaled, spare, by_x = _scaled(finite(x), grid), _spare(3, x, self), torch.empty_like(x)
        for rows in self._chunks(x):
            offsets, slopes, other = (tensor[: rows.stop - rows.start] for tensor in spare)
            torch.sub(scaled[rows], grid.centres, out=offsets)
            self._sum_powers_(torch.abs(offsets, out=slopes), other, self.order - 1)
            torch.sum(slopes.mul_(offsets.sign_()).mul_(grad[rows]), -2, out=by_x[rows])
        return (by_x.mul_(-self.order * grid.scale),)

    def _sum_powers_(self, distance: Tensor, spare: Tensor, order: int) -> None:
        """The weighted sum of powers of `distance`, in place; `spare` is room for one of them."""
        (_, first), *others = self._powers()
        powers = []
        for number, (factor, reach) in enumerate(others):
            room = spare if number == 0 else torch.empty_like(spare)
            powers.append((factor, _power(distance, reach, order, room)))
        _power(distance, first, order, distance)
        for factor, power in powers:
            distance.add_(power, alpha=factor)
        if order % 2:
            distance.neg_()  # the powers are those of distance - reach

    def _pull_back_recursion(self, x: Tensor, grad: Tensor) -> Tensor:
        _, below = self._recursion(x)
        if below is None:
            return torch.zeros_like(x)
        knots = self.knots.to(x.dtype).t()
        rates = below * (self.order / (knots[self.order :] - knots[: -self.order]))
        return (rates[:, :-1] - rates[:, 1:]).mul_(grad).sum(-2)


def _scaled(x: Tensor, grid: EvenGrid) -> Tensor:
    """Scaled places of the inputs, ``(*, 1, features)``."""
    return ((x - grid.start) * grid.scale).unsqueeze(-2)


def _spare(count: int, x: Tensor, basis: Basis) -> list[Tensor]:
    """Room for the values of the largest chunk, so many times."""
    rows = max((chunk.stop - chunk.start for chunk in basis._chunks(x)), default=0)
    return [x.new_empty(rows, basis.num, basis.features) for _ in range(count)]


def _power(distance: Tensor, reach: float, exponent: int, out: Tensor) -> Tensor:
    """``min(0, distance - reach) ** exponent`` with 0 ** 0 = 0; torch's own power is slow from the fourth on."""
    torch.sub(distance, reach, out=out).clamp_(max=0)
    if exponent == 0:
        return out.sign_().abs_()
    if exponent <= 3:
        return out.pow_(exponent)
    factor = out.clone()
    for _ in range(exponent - 1):
        out.mul_(factor)
    return out


# --- For compilers ----------------------------------------------------------------------------------------------------
# A compiler cannot see whether knots are even, and what it makes of the recursion is slower than the closed form: 1.1
# times forward, 1.5 to 2.5 times with backward. So it gets one operator, which looks at the knots when it runs.


def _on(knots: Tensor, order: int) -> Spline:
    """Splines on these very knots."""
    basis = Spline.__new__(Spline)
    Basis.__init__(basis, len(knots))
    basis.order, basis.knots = order, knots
    return basis


@torch.library.custom_op("zoo::spline_values", mutates_args=())
def spline_values(x: Tensor, knots: Tensor, order: int) -> Tensor:
    """The splines of every feature: ``(*, features) -> (*, num, features)``."""
    basis = _on(knots, order)
    values = x.new_empty(x.shape[:-1].numel(), basis.num, basis.features)
    basis.fill(x.reshape(-1, basis.features), values)
    return values.reshape(*x.shape[:-1], *values.shape[1:])


@spline_values.register_fake
def _(x: Tensor, knots: Tensor, order: int) -> Tensor:
    return x.new_empty(*x.shape[:-1], knots.shape[1] - 1 - order, knots.shape[0])


@torch.library.custom_op("zoo::spline_pull_back", mutates_args=())
def spline_pull_back(x: Tensor, grad: Tensor, knots: Tensor, order: int) -> Tensor:
    """The gradient of ``(spline_values(x, knots, order) * grad).sum()`` by `x`."""
    (by_x,) = _on(knots, order).pull_back(x.reshape(-1, x.shape[-1]), grad.reshape(-1, *grad.shape[-2:]))
    return by_x.reshape(x.shape)


@spline_pull_back.register_fake
def _(x: Tensor, grad: Tensor, knots: Tensor, order: int) -> Tensor:
    return x.new_empty(x.shape)


def _save(ctx, inputs: tuple[Tensor, Tensor, int], output: Tensor) -> None:
    x, knots, ctx.order = inputs
    ctx.save_for_backward(x, knots)


def _pull_back(ctx, grad: Tensor) -> tuple[Tensor, None, None]:
    x, knots = ctx.saved_tensors
    return spline_pull_back(x, grad, knots, ctx.order), None, None


spline_values.register_autograd(_pull_back, setup_context=_save)
