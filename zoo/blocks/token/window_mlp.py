"""Linear maps over the positions of windows, one a group of channels: the token mixers of Swin-MLP."""

import math

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from zoo.blocks.init import InitLike, init_
from zoo.blocks.kernels.windows import in_chunks
from zoo.blocks.linear import Linear, resample_tokens
from zoo.blocks.mixer import Mixer
from zoo.blocks.options import pop_options_of, with_options_of
from zoo.blocks.token.heads import head_count
from zoo.blocks.token.partition import cut_windows, image_of_grid
from zoo.checks.ranges import Grid, Side, Width
from zoo.slots.table import register

fx.wrap("image_of_grid")


class HeadwiseTokenLinear(nn.Module):
    """A linear map over the tokens for each head; the weight has the shape of the authors' grouped convolution.

    Shape: ``(heads, tokens, M) -> (heads, tokens, M)``.
    Cost: tokens x tokens MACs a head and column.
    """

    @with_options_of(Linear)
    def __init__(self, heads: int, tokens: int, *, bias: bool = True, init: InitLike = "trunc_normal", **dd):
        super().__init__()
        self.heads, self.init = heads, init
        self.weight = nn.Parameter(torch.empty(heads * tokens, tokens, 1, **dd))
        self.bias = nn.Parameter(torch.empty(heads * tokens, **dd)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        init_(self.weight, self.bias, self.init)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight.view(self.heads, -1, x.shape[1])
        return weight @ x if self.bias is None else torch.baddbmm(self.bias.view(self.heads, -1, 1), weight, x)

    def extra_repr(self) -> str:
        return f"heads={self.heads}, tokens={self.weight.shape[1]}"

    def resample_(self, old: tuple[int, int], new: tuple[int, int]) -> None:
        """Resample inputs and outputs from a window to another, in place, so that constants stay what they are."""
        with torch.no_grad():
            weight = resample_tokens(self.weight.flatten(1), old, new) * (math.prod(old) / math.prod(new))
            weight = resample_tokens(weight.unflatten(0, (self.heads, -1)).mT.flatten(0, 1), old, new)
            weight = weight.unflatten(0, (self.heads, -1)).mT.flatten(0, 1)[..., None]
            self.weight = nn.Parameter(weight, self.weight.requires_grad)
            if self.bias is not None:
                bias = resample_tokens(self.bias.view(self.heads, -1), old, new).flatten()
                self.bias = nn.Parameter(bias, self.bias.requires_grad)


@register("token_mixer", "window_mlp")
class WindowMlp(Mixer):
    """One linear map over the positions of a window for each head, the same for all windows: no attention.

    Args:
        window_size: Side of a window. Where a side of the grid is not longer, the window has that side.
        heads: Number of heads; by default the most that divide `dim` and are at least `head_dim` wide.
        head_dim: Least width of a head where `heads` is not given.
        init: A scheme of `zoo.blocks.init`.
        grid: Sizes of the position dimensions of the input. A sequence has windows of ``window_size ** 2`` in a row.

    Shape: ``(B, *grid, dim) -> (B, *grid, dim)``; on other grids the window stays the same.

    Example:
        >>> WindowMlp(64, window_size=4, grid=(8, 8))(torch.randn(2, 8, 10, 64)).shape
        torch.Size([2, 8, 10, 64])

    Source: Liu et al., "Swin Transformer" (arXiv 2103.14030); microsoft/Swin-Transformer, models/swin_mlp.py.
    Differs: written as one product a head; a grid that is no whole number of windows, which the official code refuses,
        is filled with zeros below and on the right.
    Cost: window area x dim MACs a position, counting those that fill up the last windows.
    Raises: ValueError if `dim` is not a multiple of `heads`, or for a `window_size` below 1.
    """

    follows = ("init",)

    needs_grid = True
    any_grid = True
    cuts_grid = True
    shifted = False

    @with_options_of(head_count, HeadwiseTokenLinear, without=["bias"])
    def __init__(self, dim: Width, *, window_size: Side = 7, grid: Grid, **options):
        super().__init__()
        self.window_size = window_size
        self.heads = head_count("window_mlp", dim, **pop_options_of(head_count, options))
        self._place(grid)
        self.spatial_mlp = HeadwiseTokenLinear(self.heads, math.prod(self.window), **options)

    def _place(self, grid: tuple[int, ...]) -> None:
        self.grid, shortest = tuple(grid), min(grid)
        side = self.window_size ** (3 - len(grid))
        shift = side // 2 if self.shifted and shortest > side else 0
        side = min(side, shortest)
        self.window, self.shift = ((side, side), (shift, shift)) if len(grid) == 2 else ((1, side), (0, shift))

    def set_grid(self, grid: tuple[int, ...]) -> None:
        """Move to another grid: the window that was asked for as far as it fits; if it changes, so do the weights."""
        old = self.window
        self._place(grid)
        if self.window != old:
            self.spatial_mlp.resample_(old, self.window)

    def forward(self, x: Tensor) -> Tensor:
        return in_chunks(self._mix, image_of_grid(x, self.grid)).view(x.shape)

    def _mix(self, image: Tensor) -> Tensor:
        y = self.spatial_mlp(windows_by_head(image, self.window, self.shift, self.heads))
        return image_of_windows(y, image.shape, self.window, self.shift)

    def extra_repr(self) -> str:
        return f"window={self.window}, shift={self.shift}, heads={self.heads}"


def _margins(size: tuple[int, int], window: tuple[int, int], shift: tuple[int, int]) -> tuple[int, ...]:
    """Zeros above and on the left of an image, and how many windows then stand below and beside each other.

    A shift is one more row and column of windows, of which a part lies outside the image; no mask, no roll.
    """
    (height, width), (h, w) = size, window
    top, left = (side - s if s else 0 for side, s in zip(window, shift, strict=True))
    return top, left, -(-(height + top) // h), -(-(width + left) // w)


@fx.wrap
def windows_by_head(x: Tensor, window: tuple[int, int], shift: tuple[int, int], heads: int) -> Tensor:
    """The windows of images side by side, so that each head is one wide product.

    Shape: ``(B, H, W, C) -> (heads, N, windows * C / heads)``.
    """
    height, width = x.shape[1], x.shape[2]
    top, left, rows, columns = _margins((height, width), window, shift)
    below, right = rows * window[0] - top - height, columns * window[1] - left - width
    if top or left or below or right:
        x = F.pad(x, (0, 0, left, right, top, below))
    return cut_windows(x, window).unflatten(-1, (heads, x.shape[-1] // heads)).permute(2, 1, 0, 3).flatten(2)


@fx.wrap
def image_of_windows(x: Tensor, shape: torch.Size, window: tuple[int, int], shift: tuple[int, int]) -> Tensor:
    """The images of a shape ``(B, H, W, C)`` that `windows_by_head` cut."""
    batch, height, width, channels = shape
    top, left, rows, columns = _margins((height, width), window, shift)
    (h, w), heads = window, x.shape[0]
    x = x.view(heads, h, w, batch, rows, columns, channels // heads)
    x = x.permute(3, 4, 1, 5, 2, 0, 6).reshape(batch, rows * h, columns * w, channels)
    return x[:, top : top + height, left : left + width]


@register("token_mixer", "shifted_window_mlp")
class ShiftedWindowMlp(WindowMlp):
    """`WindowMlp` with windows that lie half a window further; what lies outside of the image is zero.

    Where a side of the grid is not longer than the window, nothing is shifted. Arguments and errors are those of
    `WindowMlp`.

    Shape: ``(B, *grid, dim) -> (B, *grid, dim)``; on other grids window and shift stay the same.

    Example:
        >>> ShiftedWindowMlp(64, window_size=4, grid=(16, 16)).shift
        (2, 2)

    Source: Liu et al., "Swin Transformer" (arXiv 2103.14030); microsoft/Swin-Transformer, models/swin_mlp.py.
    Differs: as `WindowMlp`.
    Cost: window area x dim MACs a position, with one more row and column of windows than `WindowMlp`.
    Raises: ValueError as `WindowMlp` does.
    """

    shifted = True
