"""Strip-MLP's token mixer: maps over strips of rows, then of columns, and local strips beside them."""

import math

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from zoo.blocks.batch_norm import over_channels
from zoo.blocks.conv import Conv2d, DepthwiseConv2d, conv_nhwc
from zoo.blocks.init import InitLike, init_
from zoo.blocks.linear import Linear, linear, linear_act, resample_tokens
from zoo.blocks.mixer import Mixer
from zoo.blocks.options import placement, with_options_of
from zoo.blocks.token.partition import image_of_grid
from zoo.checks.ranges import Count, Grid, Width
from zoo.slots.table import register

fx.wrap("image_of_grid")

SHARE = 4  # channels that share a map, where as many divide the width
REACH = 3  # strips beside each other that a map sees


@register("token_mixer", "strip_mlp")
class StripMlp(Mixer):
    """A depthwise convolution; then strip maps on one half of the channels and local strips on the other.

    Args:
        share: Channels that share the weights of a strip map; by default 4, or as many as divide half of `dim`.
        init: A scheme of `zoo.blocks.init`.
        grid: Sizes of the position dimensions of the input; a sequence is an image of height 1.

    Shape: ``(B, *grid, dim) -> (B, *grid, dim)``.

    Example:
        >>> StripMlp(16, grid=(6, 5))(torch.randn(2, 6, 5, 16)).shape
        torch.Size([2, 6, 5, 16])

    Source: Cao et al., "Strip-MLP: Efficient Token Interaction for Vision MLP" (arXiv 2307.11458), section 3;
        Med-Process/Strip_MLP, models/strip_mlp.py, TokenMixing.
    Differs: grids need not be square; the table of positions then spans the longer side.
    Cost: 3 x dim x dim + (3 x (height + width) / 2 + 30) x dim MACs a position, and dim x dim / 2 a sample.
    Raises: ValueError for an odd `dim`, or a `share` that does not divide half of it.
    """

    follows = ("init",)

    needs_grid = True

    @with_options_of(Linear)
    def __init__(self, dim: Width, *, share: Count | None = None, grid: Grid, **options):
        super().__init__()
        half, place = dim // 2, placement(options)
        share = math.gcd(half, SHARE) if share is None else share
        if dim % 2 or half % share:
            raise ValueError(
                f"strip_mlp cuts its width into halves, and these into groups of {share} channels that share a map; "
                f"{dim} cannot be cut so: choose an even width, and a share that divides half of it"
            )
        self.grid = tuple(grid)
        self.norm1 = nn.BatchNorm2d(dim, **place)
        self.conv = DepthwiseConv2d(dim, 3, bias=False, **options)
        self.fc1 = Linear(dim, dim, **options)
        self.norm2 = nn.BatchNorm2d(dim, **place)
        self.act = nn.GELU()
        self.strips = CascadedStrips(half, share, grid=(1, *grid)[-2:], **options)
        self.local = LocalStrips(half, **options)
        self.fc2 = Linear(dim, dim, False, **options)

    def forward(self, x: Tensor) -> Tensor:
        y = self.act(over_channels(self.norm1, image_of_grid(x, self.grid)))
        y = self.act(over_channels(self.norm2, linear(conv_nhwc(self.conv, y), self.fc1)))
        first, second = y.chunk(2, dim=-1)
        y = torch.cat([self.strips(first.contiguous()), self.local(second.contiguous())], dim=-1)
        return linear(y, self.fc2).reshape(x.shape)

    def set_grid(self, grid: tuple[int, ...]) -> None:
        """Resample the strip maps' inputs and outputs, and the tables of positions, to another grid."""
        self.strips.resample_((1, *self.grid)[-2:], (1, *grid)[-2:])
        self.grid = tuple(grid)


class CascadedStrips(nn.Module):
    """Rows are mixed, then columns; each result is joined with the input, and positions are added before each.

    Shape: ``(B, *grid, dim) -> (B, *grid, dim)``.
    """

    @with_options_of(Linear)
    def __init__(self, dim: Width, share: int, *, grid: Grid, **options):
        super().__init__()
        place = placement(options)
        height, width = grid
        self.across_positions = DiagonalPositions(dim, max(grid), **place)
        self.across = StripMap(dim // share, width, **options)
        self.fc1 = Linear(2 * dim, dim, False, **options)
        self.norm = nn.BatchNorm2d(dim, **place)
        self.act = nn.GELU()
        self.down_positions = DiagonalPositions(dim, max(grid), **place)
        self.down = StripMap(dim // share, height, **options)
        self.fc2 = Linear(2 * dim, dim, False, **options)

    def forward(self, x: Tensor) -> Tensor:
        y = self.across(self.across_positions(x))
        y = self.act(over_channels(self.norm, linear(torch.cat([y, x], -1), self.fc1)))
        y = self.down(self.down_positions(y).transpose(1, 2)).transpose(1, 2)
        return linear(torch.cat([x, y], -1), self.fc2)

    def resample_(self, old: tuple[int, int], new: tuple[int, int]) -> None:
        """Resample everything that belongs to a grid to another one, in place."""
        self.across.resample_(old[1], new[1])
        self.down.resample_(old[0], new[0])
        for positions in (self.across_positions, self.down_positions):
            positions.resample_(max(old), max(new))


class StripMap(nn.Module):
    """A linear map over the positions of each row and of the two rows beside it; those outside are zeros.

    Each of `groups` has a map of its own; channel c is of group c modulo `groups`. The weight has the shape of the
    authors' grouped convolution.

    Shape: ``(B, rows, tokens, C) -> (B, rows, tokens, C)``.
    Cost: 3 x tokens MACs an element.
    """

    @with_options_of(Linear)
    def __init__(self, groups: int, tokens: int, *, init: InitLike = "trunc_normal", **dd):
        super().__init__()
        self.groups, self.init = groups, init
        self.weight = nn.Parameter(torch.empty(groups * tokens, tokens, 1, REACH, **dd))
        self.bias = nn.Parameter(torch.empty(groups * tokens, **dd))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        init_(self.weight, self.bias, self.init)

    def forward(self, x: Tensor) -> Tensor:
        y = F.conv2d(strips(x, self.groups), self.weight, self.bias, padding=(0, REACH // 2), groups=self.groups)
        return rows_of_strips(y, x)

    def resample_(self, old: int, new: int) -> None:
        """Resample inputs and outputs from a number of positions to another, so that constants stay what they are."""
        with torch.no_grad():
            weight = self.weight.view(self.groups, old, old, REACH).permute(0, 3, 1, 2)
            weight = resample_tokens(weight.flatten(0, 2), (old,), (new,)) * (old / new)
            weight = weight.view(self.groups, REACH, old, new).mT.flatten(0, 2)
            weight = resample_tokens(weight, (old,), (new,)).view(self.groups, REACH, new, new)
            weight = weight.permute(0, 3, 2, 1).reshape(self.groups * new, new, 1, REACH)
            bias = resample_tokens(self.bias.view(self.groups, old), (old,), (new,)).flatten()
        self.weight = nn.Parameter(weight, self.weight.requires_grad)
        self.bias = nn.Parameter(bias, self.bias.requires_grad)


class DiagonalPositions(nn.Module):
    """Adds to each position a learnt vector that depends on the difference of its column and its row.

    Shape: ``(B, H, W, dim) -> (B, H, W, dim)``, with sides up to `side`.
    """

    no_decay = ("pos_embed",)

    def __init__(self, dim: int, side: int, device=None, dtype=None):
        super().__init__()
        self.pos_embed = nn.Parameter(torch.empty(2 * side + 1, dim, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        init_(self.pos_embed, None, "trunc_normal")

    def forward(self, x: Tensor) -> Tensor:
        return x + diagonals(self.pos_embed, x)

    def resample_(self, old: int, new: int) -> None:
        """Resample the table from one longest side to another, in place."""
        with torch.no_grad():
            table = resample_tokens(self.pos_embed.t(), (2 * old + 1,), (2 * new + 1,)).t().contiguous()
        self.pos_embed = nn.Parameter(table, self.pos_embed.requires_grad)


class LocalStrips(nn.Module):
    """Depthwise convolutions of 7 x 3 and 3 x 7 and the input itself, weighed for each channel by the sample's mean.

    Shape: ``(B, H, W, dim) -> (B, H, W, dim)``.
    """

    @with_options_of(Linear)
    def __init__(self, dim: Width, **options):
        super().__init__()
        strip = lambda *size: Conv2d(dim, dim, size, 1, tuple(k // 2 for k in size), 1, dim, False, **options)
        self.tall, self.wide = strip(7, 3), strip(3, 7)
        hidden = max(1, dim // 2)
        self.fc1, self.act = Linear(dim, hidden, **options), nn.GELU()
        self.fc2 = Linear(hidden, 3 * dim, **options)

    def forward(self, x: Tensor) -> Tensor:
        tall, wide = conv_nhwc(self.tall, x), conv_nhwc(self.wide, x)
        mean = (tall + wide + x).mean((1, 2), keepdim=True)
        share = linear(linear_act(mean, self.fc1, self.act), self.fc2).unflatten(-1, (-1, 3)).softmax(-1)
        return tall * share[..., 0] + wide * share[..., 1] + x * share[..., 2]


@fx.wrap
def strips(x: Tensor, groups: int) -> Tensor:
    """Positions of a row as channels, group by group, ``(B, rows, tokens, C) -> (B, groups * tokens, share, rows)``."""
    return x.unflatten(-1, (x.shape[-1] // groups, groups)).permute(0, 4, 2, 3, 1).flatten(1, 2)


@fx.wrap
def rows_of_strips(y: Tensor, like: Tensor) -> Tensor:
    """The images, of the shape of others, that `strips` cut."""
    batch, rows, tokens, channels = like.shape
    share = y.shape[2]
    return y.reshape(batch, channels // share, tokens, share, rows).permute(0, 4, 2, 3, 1).reshape(like.shape)


@fx.wrap
def diagonals(table: Tensor, x: Tensor) -> Tensor:
    """For each position of ``(B, H, W, C)`` the row of a table ``(2 side + 1, C)`` that stands for its diagonal."""
    height, width = x.shape[1], x.shape[2]
    middle = table.shape[0] // 2
    windows = table.unfold(0, width, 1)  # a window of the table for each row of the grid: one further back each
    return windows[middle - height + 1 : middle + 1].flip(0).mT
