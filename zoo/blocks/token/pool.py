"""Average pooling as a token mixer: no parameters at all."""

from torch import Tensor, nn
from torch.nn import functional as F

from zoo.blocks.register import register


@register("token_mixer", "pool")
class Pool(nn.Module):
    """The mean of each position's neighbourhood, minus the position itself.

    Args:
        size: Side of the neighbourhood, odd. Positions outside the grid do not count.
        subtract: Take the position itself away, since the block's skip adds it again.

    Shape: ``(B, *S, dim) -> (B, *S, dim)``, one or two position dimensions of any size.

    Example:
        >>> import torch
        >>> Pool(4)(torch.ones(1, 5, 5, 4)).abs().max()  # a constant has no difference from its mean
        tensor(0.)

    Source: Yu et al., "MetaFormer Is Actually What You Need for Vision" (arXiv 2111.11418), equation 4;
        sail-sg/poolformer, models/poolformer.py.
    Differs: none known.
    Cost: no MACs by zoo's convention (no products).
    Raises: ValueError for an even or non-positive size.
    """

    spatial = frozenset({1, 2})

    def __init__(self, dim: int, *, size: int = 3, subtract: bool = True, device=None, dtype=None):
        super().__init__()
        if size < 1 or size % 2 == 0:
            raise ValueError(f"pool has size {size}; it must be odd and positive, so that a neighbourhood has a centre")
        self.size, self.subtract = size, subtract

    def forward(self, x: Tensor) -> Tensor:
        image = x if x.ndim == 4 else x[:, None]
        kernel = (self.size if x.ndim == 4 else 1, self.size)
        # (B, H, W, C) seen as (B, C, H, W) is channels_last memory: neither permutation copies.
        y = F.avg_pool2d(
            image.permute(0, 3, 1, 2),
            kernel,
            stride=1,
            padding=(kernel[0] // 2, kernel[1] // 2),
            count_include_pad=False,
        ).permute(0, 2, 3, 1)
        y = y if x.ndim == 4 else y[:, 0]
        return y - x if self.subtract else y

    def extra_repr(self) -> str:
        return f"size={self.size}, subtract={self.subtract}"
