"""Average pooling as a token mixer: no parameters at all."""

import torch
from torch import Tensor, fx
from torch.nn import functional as F

from zoo.blocks.conv import as_image, depthwise_nhwc
from zoo.blocks.kernels import guard
from zoo.blocks.mixer import Mixer
from zoo.checks.ranges import OddSide, Width
from zoo.slots.table import register

LEAST_ELEMENTS = 2**17  # below, the sums of `_pool_by_sums` cost more than they save (Zen 4, one thread)


@register("token_mixer", "pool")
class Pool(Mixer):
    """The mean of each position's neighbourhood, minus the position itself.

    Args:
        size: Side of the neighbourhood, odd. Positions outside the grid do not count.
        subtract: Take the position itself away, since the block's skip adds it again.

    Shape: ``(B, *S, dim) -> (B, *S, dim)``, one or two position dimensions of any size.

    Example:
        >>> Pool(4)(torch.ones(1, 5, 5, 4)).abs().max()  # a constant has no difference from its mean
        tensor(0.)

    Source: Yu et al., "MetaFormer Is Actually What You Need for Vision" (arXiv 2111.11418), equation 4;
        sail-sg/poolformer, models/poolformer.py.
    Differs: none known.
    Cost: no MACs by zoo's convention (no products).
    Raises: ValueError for an even or non-positive size.
    """

    def __init__(self, dim: Width, *, size: OddSide = 3, subtract: bool = True, device=None, dtype=None):
        super().__init__()
        self.size, self.subtract = size, subtract

    def forward(self, x: Tensor) -> Tensor:
        return pool(x, self.size, self.subtract)

    def extra_repr(self) -> str:
        return f"size={self.size}, subtract={self.subtract}"


@fx.wrap
def pool(x: Tensor, size: int, subtract: bool) -> Tensor:
    """The mean of each position's neighbourhood, minus the position itself if `subtract`, by the fastest form.

    Shape: ``(B, *S, C) -> (B, *S, C)``.
    """
    image, kernel = as_image(x), (size if x.ndim == 4 else 1, size)
    form = _pool_by_sums if _sums_pay(image, kernel) else _pool
    return form(image, kernel, subtract).reshape(x.shape)


def _pool(x: Tensor, kernel: tuple[int, int], subtract: bool) -> Tensor:
    # (B, H, W, C) seen as (B, C, H, W) is channels_last memory: neither permutation copies.
    padding = (kernel[0] // 2, kernel[1] // 2)
    y = F.avg_pool2d(x.permute(0, 3, 1, 2), kernel, stride=1, padding=padding, count_include_pad=False)
    y = y.permute(0, 2, 3, 1)
    return y - x if subtract else y


def _sums_pay(x: Tensor, kernel: tuple[int, int]) -> bool:
    """Whether `_pool_by_sums` is the faster form: for its derivative in bf16 on the CPU.

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


def _pool_by_sums(x: Tensor, kernel: tuple[int, int], subtract: bool) -> Tensor:
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
