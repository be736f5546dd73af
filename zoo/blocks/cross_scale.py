"""Windows of several sizes around each position, mapped to one vector: what RaftMLP begins its stages with."""

from collections.abc import Sequence
from typing import Annotated

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from zoo.blocks.images import conv_grid
from zoo.blocks.init import init_
from zoo.blocks.linear import Linear
from zoo.blocks.options import with_options_of
from zoo.checks.ranges import KernelSize, Length, Width

fx.wrap("conv_grid")

Kernels = Annotated[Sequence[KernelSize], Length(1, 16)]


class CrossScale(nn.Module):
    """One linear map of several windows with a common centre; the smallest lie side by side.

    The windows lie within the largest, so that all of it is one convolution, whose kernel is the sum of theirs.

    Args:
        kernels: Sides of the windows. Each is as much larger than the smallest on either side.
        init: A scheme of `zoo.blocks.init`.

    Shape: ``(B, in_dim, H, W) -> (B, dim, H', W')``, ``H' = H // min(kernels)``.
    Cost: max(kernels) ** 2 x in_dim x dim MACs a position of the result.
    Raises: ValueError for windows without a common centre.
    """

    @with_options_of(Linear)
    def __init__(self, in_dim: Width, dim: Width, *, kernels: Kernels = (2, 4), **options):
        super().__init__()
        self.kernels, self.stride, self.init = tuple(kernels), min(kernels), options.pop("init")
        if odd := [side for side in kernels if (side - self.stride) % 2]:
            raise ValueError(
                f"kernels is {list(kernels)}; {odd[0]} and {self.stride} must differ by an even number, so that the "
                "windows have a common centre"
            )
        self.in_dim = in_dim
        self.weight = nn.Parameter(torch.empty(dim, in_dim * sum(side**2 for side in kernels), **options))
        self.bias = nn.Parameter(torch.empty(dim, **options))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        init_(self.weight, self.bias, self.init)

    def grid(self, size: tuple[int, int]) -> tuple[int, int]:
        """Number of positions down and across that become of an image, or a grid, of this size."""
        return conv_grid(size, self.stride, self.stride, 0)

    def convolve(self, x: Tensor) -> Tensor:
        """The convolution, ``(B, in_dim, H, W) -> (B, dim, H', W')``."""
        padding = (max(self.kernels) - self.stride) // 2
        return F.conv2d(x, joined(self.weight, self.in_dim, self.kernels), self.bias, self.stride, padding)


@fx.wrap
def joined(weight: Tensor, in_dim: int, kernels: tuple[int, ...]) -> Tensor:
    """The kernel of the one convolution that several windows are, whose weights stand side by side."""
    parts = weight.split([in_dim * side**2 for side in kernels], dim=1)
    windows = [part.unflatten(1, (in_dim, side, side)) for part, side in zip(parts, kernels, strict=True)]
    return sum(F.pad(window, ((max(kernels) - window.shape[-1]) // 2,) * 4) for window in windows)
