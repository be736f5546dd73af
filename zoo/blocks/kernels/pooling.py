"""Averages over each position's neighbours, and in bf16 on the CPU a form of them whose derivative is fast."""

import torch
from torch import Tensor
from torch.nn import functional as F

from zoo.blocks.kernels import guard
from zoo.blocks.kernels.depthwise import depthwise_nhwc

LEAST_ELEMENTS = 2**17  # below, the sums of `_by_sums` cost more than they save (Zen 4, one thread)


def average(x: Tensor, kernel: tuple[int, int], subtract: bool) -> Tensor:
    """The mean of each position's neighbours that exist, minus the position itself if `subtract`.

    Shape: ``(B, H, W, C) -> (B, H, W, C)``.
    """
    return (_by_sums if _sums_pay(x, kernel) else plain_average)(x, kernel, subtract)


def plain_average(x: Tensor, kernel: tuple[int, int], subtract: bool) -> Tensor:
    """`average` by torch's pooling."""
    # (B, H, W, C) seen as (B, C, H, W) is channels_last memory: neither permutation copies.
    padding = (kernel[0] // 2, kernel[1] // 2)
    y = F.avg_pool2d(x.permute(0, 3, 1, 2), kernel, stride=1, padding=padding, count_include_pad=False)
    y = y.permute(0, 2, 3, 1)
    return y - x if subtract else y


def _sums_pay(x: Tensor, kernel: tuple[int, int]) -> bool:
    """Whether `_by_sums` is the faster form: for its derivative in bf16 on the CPU.

    There torch's average pooling takes five times as long backward as forward (torch 2.15, Zen 4), and forward and
    backward together 1.5 to 2.7 times as long as this. Whoever traces or compiles sees a pooling, not a convolution.
    """
    return (
        guard.plain(x)
        and guard.differentiated(x)
        and x.device.type == "cpu"
        and x.dtype is torch.bfloat16
        and x.numel() >= LEAST_ELEMENTS
        and kernel[0] * kernel[1] <= 256  # bf16 has no odd numbers above
    )


def _by_sums(x: Tensor, kernel: tuple[int, int], subtract: bool) -> Tensor:
    """The same by a depthwise convolution with ones, which sums, and a division by the number of neighbours."""
    area = kernel[0] * kernel[1]
    weight = x.new_ones(x.shape[-1], 1, *kernel)
    neighbours = (_neighbours(x, 1, kernel[0])[:, None] * _neighbours(x, 2, kernel[1]))[:, :, None]
    if subtract:  # within the convolution, where nothing is rounded; at the borders that is too often
        weight[:, :, kernel[0] // 2, kernel[1] // 2] -= area
    y = depthwise_nhwc(x, weight)
    y = torch.addcmul(y, x, area - neighbours) if subtract else y
    return y / neighbours


def _neighbours(x: Tensor, dim: int, size: int) -> Tensor:
    """How many of the `size` positions around each one along a dimension exist."""
    length, reach = x.shape[dim], size // 2
    places = torch.arange(length)
    return ((places + reach + 1).clamp(max=length) - (places - reach).clamp(min=0)).to(x.dtype)
