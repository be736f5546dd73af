"""Rational functions: powers over a trained denominator that has no zero."""

import math

import torch
from torch import Tensor, nn

from zoo.blocks.kan.bases.base import Basis
from zoo.blocks.options import with_options_of
from zoo.checks.ranges import Degree, Spread, Width
from zoo.slots.table import register


@register("basis", "rational")
class Rational(Basis):
    """``x^i / Q(x)``, i = 0 … m, with ``Q(x) = 1 + |b_1| |x| + … + |b_n| |x|^n`` trained for each feature.

    The numerator of an edge is its weights, and its denominator is that of its input. Q is at least one whatever b is.
    It starts as ``1 + |x|^n``, so that the functions are of size one for numbers of any size, but for powers above n.

    Training may make Q small, and then the powers grow without bound. So all functions are constant beyond `limit`:
    there they are what they are at ``-limit`` and ``limit``.

    Args:
        degrees: (m, n): degrees of numerator and denominator.
        limit: End of the range in which the functions change.

    Shape: ``(*, features) -> (*, m + 1, features)``.

    Example:
        >>> Rational(1, degrees=(2, 2)).values(torch.full((1, 1), 3.0)).flatten().detach()
        tensor([0.1000, 0.3000, 0.9000])

    Source: Yang, Wang, "Kolmogorov-Arnold Transformer" (arXiv 2409.10594), section 4, for the form of the denominator
        and its gradients; Adamdad/rational_kat_cu.
    Differs: there a rational function is an activation of a group of channels before a linear map; here each edge has
        one. |b| has the derivative 1 at b = 0, as there, so that a coefficient that is zero can be trained.
    Cost: m + n MACs a number.
    Raises: ValueError for degrees below 1, or a limit that is not positive or whose powers are too large.
    """

    base = "none"
    no_decay = ("denominator",)

    @with_options_of(Basis)
    def __init__(self, features: Width, *, degrees: tuple[Degree, Degree] = (5, 4), limit: Spread = 8.0, **dd):
        super().__init__(features, **dd)
        m, n = degrees
        if max(m, n) * math.log10(limit) > 30:
            raise ValueError(f"rational has limit={limit}; to the power {max(m, n)} it must be below 1e30")
        self.degrees, self.limit = (m, n), float(limit)
        self.num, self.macs = m + 1, m + n
        self.denominator = nn.Parameter(torch.empty(n, features, **dd))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Start from ``Q = 1 + |x|^n``."""
        with torch.no_grad():
            self.denominator.zero_()[-1] = 1

    def values(self, x: Tensor) -> Tensor:
        x = x.clamp(-self.limit, self.limit)
        size, b = _absolute(x), _absolute(self.denominator)
        *lower, last = b.unbind(0)  # not of a slice: torch.export.save writes no unbind of nothing that can be read
        q = size * last
        for row in reversed(lower):
            q = (q + row) * size
        powers = [1 / (q + 1)]
        for _ in range(self.degrees[0]):
            powers.append(powers[-1] * x)
        return torch.stack(powers, -2)

    def fill(self, x: Tensor, out: Tensor) -> None:
        b = _absolute(self.denominator.to(x.dtype))
        for rows, room in self._rooms(x, out):
            t, powers = x[rows].clamp(-self.limit, self.limit), room.unbind(1)
            size = t.abs()
            q = size * b[-1]
            for row in reversed(b[:-1].unbind(0)):
                q.add_(row).mul_(size)
            torch.reciprocal(q.add_(1), out=powers[0])
            for lower, power in zip(powers, powers[1:], strict=False):
                torch.mul(lower, t, out=power)

    def pull_back(self, x: Tensor, grad: Tensor) -> tuple[Tensor, ...]:
        by_x = torch.empty_like(x)
        b = _absolute(self.denominator.detach().to(x.dtype))
        by_b = torch.zeros_like(b)
        for rows in self._chunks(x):
            parts = grad[rows].to(x.dtype).unbind(1)
            t = x[rows].clamp(-self.limit, self.limit)
            size = t.abs()
            # Horner's rule for both polynomials, and for their slopes.
            p, p_slope = parts[-1].clone(), torch.zeros_like(t)
            for part in reversed(parts[:-1]):
                p_slope.mul_(t).add_(p)
                p.mul_(t).add_(part)
            q, q_slope = b[-1].expand_as(t).clone(), torch.zeros_like(t)
            for row in (*reversed(b[:-1].unbind(0)), torch.ones_like(b[0])):
                q_slope.mul_(size).add_(q)
                q.mul_(size).add_(row)
            share = p.div_(q)
            p_slope.addcmul_(share, q_slope.mul_(_sign(t)), value=-1).div_(q)
            torch.mul(p_slope, x[rows].abs() <= self.limit, out=by_x[rows])
            power = share.div_(q).neg_()
            for total in by_b:
                total += power.mul_(size).sum(0)
        return by_x, by_b.mul_(_sign(self.denominator.detach())).to(self.denominator.dtype)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, degrees={self.degrees}"


def _absolute(x: Tensor) -> Tensor:
    """The absolute value, with the derivative 1 at 0."""
    return torch.where(x < 0, -x, x)


def _sign(x: Tensor) -> Tensor:
    return torch.where(x < 0, -1.0, 1.0).to(x.dtype)
