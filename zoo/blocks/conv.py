"""Convolutions, each with its published initialisation."""

from torch import Tensor, nn
from torch.nn import functional as F

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


def conv_nhwc(conv: nn.Module, x: Tensor) -> Tensor:
    """A convolution of ``(B, H, W, C)``: seen as ``(B, C, H, W)`` it is channels_last memory, so nothing is copied."""
    return conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


def depthwise_nhwc(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """A depthwise convolution of ``(B, H, W, C)`` by an odd kernel ``(C, 1, k, k)``, zeros outside the image.

    Shape: ``(B, H, W, C) -> (B, H, W, C)``.
    Cost: kernel area MACs an element.
    """
    channels, _, height, width = weight.shape
    y = F.conv2d(x.permute(0, 3, 1, 2), weight, bias, padding=(height // 2, width // 2), groups=channels)
    return y.permute(0, 2, 3, 1)
