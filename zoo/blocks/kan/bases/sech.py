"""Bumps made of the hyperbolic tangent, on fixed centres."""

import torch
from torch import Tensor

from zoo.blocks.kan.bases.bumps import Bumps
from zoo.blocks.options import with_options_of
from zoo.checks.ranges import Spread, Width
from zoo.slots.table import register


@register("basis", "sech2")
class SechSquared(Bumps):
    """Bumps ``1 - tanh^2((x - centre) / width)``, the centres evenly spaced over a range with both its ends.

    They look like Gaussians and have longer tails. Far outside of the range all are zero.

    Args:
        num: Number of bumps.
        grid_range: The first and the last centre.
        width: Width of the bumps.

    Shape: ``(*, features) -> (*, num, features)``.

    Example:
        >>> SechSquared(1, num=3, grid_range=(-1, 1), width=1).values(torch.zeros(1, 1)).flatten()
        tensor([0.4200, 1.0000, 0.4200])

    Source: the reflectional switch function of FasterKAN, as in DLYuanGod/MLP-KAN, fasterkan.py.
    Differs: the layer norm that the official layer has before the bumps belongs to the caller. There is no base term by
        default, as there.
    Cost: num MACs a number.
    Raises: ValueError for fewer than 2 bumps, ends in the wrong order or a width that is not positive.
    """

    base = "none"

    title = "sech2"

    @with_options_of(Bumps)
    def __init__(self, features: Width, *, width: Spread = 0.33, **options):
        super().__init__(features, width=width, **options)

    def _tanh(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        """The hyperbolic tangent of the distances from the centres, in widths."""
        return self.offsets(x, out).tanh_()

    def values(self, x: Tensor) -> Tensor:
        return 1 - self._tanh(x).square()

    def fill(self, x: Tensor, out: Tensor) -> None:
        for rows, room in self._rooms(x, out):
            self._tanh(x[rows], room).square_().neg_().add_(1)

    def pull_back(self, x: Tensor, grad: Tensor) -> tuple[Tensor, ...]:
        by_x = torch.empty_like(x)
        for rows in self._chunks(x):
            tanh = self._tanh(x[rows])
            slopes = tanh.square().sub_(1).mul_(tanh)  # that of 1 - tanh^2, by -2 / width
            torch.sum(slopes.mul_(grad[rows]), -2, out=by_x[rows])
        return (by_x.mul_(2 / self.width),)
