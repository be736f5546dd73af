"""Downsampling between the stages of a hierarchical model: half the grid, more channels."""

from torch import Tensor, fx, nn

from zoo.blocks.conv import whole_squares
from zoo.blocks.linear import Linear, linear
from zoo.blocks.options import placement, with_options_of
from zoo.checks.ranges import Width
from zoo.slots import SlotLike, build_block
from zoo.slots.table import register


@register("downsample", "merge")
class PatchMerging(nn.Module):
    """Join each 2x2 positions into one vector and map it linearly. An odd grid is padded with zeros.

    Args:
        norm: A norm slot.
        norm_last: The norm comes after the map, on `dim` channels, not before it, on four times `in_dim`.
        init: A scheme of `zoo.blocks.init`.

    Shape: ``(B, H, W, in_dim) -> (B, ceil(H / 2), ceil(W / 2), dim)``.

    Example:
        >>> import torch
        >>> PatchMerging(8, 16)(torch.randn(2, 5, 4, 8)).shape
        torch.Size([2, 3, 2, 16])

    Source: Liu et al., "Swin Transformer" (arXiv 2103.14030), section 3.1; microsoft/Swin-Transformer.
    Differs: grids of odd size are padded, as in timm; the official code refuses them.
    Cost: 4 x in_dim x dim MACs a position of the result.
    """

    follows = ("init",)

    stride = 2

    @with_options_of(Linear)
    def __init__(self, in_dim: Width, dim: Width, *, norm: SlotLike = "layernorm", norm_last: bool = False, **options):
        super().__init__()
        self.norm_last = norm_last
        self.norm = build_block("norm", norm, dim if norm_last else 4 * in_dim, **placement(options))
        self.reduction = Linear(4 * in_dim, dim, False, **options)

    def grid(self, grid: tuple[int, int]) -> tuple[int, int]:
        """The grid that becomes of a grid."""
        return -(-grid[0] // 2), -(-grid[1] // 2)

    def forward(self, x: Tensor) -> Tensor:
        x = join_squares(x)
        return self.norm(linear(x, self.reduction)) if self.norm_last else linear(self.norm(x), self.reduction)


@fx.wrap
def join_squares(x: Tensor) -> Tensor:
    """Each 2x2 positions as one vector, ``(B, H, W, C) -> (B, ceil(H / 2), ceil(W / 2), 4 C)``."""
    x = whole_squares(x, 2)
    # The columns of a pair come before its rows in the joint vector, as in the published weights.
    return x.unflatten(1, (-1, 2)).unflatten(3, (-1, 2)).permute(0, 1, 3, 4, 2, 5).flatten(3)
