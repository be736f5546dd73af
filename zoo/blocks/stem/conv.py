"""Convolutional stems: overlapping windows of the image instead of separate patches."""

from torch import Tensor, fx, nn

from zoo.blocks.conv import Conv2d
from zoo.blocks.images import check_batch, conv_grid
from zoo.blocks.init import InitLike
from zoo.blocks.kernels.images import conv_image
from zoo.checks.ranges import Channels, KernelSize, Padding, Side, Width
from zoo.slots import SlotLike, build_block
from zoo.slots.table import register

fx.wrap("check_batch")


@register("stem", "conv")
class ConvStem(nn.Module):
    """One strided convolution with overlapping windows, and a norm.

    Args:
        kernel_size, stride, padding: Of the convolution, in pixels.
        norm: A norm slot, applied to the result.
        init: A scheme of `zoo.blocks.init`.

    Shape: ``(B, in_chans, H, W) -> (B, H', W', dim)``, ``H' = (H + 2 padding - kernel_size) // stride + 1``.

    Example:
        >>> ConvStem(3, 8)(torch.randn(2, 3, 32, 30)).shape
        torch.Size([2, 8, 7, 8])

    Source: Yu et al., "MetaFormer Is Actually What You Need for Vision" (arXiv 2111.11418), section 3;
        sail-sg/metaformer, metaformer_baselines.py.
    Differs: none known.
    Cost: kernel_size x kernel_size x in_chans x dim MACs a position.
    Raises: ValueError if the image has another number of channels or is smaller than one window.
    """

    follows = ("init",)

    def __init__(
        self,
        in_chans: Channels,
        dim: Width,
        *,
        kernel_size: KernelSize = 7,
        stride: Side = 4,
        padding: Padding = 2,
        norm: SlotLike = "none",
        init: InitLike = "trunc_normal",
        device=None,
        dtype=None,
    ):
        super().__init__()
        self.in_chans, self.stride, self.geometry = in_chans, stride, (kernel_size, stride, padding)
        dd = {"device": device, "dtype": dtype}
        self.proj = Conv2d(in_chans, dim, kernel_size, stride, padding, init=init, **dd)
        self.norm = build_block("norm", norm, dim, **dd)

    def grid(self, img_size: tuple[int, int]) -> tuple[int, int]:
        """Number of positions down and across."""
        return conv_grid(img_size, *self.geometry)

    def forward(self, x: Tensor) -> Tensor:
        check_batch(x, self.in_chans, self.geometry)
        return self.norm(conv_image(x, self.proj))
