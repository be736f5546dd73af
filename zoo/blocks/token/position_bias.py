"""Relative position biases of attention within windows: Swin's table, and SwinV2's network over log-spaced offsets."""

import math

import torch
from torch import Tensor, nn

from zoo.blocks.linear import Linear
from zoo.blocks.options import with_options_of


def relative_index(window: tuple[int, int], device=None) -> Tensor:
    """For each pair of a window's positions, query by query, the row of a table over all offsets that is theirs.

    Shape: ``(N * N,)`` for N positions; rows are counted from 0 to ``(2 h - 1) (2 w - 1) - 1``.

    Example:
        >>> relative_index((1, 2))
        tensor([1, 0, 2, 1])
    """
    if device is not None and torch.device(device).type == "meta":  # the shape alone, without slow arithmetic on it
        return torch.empty((window[0] * window[1]) ** 2, dtype=torch.long, device=device)
    offsets = [torch.arange(size, device=device) for size in window]
    rows, columns = (o[:, None] - o + size - 1 for o, size in zip(offsets, window, strict=True))
    return (rows[:, None, :, None] * (2 * window[1] - 1) + columns[:, None]).flatten()


def log_offsets(window: tuple[int, int], pretrained: tuple[int, int] | None = None, device=None) -> Tensor:
    """All offsets between a window's positions, from -8 to 8 across it, on a logarithmic scale that keeps the sign.

    Args:
        window: Height and width.
        pretrained: The window that the network over these offsets was trained with, whose width then is 8.
        device: Where to make them.

    Shape: ``((2 h - 1) (2 w - 1), 2)``, in the order that `relative_index` counts.

    Source: Liu et al., "Swin Transformer V2" (arXiv 2111.09883), equation 4; its code divides by ``log2(8)``.
    """
    axes = [
        torch.arange(1 - size, size, dtype=torch.float32, device=device) / max(scale - 1, 1) * 8
        for size, scale in zip(window, pretrained or window, strict=True)
    ]
    offsets = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).flatten(0, 1)
    return offsets.sign() * torch.log2(offsets.abs() + 1) / math.log2(8)


class OffsetMlp(nn.Sequential):
    """SwinV2's network from log-spaced offsets to a bias a head between 0 and 16: ``16 sigmoid(W2 relu(W1 x + b))``.

    It sees each offset once, and what comes of it is then looked up for all pairs of positions.

    Args:
        bounded: Bring the biases between 0 and 16; if not, they are ``W2 relu(W1 x + b)``.
        init: A scheme of `zoo.blocks.init`.

    Shape: ``(offsets, 2) -> (offsets, heads)``.
    Source: Liu et al., "Swin Transformer V2" (arXiv 2111.09883), section 3.3; without bounds in
        microsoft/Swin-Transformer, models/swin_transformer_moe.py.
    Cost: 512 x (2 + heads) MACs an offset.
    """

    @with_options_of(Linear)
    def __init__(self, heads: int, *, bounded: bool = True, **options):
        super().__init__(Linear(2, 512, **options), nn.ReLU(), Linear(512, heads, bias=False, **options))
        self[0].no_decay = self[2].no_decay = ("weight",)
        self.bounded = bounded

    def forward(self, offsets: Tensor) -> Tensor:
        biases = super().forward(offsets)
        return 16 * biases.sigmoid() if self.bounded else biases
