"""FasterKAN as a channel mixer: two layers of bumps made of the hyperbolic tangent, a norm before each."""

from functools import partial

from torch import Tensor, nn

from zoo.blocks.init import init_
from zoo.blocks.kan.bases.sech import SechSquared
from zoo.blocks.kan.linear import KANLinear
from zoo.blocks.kan.two_layers import TwoLayers
from zoo.blocks.options import pop_options_of, with_options_of
from zoo.checks.ranges import Width
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

    @with_options_of(SechSquared, TwoLayers, without=["norm"])
    def __init__(self, dim: Width, *, device=None, dtype=None, **options):
        layer = partial(FasterLinear, basis="sech2", **pop_options_of(SechSquared, options))
        dd = {"device": device, "dtype": dtype}
        super().__init__(dim, layer, norm="layernorm(eps=1e-5)", **dd, **options)
        self.norm1 = nn.LayerNorm(dim, **dd)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.norm1(x))
