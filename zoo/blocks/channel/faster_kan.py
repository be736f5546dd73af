"""FasterKAN as a channel mixer: two layers of bumps made of the hyperbolic tangent, a norm before each."""

from functools import partial

from torch import Tensor, nn

from zoo.blocks.channel.kan import TwoLayers
from zoo.blocks.init import init_
from zoo.blocks.kan.linear import KANLinear
from zoo.checks.ranges import Functions, GridRange, Rate, Ratio, Spread, Width
from zoo.slots.table import register


class FasterLinear(KANLinear):
    """A layer of `SechSquared` bumps without base term and bias, initialised as FasterKAN's."""

    def _draw(self) -> None:
        init_(self.weight.detach().flatten(1), None, "xavier")


@register("channel_mixer", "faster_kan")
class FasterKAN(TwoLayers):
    """Two Kolmogorov-Arnold layers with a layer norm before each, whose functions are sums of ``1 - tanh^2`` bumps.

    Args:
        num, grid_range, width: Of the bumps, see `zoo.blocks.kan.bases.sech.SechSquared`.
        ratio: Hidden width over `dim`.
        hidden: Hidden width itself, instead of `ratio`.
        drop: Dropout before and after the second layer.

    Shape: ``(*, dim) -> (*, dim)``.

    Example:
        >>> import torch
        >>> FasterKAN(8, hidden=4)(torch.randn(2, 3, 8)).shape
        torch.Size([2, 3, 8])

    Source: FasterKAN as in DLYuanGod/MLP-KAN, fasterkan.py.
    Differs: none known.
    Cost: 2 x dim x hidden x num + (dim + hidden) x num MACs a position.
    Raises: ValueError for a hidden width below 1, or what the basis refuses.
    """

    follows = ("drop",)

    def __init__(
        self,
        dim: Width,
        *,
        num: Functions = 8,
        grid_range: GridRange = (-2.0, 2.0),
        width: Spread = 0.33,
        ratio: Ratio = 0.5,
        hidden: Width | None = None,
        drop: Rate = 0.0,
        device=None,
        dtype=None,
    ):
        layer = partial(FasterLinear, basis="sech2", num=num, grid_range=grid_range, width=width)
        dd = {"device": device, "dtype": dtype}
        super().__init__(dim, layer, ratio=ratio, hidden=hidden, norm="layernorm(eps=1e-5)", drop=drop, **dd)
        self.norm1 = nn.LayerNorm(dim, **dd)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.norm1(x))
