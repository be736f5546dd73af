"""A strided convolution of few weights, past the blocks of a stage: Strip-MLP's."""

import math

from torch import Tensor, fx, nn

from zoo.blocks.conv import Conv2d, conv_nhwc, whole_squares
from zoo.blocks.options import with_options_of
from zoo.checks.ranges import Side, Width
from zoo.slots.table import register

fx.wrap("whole_squares")


@register("shortcut", "conv")
class ConvShortcut(nn.Module):
    """Each square of positions, channel by channel, as the channels of the next stage.

    Where the new width is no multiple of the old one, as few channels as divide both are mixed.

    Args:
        stride: Side of a square; by default the model's downsampling has it.
        init: A scheme of `zoo.blocks.init`.

    Shape: ``(B, H, W, in_dim) -> (B, ceil(H / stride), ceil(W / stride), dim)``.

    Example:
        >>> import torch
        >>> ConvShortcut(8, 16)(torch.randn(2, 5, 4, 8)).shape
        torch.Size([2, 3, 2, 16])

    Source: Cao et al., "Strip-MLP" (arXiv 2307.11458); Med-Process/Strip_MLP, models/strip_mlp.py, conv_s1_28.
    Differs: grids that are no whole number of squares are filled with zeros; the official code refuses them.
    Cost: stride x stride x dim MACs a position of the result, where dim is a multiple of in_dim.
    """

    follows = ("init", "stride")

    @with_options_of(Conv2d)
    def __init__(self, in_dim: Width, dim: Width, *, stride: Side = 2, **options):
        super().__init__()
        self.stride = stride
        groups = math.gcd(in_dim, dim)
        self.conv = Conv2d(in_dim, dim, stride, stride, groups=groups, bias=False, **options)

    def grid(self, size: tuple[int, int]) -> tuple[int, int]:
        """The grid that it makes of a grid."""
        return -(-size[0] // self.stride), -(-size[1] // self.stride)

    def forward(self, x: Tensor) -> Tensor:
        return conv_nhwc(self.conv, whole_squares(x, self.stride))
