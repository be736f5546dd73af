"""Convolutions, each with its published initialisation."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.blocks.init import Init
from zoo.blocks.kernels import depthwise, guard
from zoo.blocks.linear import is_bare, make_layer


def Conv2d(
    in_channels: int,
    out_channels: int,
    kernel_size: int | tuple[int, int],
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] = 0,
    *,
    dilation: int = 1,
    groups: int = 1,
    bias: bool = True,
    init: Init = "trunc_normal",
    device=None,
    dtype=None,
) -> nn.Conv2d:
    """A `torch.nn.Conv2d`, of exactly that class, initialised as `zoo.blocks.linear.Linear` is.

    The other arguments are those of `torch.nn.Conv2d`.

    Args:
        init: See `zoo.blocks.linear.init_`.

    Shape: ``(B, in_channels, H, W) -> (B, out_channels, H', W')``.

    Example:
        >>> type(Conv2d(3, 8, 5, init="lecun")) is nn.Conv2d
        True

    Cost: out_channels x in_channels / groups x kernel area MACs an output position.
    """
    options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups, "bias": bias}
    return make_layer(nn.Conv2d, init, in_channels, out_channels, kernel_size, **options, device=device, dtype=dtype)


def DepthwiseConv2d(
    channels: int,
    kernel_size: int,
    *,
    dilation: int = 1,
    bias: bool = True,
    init: Init = "trunc_normal",
    device=None,
    dtype=None,
) -> nn.Conv2d:
    """A depthwise convolution of stride 1 that keeps the size of the image: zeros outside, an odd kernel.

    It is a `torch.nn.Conv2d`; the faster forms of it are taken by whoever calls it, with `convolve` or `conv_nhwc`.

    Args:
        channels: Number of channels.
        kernel_size: Side of the kernel, odd.
        dilation: Distance of neighbouring taps.
        bias: Whether there is a bias.
        init: See `zoo.blocks.linear.init_`.

    Shape: ``(B, channels, H, W) -> (B, channels, H, W)``.
    Cost: kernel area MACs an element.
    Raises: ValueError for an even or non-positive kernel size.
    """
    if kernel_size < 1 or kernel_size % 2 == 0:
        raise ValueError(
            f"depthwise convolution has kernel_size {kernel_size}; it must be odd and positive, so that the kernel "
            "has a centre"
        )
    return Conv2d(
        channels,
        channels,
        kernel_size,
        padding=dilation * (kernel_size // 2),
        dilation=dilation,
        groups=channels,
        bias=bias,
        init=init,
        device=device,
        dtype=dtype,
    )


def conv_nhwc(conv: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """A convolution of ``(B, H, W, C)``: seen as ``(B, C, H, W)`` it is channels_last memory, so nothing is copied."""
    return convolve(conv, x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


def as_image(x: Tensor) -> Tensor:
    """``(B, *S, C)`` of one or two position dimensions as ``(B, H, W, C)``: a sequence is an image of height 1.

    Files that call this wrap it by `torch.fx.wrap`: symbolic tracing does not know the number of dimensions.
    """
    return x if x.ndim == 4 else x[:, None]


def convolve(conv: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """``conv(x)`` for ``(B, C, H, W)``; a depthwise convolution that keeps the size on the CPU in its faster forms."""
    if _keeps_size(conv, x):
        return depthwise_nhwc(x.permute(0, 2, 3, 1), conv.weight, conv.bias, conv.dilation[0]).permute(0, 3, 1, 2)
    return conv(x)


def _keeps_size(conv: Callable[[Tensor], Tensor], x: Tensor) -> bool:
    """Whether it is what `DepthwiseConv2d` makes, and nobody has to see its call."""
    return (
        is_bare(conv, nn.Conv2d)
        and conv.groups == conv.in_channels == conv.out_channels
        and conv.stride == (1, 1)
        and conv.dilation[0] == conv.dilation[1]
        and conv.padding == tuple(conv.dilation[0] * (side // 2) for side in conv.kernel_size)
        and all(side % 2 for side in conv.kernel_size)
        and conv.padding_mode == "zeros"
        and guard.plain(x, conv.weight)
    )


def depthwise_nhwc(x: Tensor, weight: Tensor, bias: Tensor | None = None, dilation: int = 1) -> Tensor:
    """A depthwise convolution of ``(B, H, W, C)`` by an odd kernel ``(C, 1, k, k)``, zeros outside the image.

    By torch's convolution in channels_last; on the CPU as `zoo.blocks.kernels.depthwise` asks it for it.

    Shape: ``(B, H, W, C) -> (B, H, W, C)``.
    Cost: kernel area MACs an element.
    """
    if x.device.type == "cpu" and torch.is_autocast_enabled("cpu"):  # what autocast would do to torch's convolution
        dtype = torch.get_autocast_dtype("cpu")
        x, weight, bias = (None if t is None else t.to(dtype) for t in (x, weight, bias))
    if depthwise.usable(x, weight):
        return depthwise.conv(x, weight, bias, dilation)
    padding = tuple(dilation * (k // 2) for k in weight.shape[2:])
    return F.conv2d(x.permute(0, 3, 1, 2), weight, bias, 1, padding, dilation, len(weight)).permute(0, 2, 3, 1)


def batchnorm_affine(norms: Sequence[nn.Module], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """What several batch norms of as many channels do with their running statistics: a factor and a shift a channel.

    Shape: each ``(number of norms, channels)``, computed in `dtype`.
    """
    weight, bias, mean = (
        torch.stack([getattr(bn, name) for bn in norms]).to(dtype) for name in ("weight", "bias", "running_mean")
    )
    scale = weight * torch.stack([bn.running_var.to(dtype) + bn.eps for bn in norms]).rsqrt()
    return scale, torch.addcmul(bias, mean, scale, value=-1)
