"""Gaussians on fixed centres: radial basis functions of one number."""

import torch
from torch import Tensor

from zoo.blocks.kan.bases.bumps import Bumps
from zoo.slots.table import register

FAR = 40.0  # exp(-FAR^2) is zero in every precision


@register("basis", "rbf")
class Gaussian(Bumps):
    """Gaussian bumps ``exp(-((x - centre) / width)^2)``, the centres evenly spaced over a range with both its ends.

    Far outside of the range all are zero, and it is the base term of a layer that acts there.

    Args:
        num: Number of bumps.
        grid_range: The first and the last centre.
        width: Width of the bumps; by default the distance of two centres.

    Shape: ``(*, features) -> (*, num, features)``.

    Example:
        >>> Gaussian(1, num=3, grid_range=(-1, 1)).values(torch.zeros(1, 1)).flatten()
        tensor([0.3679, 1.0000, 0.3679])

    Source: Li, "Kolmogorov-Arnold Networks are Radial Basis Function Networks" (arXiv 2405.06721); ZiyaoLi/fast-kan,
        fastkan/fastkan.py.
    Differs: the layer norm that the official layer has before the bumps belongs to the caller, a mixer for example.
    Cost: num MACs a number.
    Raises: ValueError for fewer than 2 bumps, ends in the wrong order or a width that is not positive.
    """

    title = "rbf"

    def values(self, x: Tensor) -> Tensor:
        # Squared, a distance may be infinite; as a factor in a second derivative that would be a NaN.
        return self.offsets(x).clamp(-FAR, FAR).square().neg().exp()

    def fill(self, x: Tensor, out: Tensor) -> None:
        for rows, room in self._rooms(x, out):
            self.offsets(x[rows], room).square_().neg_().exp_()

    def pull_back(self, x: Tensor, grad: Tensor) -> tuple[Tensor, ...]:
        by_x = torch.empty_like(x)
        for rows in self._chunks(x):
            offsets = self.offsets(x[rows])
            bumps = offsets.square().neg_().exp_()
            torch.sum(bumps.mul_(offsets).mul_(grad[rows]), -2, out=by_x[rows])
        return (by_x.mul_(-2 / self.width),)
