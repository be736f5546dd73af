"""One bump, moved to centres on a range: what Gaussians and those of the hyperbolic tangent have in common."""

import torch
from torch import Tensor

from zoo.blocks.kan.bases.base import Basis, range_ends
from zoo.checks.ranges import Functions, GridRange, Spread, Width


class Bumps(Basis):
    """The same bump on centres that are evenly spaced over a range with both its ends. A basis writes `values`.

    Args:
        num: Number of bumps.
        grid_range: The first and the last centre.
        width: Width of the bumps; by default the distance of two centres.

    Attributes:
        title: What errors call the basis.

    Shape: ``(*, features) -> (*, num, features)``.
    Raises: ValueError for ends in the wrong order.
    """

    title: str

    def __init__(
        self,
        features: Width,
        *,
        num: Functions = 8,
        grid_range: GridRange = (-2.0, 2.0),
        width: Spread | None = None,
        device=None,
        dtype=None,
    ):
        super().__init__(features)
        self.num, self.macs, self.grid_range = num, num, range_ends(self.title, grid_range)
        low, high = self.grid_range
        self.width = (high - low) / (num - 1) if width is None else float(width)

    def offsets(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        """Distances of the numbers from the centres, in widths.

        Shape: ``(*, features) -> (*, num, features)``.
        """
        centres = torch.linspace(*self.grid_range, self.num, device=x.device, dtype=x.dtype)
        return torch.sub(x.unsqueeze(-2), centres[:, None], out=out).mul_(1 / self.width)
