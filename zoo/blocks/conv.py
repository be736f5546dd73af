"""Convolutions, each with its published initialisation."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from zoo.blocks.images import conv_grid
from zoo.blocks.init import InitLike
from zoo.blocks.kernels.depthwise import convolve, depthwise_nhwc
from zoo.blocks.linear import make_layer
from zoo.blocks.options import with_options_of
from zoo.checks.ranges import KernelSize, Padding, Side

__all__ = [
    "Conv2d",
    "DepthwiseConv2d",
    "Strided",
    "as_image",
    "batchnorm_affine",
    "conv_nhwc",
    "convolve",
    "depthwise_nhwc",
    "whole_squares",
]

fx.wrap("conv_grid")


@with_options_of(nn.Conv2d, without=["padding_mode"])
def Conv2d(*args, init: InitLike = "trunc_normal", device=None, dtype=None, **options) -> nn.Conv2d:
    """A `torch.nn.Conv2d`, of exactly that class, initialised as `zoo.blocks.linear.Linear` is.

    The other arguments are those of `torch.nn.Conv2d`.

    Args:
        init: As for `zoo.blocks.linear.Linear`.

    Shape: ``(B, in_channels, H, W) -> (B, out_channels, H', W')``.

    Example:
        >>> type(Conv2d(3, 8, 5, init="lecun")) is nn.Conv2d
        True

    Cost: out_channels x in_channels / groups x kernel area MACs an output position.
    """
    return make_layer(nn.Conv2d, init, *args, device=device, dtype=dtype, **options)


@with_options_of(Conv2d)
def DepthwiseConv2d(channels: int, kernel_size: int, *, dilation: int = 1, bias: bool = True, **options) -> nn.Conv2d:
    """A depthwise convolution of stride 1 that keeps the size of the image: zeros outside, an odd kernel.

    It is a `torch.nn.Conv2d`; the faster forms of it are taken by whoever calls it, with `convolve` or `conv_nhwc`.

    Args:
        channels: Number of channels.
        kernel_size: Side of the kernel, odd.
        dilation: Distance of neighbouring taps.
        bias: Whether there is a bias.
        init: As for `zoo.blocks.linear.Linear`.

    Shape: ``(B, channels, H, W) -> (B, channels, H, W)``.
    Cost: kernel area MACs an element.
    Raises: ValueError for an even or non-positive kernel size.
    """
    if kernel_size < 1 or kernel_size % 2 == 0:
        raise ValueError(
            f"depthwise convolution has kernel_size {kernel_size}; it must be odd and positive, so that the kernel "
            "has a centre"
        )
    padding = dilation * (kernel_size // 2)
    return Conv2d(channels, channels, kernel_size, 1, padding, dilation, channels, bias, **options)


class Strided(nn.Module):
    """What a stem and a downsampling of one convolution share: its geometry, and the grid that it makes of a grid.

    Args:
        kernel_size, stride, padding: Of the convolution.
    """

    def __init__(self, *, kernel_size: KernelSize = 3, stride: Side = 2, padding: Padding = 1):
        super().__init__()
        self.stride, self.geometry = stride, (kernel_size, stride, padding)

    def grid(self, size: tuple[int, int]) -> tuple[int, int]:
        """Number of positions down and across that become of an image, or a grid, of this size."""
        return conv_grid(size, *self.geometry)


def conv_nhwc(conv: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """A convolution of ``(B, H, W, C)``: seen as ``(B, C, H, W)`` it is channels_last memory, so nothing is copied."""
    return convolve(conv, x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


def as_image(x: Tensor) -> Tensor:
    """``(B, *S, C)`` of one or two position dimensions as ``(B, H, W, C)``: a sequence is an image of height 1.

    Files that call this wrap it by `torch.fx.wrap`: symbolic tracing does not know the number of dimensions.
    """
    return x if x.ndim == 4 else x[:, None]


def whole_squares(x: Tensor, side: int) -> Tensor:
    """``(B, H, W, C)`` with zeros behind both sides, so that they are multiples of a number.

    Files that call this wrap it, or what calls it, by `torch.fx.wrap`: symbolic tracing does not know the sizes.
    """
    height, width = x.shape[1:3]
    if height % side or width % side:
        x = F.pad(x, (0, 0, 0, -width % side, 0, -height % side))
    return x


def batchnorm_affine(norms: Sequence[nn.Module], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """What several batch norms of as many channels do with their running statistics: a factor and a shift a channel.

    Shape: each ``(number of norms, channels)``, computed in `dtype`.
    """
    weight, bias, mean = (
        torch.stack([getattr(bn, name) for bn in norms]).to(dtype) for name in ("weight", "bias", "running_mean")
    )
    scale = weight * torch.stack([bn.running_var.to(dtype) + bn.eps for bn in norms]).rsqrt()
    return scale, torch.addcmul(bias, mean, scale, value=-1)
