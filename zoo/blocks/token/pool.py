"""Average pooling as a token mixer: no parameters at all."""

from torch import Tensor, fx

from zoo.blocks.conv import as_image
from zoo.blocks.kernels.pooling import average
from zoo.blocks.mixer import Mixer
from zoo.checks.ranges import OddSide, Width
from zoo.slots.table import register


@register("token_mixer", "pool")
class Pool(Mixer):
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

    def __init__(self, dim: Width, *, size: OddSide = 3, subtract: bool = True, device=None, dtype=None):
        super().__init__()
        self.size, self.subtract = size, subtract

    def forward(self, x: Tensor) -> Tensor:
        return pool(x, self.size, self.subtract)

    def extra_repr(self) -> str:
        return f"size={self.size}, subtract={self.subtract}"


@fx.wrap
def pool(x: Tensor, size: int, subtract: bool) -> Tensor:
    """The mean of each position's neighbourhood, minus the position itself if `subtract`.

    Shape: ``(B, *S, C) -> (B, *S, C)``.
    """
    return average(as_image(x), (size if x.ndim == 4 else 1, size), subtract).reshape(x.shape)
