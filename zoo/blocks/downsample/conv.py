"""A strided convolution between two stages."""

from torch import Tensor

from zoo.blocks.conv import Conv2d, Strided, conv_nhwc
from zoo.blocks.options import placement, pop_options_of, with_options_of
from zoo.checks.ranges import Width
from zoo.slots import SlotLike, build_block
from zoo.slots.table import register


@register("downsample", "conv")
class ConvDownsample(Strided):
    """A strided convolution with a norm before or after it.

    Args:
        kernel_size, stride, padding: Of the convolution, in positions.
        norm: A norm slot.
        norm_last: The norm comes after the convolution, not before it.
        bias: A bias of the convolution.
        init: A scheme of `zoo.blocks.init`.

    Shape: ``(B, H, W, in_dim) -> (B, H', W', dim)``, ``H' = (H + 2 padding - kernel_size) // stride + 1``.

    Example:
        >>> import torch
        >>> ConvDownsample(8, 16)(torch.randn(2, 5, 4, 8)).shape
        torch.Size([2, 3, 2, 16])

    Source: Yu et al., "MetaFormer Baselines for Vision" (arXiv 2210.13452): norm, then 3x3; Ding et al., "UniRepLKNet"
        (arXiv 2311.15599): 3x3, then norm; Liu et al., "A ConvNet for the 2020s" (arXiv 2201.03545): norm, then 2x2.
    Differs: none known.
    Cost: kernel_size x kernel_size x in_dim x dim MACs a position of the result.
    Raises: ValueError if the grid is smaller than one window.
    """

    follows = ("init",)

    @with_options_of(Strided, Conv2d)
    def __init__(
        self,
        in_dim: Width,
        dim: Width,
        *,
        norm: SlotLike = "none",
        norm_last: bool = False,
        bias: bool = True,
        **options,
    ):
        super().__init__(**pop_options_of(Strided, options))
        self.norm_last = norm_last
        self.norm = build_block("norm", norm, dim if norm_last else in_dim, **placement(options))
        self.conv = Conv2d(in_dim, dim, *self.geometry, bias=bias, **options)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(conv_nhwc(self.conv, x)) if self.norm_last else conv_nhwc(self.conv, self.norm(x))
