"""Convolutional stems: overlapping windows of the image instead of separate patches."""

from torch import Tensor, fx

from zoo.blocks.conv import Conv2d, Strided
from zoo.blocks.images import check_batch
from zoo.blocks.kernels.images import conv_image
from zoo.blocks.options import placement, pop_options_of, with_options_of
from zoo.checks.ranges import Channels, Width
from zoo.slots import SlotLike, build_block
from zoo.slots.table import register

fx.wrap("check_batch")


@register("stem", "conv")
class ConvStem(Strided):
    """One strided convolution with overlapping windows, and a norm.

    Args:
        kernel_size, stride, padding: Of the convolution, in pixels.
        norm: A norm slot, applied to the result.
        init: A scheme of `zoo.blocks.init`.

    Shape: ``(B, in_chans, H, W) -> (B, H', W', dim)``, ``H' = (H + 2 padding - kernel_size) // stride + 1``.

    Example:
        >>> import torch
        >>> ConvStem(3, 8)(torch.randn(2, 3, 32, 30)).shape
        torch.Size([2, 8, 7, 8])

    Source: Yu et al., "MetaFormer Is Actually What You Need for Vision" (arXiv 2111.11418), section 3;
        sail-sg/metaformer, metaformer_baselines.py.
    Differs: none known.
    Cost: kernel_size x kernel_size x in_chans x dim MACs a position.
    Raises: ValueError if the image has another number of channels or is smaller than one window.
    """

    follows = ("init",)

    @with_options_of(Strided, Conv2d, kernel_size=7, stride=4, padding=2)
    def __init__(self, in_chans: Channels, dim: Width, *, norm: SlotLike = "none", **options):
        super().__init__(**pop_options_of(Strided, options))
        self.in_chans = in_chans
        self.proj = Conv2d(in_chans, dim, *self.geometry, **options)
        self.norm = build_block("norm", norm, dim, **placement(options))

    def forward(self, x: Tensor) -> Tensor:
        check_batch(x, self.in_chans, self.geometry)
        return self.norm(conv_image(x, self.proj))
