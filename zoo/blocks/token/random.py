"""Random mixing: a fixed random matrix over the positions."""

import torch
from torch import Tensor, nn

from zoo.blocks.linear import resample_tokens
from zoo.blocks.mixer import Mixer
from zoo.checks.ranges import Grid, Width
from zoo.slots.table import register


@register("token_mixer", "random")
class RandomMixing(Mixer):
    """Every position reads a fixed random average of all positions, the same for every channel and never trained.

    The matrix is a parameter without gradient, as in the official code: it is in the state dict and in the number of
    parameters. Memory is quadratic in the number of positions: 39 MB in fp32 for a grid of 56 x 56.

    Args:
        grid: Sizes of the position dimensions of the input.

    Shape: ``(B, *grid, dim) -> (B, *grid, dim)``.

    Example:
        >>> mixer = RandomMixing(4, grid=(3, 3))
        >>> torch.allclose(mixer(torch.ones(1, 3, 3, 4)), torch.ones(1))  # averages of a constant
        True

    Source: Yu et al., "MetaFormer Baselines for Vision" (arXiv 2210.13452); sail-sg/metaformer,
        metaformer_baselines.py.
    Differs: none known.
    Cost: tokens x tokens x dim MACs.
    Raises: nothing of its own.
    """

    needs_grid = True

    def __init__(self, dim: Width, *, grid: Grid, device=None, dtype=None):
        super().__init__()
        tokens = torch.Size(grid).numel()
        self.grid = tuple(grid)
        self.random_matrix = nn.Parameter(torch.empty(tokens, tokens, device=device, dtype=dtype), requires_grad=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        with torch.no_grad():
            self.random_matrix.copy_(torch.rand_like(self.random_matrix).softmax(-1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.matmul(self.random_matrix, x.flatten(1, -2)).view(x.shape)

    def set_grid(self, grid: tuple[int, ...]) -> None:
        """Resample both sides of the matrix to another grid; its rows still sum to 1."""
        with torch.no_grad():
            matrix = resample_tokens(self.random_matrix, self.grid, grid)
            matrix = resample_tokens(matrix.t(), self.grid, grid).t()
            matrix = matrix / matrix.sum(1, keepdim=True)
            self.random_matrix = nn.Parameter(matrix.contiguous(), self.random_matrix.requires_grad)
        self.grid = tuple(grid)
