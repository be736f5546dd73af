"""Convolutions, each with its published initialisation."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.blocks.kernels import depthwise
from zoo.blocks.linear import init_


class Conv2d(nn.Conv2d):
    """`torch.nn.Conv2d` that is initialised once, by a named scheme, and again by `reset_parameters()`.

    The other arguments are those of `torch.nn.Conv2d`.

    Args:
        init: A scheme of `zoo.blocks.linear.INITS`.

    Shape: ``(B, in_channels, H, W) -> (B, out_channels, H', W')``.
    Cost: out_channels x in_channels / groups x kernel area MACs an output position.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size, *args, init: str = "trunc_normal", **kwargs):
        self.init = init  # before super(): its constructor calls reset_parameters()
        super().__init__(in_channels, out_channels, kernel_size, *args, **kwargs)

    def reset_parameters(self) -> None:
        init_(self.weight, self.bias, self.init)


def conv_nhwc(conv: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """A convolution of ``(B, H, W, C)``: seen as ``(B, C, H, W)`` it is channels_last memory, so nothing is copied."""
    return conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class DepthwiseConv2d(Conv2d):
    """A depthwise convolution of stride 1 that keeps the size of the image: zeros outside, an odd kernel.

    In the layout of torch, like every convolution; `conv_nhwc` calls it on ``(B, H, W, C)`` without a copy.

    Args:
        channels: Number of channels.
        kernel_size: Side of the kernel, odd.
        dilation: Distance of neighbouring taps.
        bias: Whether there is a bias.
        init: A scheme of `zoo.blocks.linear.INITS`.

    Shape: ``(B, channels, H, W) -> (B, channels, H, W)``.
    Cost: kernel area MACs an element.
    Raises: ValueError for an even or non-positive kernel size.
    """

    def __init__(
        self,
        channels: int,
        kernel_size: int,
        *,
        dilation: int = 1,
        bias: bool = True,
        init: str = "trunc_normal",
        device=None,
        dtype=None,
    ):
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise ValueError(
                f"depthwise convolution has kernel_size {kernel_size}; it must be odd and positive, so that the kernel "
                "has a centre"
            )
        super().__init__(
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

    def forward(self, x: Tensor) -> Tensor:
        return depthwise_nhwc(x.permute(0, 2, 3, 1), self.weight, self.bias, self.dilation[0]).permute(0, 3, 1, 2)


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
