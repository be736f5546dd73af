"""Wavelets of trained width and place."""

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from zoo.blocks.kan.bases.base import Spaced
from zoo.blocks.options import placement, with_options_of
from zoo.checks.ranges import Width
from zoo.slots.table import register

FAR = 40.0  # exp(-FAR^2 / 2) is zero in every precision
HAT = 2 / math.sqrt(3 * math.sqrt(math.pi))  # makes the Mexican hat's square integrate to one


# The wavelet and its slope as functions of u and exp(-u^2 / 2), and the MACs: dilation, square and products.
WAVELETS: dict[str, tuple[Callable, Callable, int]] = {
    "mexican_hat": (
        lambda u, bell: (u.square() * -HAT + HAT) * bell,
        lambda u, bell: (u.square() * HAT - 3 * HAT) * u * bell,
        4,
    ),
    "morlet": (
        lambda u, bell: (5 * u).cos() * bell,
        lambda u, bell: ((5 * u).sin() * -5 - (5 * u).cos() * u) * bell,
        4,
    ),
    "dog": (
        lambda u, bell: -u * bell,
        lambda u, bell: (u.square() - 1) * bell,
        3,
    ),
}


@register("basis", "wavelet")
class Wavelet(Spaced):
    """One wavelet, dilated and moved: ``psi(rate * (x - translation))``, both trained for each function and feature.

    Far from its place each is zero, so that all are for large numbers.

    Args:
        num: Number of functions.
        kind: ``mexican_hat``, ``morlet`` (real part, frequency 5) or ``dog``, the derivative of a Gaussian.
        grid_range: The functions start evenly spaced over this range, both ends in it, as wide as their distance.

    Shape: ``(*, features) -> (*, num, features)``.

    Example:
        >>> Wavelet(1, num=3, grid_range=(-1, 1)).values(torch.zeros(1, 1)).flatten().detach()
        tensor([0.0000, 0.8673, 0.0000])

    Source: Bozorgasl, Chen, "Wav-KAN" (arXiv 2405.12832); zavareh1/Wav-KAN, KAN.py.
    Differs: scale and translation belong to a feature and function, not to every edge, so that the layer stays one
        matrix product; an edge has a factor for each of `num` such functions instead of for one of its own. The
        parameter is the rate, one over the scale, and nothing divides by it. The Mexican hat is positive in the middle;
        the official one is its negative. Batch norm is left to the caller, and the official base weight, which its
        forward does not use, is left out.
    Cost: 4 x num MACs a number, 3 x num for ``dog``.
    Raises: ValueError for an unknown wavelet, fewer than 2 functions or ends in the wrong order.
    """

    base = "none"
    title = "wavelet"
    no_decay = ("rate", "translation")

    @with_options_of(Spaced)
    def __init__(self, features: Width, *, kind: Literal[tuple(WAVELETS)] = "mexican_hat", **options):
        super().__init__(features, **options)
        self.kind, self.macs = kind, WAVELETS[kind][2] * self.num
        self.rate = nn.Parameter(torch.empty(self.num, features, **placement(options)))
        self.translation = nn.Parameter(torch.empty(self.num, features, **placement(options)))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Spread the functions over the range."""
        low, high = self.grid_range
        with torch.no_grad():
            self.rate.fill_((self.num - 1) / (high - low))
            self.translation.copy_(torch.linspace(low, high, self.num)[:, None].expand_as(self.translation))

    def values(self, x: Tensor) -> Tensor:
        u = ((x.unsqueeze(-2) - self.translation) * self.rate).clamp(-FAR, FAR)
        return WAVELETS[self.kind][0](u, u.square().mul(-0.5).exp())

    def fill(self, x: Tensor, out: Tensor) -> None:
        wavelet, _, _ = WAVELETS[self.kind]
        rate, translation = (p.to(x.dtype) for p in (self.rate, self.translation))
        for rows in self._chunks(x):
            u = (x[rows].unsqueeze(-2) - translation).mul_(rate).clamp_(-FAR, FAR)
            out[rows] = wavelet(u, u.square().mul_(-0.5).exp_())

    def pull_back(self, x: Tensor, grad: Tensor) -> tuple[Tensor, ...]:
        _, slope, _ = WAVELETS[self.kind]
        rate, translation = (p.detach().to(x.dtype) for p in (self.rate, self.translation))
        by_x, by_rate, by_place = torch.empty_like(x), torch.zeros_like(rate), torch.zeros_like(rate)
        for rows in self._chunks(x):
            offsets = x[rows].unsqueeze(-2) - translation
            u = (offsets * rate).clamp_(-FAR, FAR)
            slopes = slope(u, u.square().mul_(-0.5).exp_()).mul_(grad[rows])
            by_rate += offsets.mul_(slopes).sum(0)
            by_place -= slopes.mul_(rate).sum(0)
            torch.sum(slopes, -2, out=by_x[rows])
        return by_x, by_rate.to(self.rate.dtype), by_place.to(self.rate.dtype)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, kind={self.kind!r}"
