"""One bump, moved to centres on a range: what Gaussians and those of the hyperbolic tangent have in common."""

import torch
from torch import Tensor

from zoo.blocks.kan.bases.base import Spaced
from zoo.blocks.options import with_options_of
from zoo.checks.ranges import Spread, Width


class Bumps(Spaced):
    """The same bump on centres that are evenly spaced over a range with both its ends. A basis writes `values`.

    Args:
        num: Number of bumps.
        grid_range: The first and the last centre.
        width: Width of the bumps; by default the distance of two centres.

    Shape: ``(*, features) -> (*, num, features)``.
    Raises: ValueError for ends in the wrong order.
    """

    @with_options_of(Spaced)
    def __init__(self, features: Width, *, width: Spread | None = None, **options):
        super().__init__(features, **options)
        self.macs, (low, high) = self.num, self.grid_range
        self.width = (high - low) / (self.num - 1) if width is None else float(width)

    def offsets(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        """Distances of the numbers from the centres, in widths.

        Shape: ``(*, features) -> (*, num, features)``.
        """
        centres = torch.linspace(*self.grid_range, self.num, device=x.device, dtype=x.dtype)
        return torch.sub(x.unsqueeze(-2), centres[:, None], out=out).mul_(1 / self.width)
