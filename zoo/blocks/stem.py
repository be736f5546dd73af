"""Convolutional stems: overlapping windows of the image instead of separate patches."""

import torch
from torch import Tensor, fx, nn

from zoo.blocks.conv import Conv2d
from zoo.blocks.images import check_batch, conv_grid
from zoo.blocks.kernels import guard
from zoo.blocks.linear import InitName
from zoo.blocks.register import register
from zoo.ranges import Channels, KernelSize, Padding, Side, Width
from zoo.slots import SlotLike, build_act, build_block

fx.wrap("check_batch")

HALVING = (3, 2, 1)  # kernel, stride and padding of a convolution that halves an image


@register("stem", "conv")
class ConvStem(nn.Module):
    """One strided convolution with overlapping windows, and a norm.

    Args:
        kernel_size, stride, padding: Of the convolution, in pixels.
        norm: A norm slot, applied to the result.
        init: A scheme of `zoo.blocks.linear.INITS`.

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

    def __init__(
        self,
        in_chans: Channels,
        dim: Width,
        *,
        kernel_size: KernelSize = 7,
        stride: Side = 4,
        padding: Padding = 2,
        norm: SlotLike = "none",
        init: InitName = "trunc_normal",
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


@register("stem", "double_conv")
class DoubleConvStem(nn.Module):
    """Two 3x3 convolutions of stride 2, each with a norm, an activation between them.

    Args:
        norm: The norm slot.
        act: The activation slot.
        init: A scheme of `zoo.blocks.linear.INITS`.

    Shape: ``(B, in_chans, H, W) -> (B, ceil(H / 4), ceil(W / 4), dim)``.

    Example:
        >>> DoubleConvStem(3, 8)(torch.randn(2, 3, 32, 30)).shape
        torch.Size([2, 8, 8, 8])

    Source: Ding et al., "UniRepLKNet" (arXiv 2311.15599); AILab-CVC/UniRepLKNet, unireplknet.py.
    Differs: none known.
    Cost: 9 x in_chans x dim / 2 MACs a position of the half grid, 9 x dim / 2 x dim one of the last.
    Raises: ValueError if the image has another number of channels.
    """

    stride = 4

    def __init__(
        self,
        in_chans: Channels,
        dim: Width,
        *,
        norm: SlotLike = "layernorm",
        act: SlotLike = "gelu",
        init: InitName = "trunc_normal",
        device=None,
        dtype=None,
    ):
        super().__init__()
        self.in_chans = in_chans
        dd = {"device": device, "dtype": dtype}
        middle = max(1, dim // 2)
        self.proj = Conv2d(in_chans, middle, *HALVING, init=init, **dd)
        self.norm1 = build_block("norm", norm, middle, **dd)
        self.act = build_act(act, **dd)
        self.conv = Conv2d(middle, dim, *HALVING, init=init, **dd)
        self.norm2 = build_block("norm", norm, dim, **dd)

    def grid(self, img_size: tuple[int, int]) -> tuple[int, int]:
        """Number of positions down and across."""
        return conv_grid(conv_grid(img_size, *HALVING), *HALVING)

    def forward(self, x: Tensor) -> Tensor:
        check_batch(x, self.in_chans, HALVING, HALVING)
        x = self.act(self.norm1(conv_image(x, self.proj)))
        return self.norm2(self.conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))


def conv_image(x: Tensor, conv: nn.Module) -> Tensor:
    """A convolution of an image ``(B, C, H, W)``, in the layout ``(B, H', W', C')``.

    The few channels of the image are brought into channels_last order, so that the many of the result come in it; a
    tensor that stands for several, as in `torch.func.vmap`, has no such order.
    """
    x = x if guard.transformed() else x.contiguous(memory_format=torch.channels_last)
    return conv(x).permute(0, 2, 3, 1)
