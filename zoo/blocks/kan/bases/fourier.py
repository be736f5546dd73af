"""Cosines and sines: a Fourier series of one number."""

import torch
from torch import Tensor

from zoo.blocks.kan.bases.base import Basis
from zoo.checks.ranges import Frequencies, Width
from zoo.slots.table import register


@register("basis", "fourier")
class Fourier(Basis):
    """``cos(x) … cos(num_frequencies x)``, then ``sin(x) … sin(num_frequencies x)``.

    They have the period 2 pi wherever x is; a number so large that its precision is worse than that has some phase.

    Args:
        num_frequencies: Number of frequencies, each with a cosine and a sine.

    Shape: ``(*, features) -> (*, 2 num_frequencies, features)``.

    Example:
        >>> Fourier(1, num_frequencies=2).values(torch.zeros(1, 1)).flatten()
        tensor([1., 1., 0., 0.])

    Source: GistNoesis/FourierKAN, fftKAN.py.
    Differs: the frequencies above the first are made from it by the angle-addition formulas.
    Cost: 4 x (num_frequencies - 1) MACs a number.
    Raises: ValueError for no frequency.
    """

    base = "none"

    def __init__(self, features: Width, *, num_frequencies: Frequencies = 5, device=None, dtype=None):
        super().__init__(features)
        self.num_frequencies = num_frequencies
        self.num, self.macs = 2 * num_frequencies, 4 * (num_frequencies - 1)

    def values(self, x: Tensor) -> Tensor:
        cos, sin = [x.cos()], [x.sin()]
        for _ in range(self.num_frequencies - 1):
            a, b = cos[-1], sin[-1]
            cos.append(a * cos[0] - b * sin[0])
            sin.append(b * cos[0] + a * sin[0])
        return torch.stack(cos + sin, -2)

    def fill(self, x: Tensor, out: Tensor) -> None:
        for rows, room in self._rooms(x, out):
            self._waves(x[rows], room)

    def _waves(self, x: Tensor, out: Tensor) -> Tensor:
        """Write the functions of some rows into ``(n, 2, num_frequencies, features)``, seen flat."""
        waves = out.unflatten(1, (2, -1))
        cos, sin = (waves[:, i].unbind(1) for i in (0, 1))
        torch.cos(x, out=cos[0])
        torch.sin(x, out=sin[0])
        for k in range(1, self.num_frequencies):
            torch.mul(cos[k - 1], cos[0], out=cos[k]).addcmul_(sin[k - 1], sin[0], value=-1)
            torch.mul(sin[k - 1], cos[0], out=sin[k]).addcmul_(cos[k - 1], sin[0])
        return waves

    def pull_back(self, x: Tensor, grad: Tensor) -> tuple[Tensor, ...]:
        by_x = torch.empty_like(x)
        rates = torch.arange(1, self.num_frequencies + 1, device=x.device, dtype=x.dtype)[:, None]
        for rows in self._chunks(x):
            part = x[rows]
            waves = self._waves(part, x.new_empty(len(part), self.num, self.features))
            by_cos, by_sin = grad[rows].to(x.dtype).unflatten(1, (2, -1)).unbind(1)
            slopes = torch.mul(waves[:, 0], by_sin).addcmul_(waves[:, 1], by_cos, value=-1)
            torch.sum(slopes.mul_(rates), 1, out=by_x[rows])
        return (by_x,)
