"""Chebyshev polynomials of a squashed number."""

import torch
from torch import Tensor

from zoo.blocks.kan.bases.base import Basis
from zoo.checks.ranges import Degree, Width
from zoo.slots.table import register


@register("basis", "chebyshev")
class Chebyshev(Basis):
    """The Chebyshev polynomials ``T_0 … T_degree`` of ``tanh(x)``.

    All lie in [-1, 1], and for large numbers of either sign each becomes constant.

    Args:
        degree: Degree of the last polynomial, at least 1.

    Shape: ``(*, features) -> (*, degree + 1, features)``.

    Example:
        >>> Chebyshev(1, degree=3).values(torch.full((1, 1), 20.0)).flatten()
        tensor([1., 1., 1., 1.])

    Source: SS et al., "Chebyshev Polynomial-Based Kolmogorov-Arnold Networks" (arXiv 2405.07200);
        SynodicMonth/ChebyKAN, ChebyKANLayer.py.
    Differs: by the recurrence T_(k+1) = 2 t T_k - T_(k-1). The official code takes cos(k arccos(t)), whose derivative
        is infinite or a NaN where tanh has become 1.
    Cost: degree - 1 MACs a number.
    Raises: ValueError for a degree below 1.
    """

    base = "none"

    def __init__(self, features: Width, *, degree: Degree = 4, device=None, dtype=None):
        super().__init__(features)
        self.degree, self.num, self.macs = degree, degree + 1, degree - 1

    def values(self, x: Tensor) -> Tensor:
        t = x.tanh()
        twice, polynomials = 2 * t, [torch.ones_like(t) + 0 * t, t]  # 0 * t: a NaN is one in every function
        for _ in range(self.degree - 1):
            polynomials.append(twice * polynomials[-1] - polynomials[-2])
        return torch.stack(polynomials, -2)

    def fill(self, x: Tensor, out: Tensor) -> None:
        for rows, room in self._rooms(x, out):
            polynomials = room.unbind(1)
            torch.tanh(x[rows], out=polynomials[1])
            torch.mul(polynomials[1], 0, out=polynomials[0]).add_(1)
            twice = 2 * polynomials[1]
            for before, now, after in zip(polynomials, polynomials[1:], polynomials[2:], strict=False):
                torch.mul(twice, now, out=after).sub_(before)

    def pull_back(self, x: Tensor, grad: Tensor) -> tuple[Tensor, ...]:
        """By Clenshaw's summation of the derivatives, ``T_k' = k U_(k-1)``."""
        by_x = torch.empty_like(x)
        for rows in self._chunks(x):
            t, parts = x[rows].tanh(), grad[rows].to(x.dtype).unbind(1)
            twice, total, before = 2 * t, self.degree * parts[-1], torch.zeros_like(t)
            for k in range(self.degree - 1, 0, -1):
                after = torch.addcmul(torch.mul(parts[k], k).sub_(before), twice, total)
                total, before = after, total
            torch.mul(total, 1 - t.square_(), out=by_x[rows])
        return (by_x,)
