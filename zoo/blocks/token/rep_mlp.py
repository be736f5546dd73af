"""RepMLPNet's token mixer: a matrix over all positions, trained with small convolutions beside it."""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Annotated

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from zoo.blocks.batch_norm import over_channels
from zoo.blocks.conv import batchnorm_affine, depthwise_nhwc
from zoo.blocks.init import InitLike, init_
from zoo.blocks.kernels.symbolic import as_leaf, is_symbol
from zoo.blocks.linear import Linear, is_bare
from zoo.blocks.mixer import Mixer
from zoo.blocks.options import placement, with_options_of
from zoo.blocks.token.large_kernel import SqueezeExcite
from zoo.blocks.token.partition import image_of_grid
from zoo.blocks.token.window_mlp import HeadwiseTokenLinear
from zoo.checks.ranges import Count, Grid, Length, OddSide, Width
from zoo.slots.table import register

fx.wrap("image_of_grid")

Sides = Annotated[Sequence[OddSide], Length(0, 16)]


class SharedDepthwise(nn.Module):
    """A depthwise convolution of few kernels: channel c has the kernel c modulo their number.

    Shape: ``(B, H, W, C) -> (B, H, W, C)``.
    Cost: kernel area MACs an element.
    """

    @with_options_of(Linear)
    def __init__(self, kernels: int, side: int, *, init: InitLike = "trunc_normal", **dd):
        super().__init__()
        self.init = init
        self.weight = nn.Parameter(torch.empty(kernels, 1, side, side, **dd))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        init_(self.weight, None, self.init)

    def forward(self, x: Tensor) -> Tensor:
        return as_leaf(self, x) if is_symbol(x) else depthwise_nhwc(x, repeated(self.weight, x))


def repeated(x: Tensor, like: Tensor) -> Tensor:
    """What the first dimension holds of each set, for each channel of ``(*, C)``."""
    return x.repeat(like.shape[-1] // x.shape[0], *[1] * (x.ndim - 1))


@register("token_mixer", "rep_mlp")
class RepMlp(Mixer):
    """A linear map over all positions and small convolutions, each with a batch norm, times a factor a channel.

    Sets of weights are shared: channel c has the set c modulo `sets`, in the map and in the convolutions. While the
    norms use their running statistics the convolutions are computed as one; `reparameterize` makes one linear map of
    everything but the factors, which come of the mean over the positions (squeeze and excitation).

    Args:
        sets: Number of sets of weights; it divides `dim`.
        kernels: Sides of the convolutions' kernels, odd.
        reduction: `dim` over the hidden width that the factors are computed by.
        init: A scheme of `zoo.blocks.init`.
        grid: Sizes of the position dimensions of the input; a sequence is an image of height 1.

    Shape: ``(B, *grid, dim) -> (B, *grid, dim)``.

    Example:
        >>> mixer = RepMlp(8, sets=4, grid=(6, 5)).eval()
        >>> x = torch.randn(2, 6, 5, 8)
        >>> y = mixer(x)
        >>> mixer.reparameterize()
        >>> torch.allclose(mixer(x), y, atol=1e-5)
        True

    Source: Ding et al., "RepMLPNet" (arXiv 2112.11081), section 3; DingXiaoH/RepMLP, repmlpnet.py, RepMLPBlock.
    Differs: the partition is always the whole grid, as in all published models; the official code cuts larger images
        into several, and then exchanges channels.
    Cost: tokens x dim MACs a position and 2 x dim x dim / reduction a sample; until it is merged, also the kernels'
        areas x dim a position.
    Raises: ValueError if `dim` is not a multiple of `sets`, or for an even kernel.
    """

    follows = ("init",)

    needs_grid = True

    @with_options_of(Linear)
    def __init__(
        self, dim: Width, *, sets: Count = 1, kernels: Sides = (1, 3), reduction: Count = 4, grid: Grid, **options
    ):
        super().__init__()
        if dim % sets:
            raise ValueError(f"rep_mlp has {sets} sets of weights for a width of {dim}; choose sets that divide it")

        def bn() -> nn.Module:
            return nn.BatchNorm2d(sets, **placement(options))

        self.grid, self.sets = tuple(grid), sets
        self.deployed = False
        self.fc = HeadwiseTokenLinear(sets, torch.Size(grid).numel(), bias=False, **options)
        self.norm = bn()
        self.branches = nn.ModuleDict(
            {f"k{k}": nn.Sequential(OrderedDict(conv=SharedDepthwise(sets, k, **options), bn=bn())) for k in kernels}
        )
        self.se = SqueezeExcite(dim, max(1, dim // reduction), **options)

    def forward(self, x: Tensor) -> Tensor:
        image = image_of_grid(x, self.grid)
        y = self.fc(columns_by_set(image, self.sets))
        if self.deployed:
            y = image_of_columns(y, image.shape)
        elif isinstance(x, Tensor) and self._is_linear():  # symbolic tracing keeps the branches as they are
            scale, kernel, bias = self._merge(torch.promote_types(self.norm.weight.dtype, torch.float32))
            scale, kernel, bias = (repeated(part, image).to(y.dtype) for part in (scale, kernel, bias))
            y = torch.addcmul(depthwise_nhwc(image, kernel, bias), image_of_columns(y, image.shape), scale)
        else:
            y = image_of_columns(self.norm(y[None])[0], image.shape)
            for branch in self.branches.values():
                mixed = by_set(branch.conv(image), self.sets)
                y = y + over_channels(branch.bn, mixed).view(image.shape)
        return scaled(y, self.se.scale(image.flatten(1, 2))).reshape(x.shape)

    def _is_linear(self) -> bool:
        """Whether the norms have fixed statistics and nobody looks at the branches."""
        norms = [self.norm, *(branch.bn for branch in self.branches.values())]
        return all(not m.training and is_bare(m, nn.BatchNorm2d) and m.running_var is not None for m in norms) and all(
            is_bare(branch.conv, SharedDepthwise) for branch in self.branches.values()
        )

    def _merge(self, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        """The factor of the map's outputs, the kernel of one convolution and a bias, a set each."""
        branches = self.branches.values()
        scales, shifts = batchnorm_affine([self.norm, *(branch.bn for branch in branches)], dtype)
        side = max((branch.conv.weight.shape[-1] for branch in branches), default=1)
        kernel = scales.new_zeros(self.sets, 1, side, side)
        for branch, scale in zip(branches, scales[1:], strict=True):
            edge = (side - branch.conv.weight.shape[-1]) // 2
            kernel = kernel + F.pad(branch.conv.weight.to(dtype) * scale[:, None, None, None], (edge,) * 4)
        return scales[0], kernel, shifts.sum(0)

    @torch.no_grad()
    def reparameterize(self) -> None:
        """Make one linear map with bias of the map, the convolutions and their norms, in place."""
        if self.deployed:
            return
        scale, kernel, bias = self._merge(torch.float64)
        (height, width), tokens = (1, *self.grid)[-2:], self.fc.weight.shape[1]
        units = torch.eye(tokens, dtype=kernel.dtype, device=kernel.device).view(tokens, 1, height, width)
        padding = kernel.shape[-1] // 2
        matrix = F.conv2d(units.expand(-1, self.sets, -1, -1), kernel, padding=padding, groups=self.sets)
        matrix = matrix.flatten(2).permute(1, 2, 0)  # by set, output, input
        old = self.fc.weight
        weight = torch.addcmul(matrix, old.double().view_as(matrix), scale[:, None, None]).reshape(old.shape)
        bias = bias.repeat_interleave(tokens)
        self.fc.weight = nn.Parameter(weight.to(old.dtype), old.requires_grad)
        self.fc.bias = nn.Parameter(bias.to(old.dtype), old.requires_grad)
        self.norm = self.branches = None
        self.deployed = True

    def set_grid(self, grid: tuple[int, ...]) -> None:
        """Resample the map's inputs and outputs to another grid; the convolutions stay what they are."""
        self.fc.resample_(self.grid, grid)
        self.grid = tuple(grid)


@fx.wrap
def columns_by_set(x: Tensor, sets: int) -> Tensor:
    """For each set of weights what is multiplied with it, ``(B, H, W, C) -> (sets, H * W, B * C / sets)``."""
    return x.flatten(1, 2).unflatten(-1, (x.shape[-1] // sets, sets)).permute(3, 1, 0, 2).flatten(2)


@fx.wrap
def image_of_columns(x: Tensor, shape: torch.Size) -> Tensor:
    """The images of a shape ``(B, H, W, C)`` whose columns these are."""
    batch, height, width, channels = shape
    x = x.view(x.shape[0], height, width, batch, channels // x.shape[0])
    return x.permute(3, 1, 2, 4, 0).reshape(shape)


@fx.wrap
def by_set(x: Tensor, sets: int) -> Tensor:
    """Images in which the channels of a set are one channel, ``(B, H, W, C) -> (B, H, W * C / sets, sets)``."""
    return x.unflatten(-1, (x.shape[-1] // sets, sets)).flatten(2, 3)


@fx.wrap
def scaled(x: Tensor, scale: Tensor) -> Tensor:
    """Images ``(B, H, W, C)`` times a factor a channel and sample, ``(B, 1, C)``."""
    return x * scale[:, :, None]
