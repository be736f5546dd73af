"""Exits of a model: branches that make logits of the feature maps within it, for as long as it is trained."""

import functools
import math
from collections.abc import Sequence
from typing import Annotated

import torch
from torch import Tensor, nn

from zoo.blocks.base import MetaBlock
from zoo.blocks.channel.mlp import Mlp
from zoo.blocks.downsample.merge import PatchMerging
from zoo.blocks.token.attention import Attention
from zoo.checks import Interval
from zoo.skeletons.image import ImageModel

Level = Annotated[int, Interval(-1000, 999)]  # of a model, as recipes say it; negative ones are from the end
SMALL = 7  # side of a grid that is not merged any more
PLACES = (1 / 6, 1 / 3, 5 / 6, 1)  # of exits in a model of equal blocks: as after 2, 4, 10 and 12 of 12


def exit_levels(model: ImageModel, levels: Sequence[int] | None, key: str) -> list[int]:
    """Levels that have an exit, of `taken_levels`; None: each stage, or of equal blocks those at `PLACES`."""
    count = len(model.feature_info)
    if levels is None and not has_stages(model):
        levels = [max(math.ceil(place * count), 1) - 1 for place in PLACES]
    return taken_levels(model, levels, key)


def taken_levels(model: ImageModel, levels: Sequence[int] | None, key: str) -> list[int]:
    """Levels of a model, counted from the start and in its order.

    Args:
        model: The model.
        levels: Some of them, negative ones from the end; None: all.
        key: Where the recipe has them.

    Raises:
        ValueError: The model has no such level, or there are none.
    """
    try:
        return model.take_levels(levels)[0]
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from None


def has_stages(model: ImageModel) -> bool:
    """Whether the levels of a model are of several widths or grids."""
    return len({(info["num_chs"], info["reduction"]) for info in model.feature_info}) > 1


def make_exits(
    model: ImageModel, levels: Sequence[int], *, width: int, num_classes: int, blocks: int | None
) -> nn.ModuleList:
    """An exit for each of some levels of a model.

    In a model of equal blocks it is a few blocks of attention at the model's own width, on a grid that is merged down
    to a side of less than 14, and a classifier of the mean over the positions. In one of stages it is a separable
    convolution for each stage that is still to come, and a classifier of the mean.

    Args:
        model: The model.
        levels: As `exit_levels` gives them.
        width: Of what classifiers of stages see.
        num_classes: Logits.
        blocks: In the place of as many as there are exits to come, but at least one.

    Source: Hao et al. (arXiv 2310.19444), section 3.2; Hao840/OFAKD, distillers/ofa.py.
    Differs: where the model has a class token, the mean over the patches is taken all the same. The official code's
        merging needs a grid of 7 x 2^n patches.
    """
    stages, exits = has_stages(model), []
    for number, level in enumerate(levels):
        dim, to_come = model.feature_info[level]["num_chs"], len(levels) - 1 - number
        if stages:
            exits.append(_of_stage(dim, max(dim, width), to_come if blocks is None else blocks, num_classes))
        else:
            exits.append(_of_block(dim, model.grid, max(to_come, 1) if blocks is None else blocks, num_classes))
    exits = nn.ModuleList(exits)
    exits.apply(_initialise)
    return exits


class _Mean(nn.Module):
    """The mean over the positions of ``(B, H, W, C)``."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((1, 2))


class _BatchNorm(nn.BatchNorm2d):
    no_decay = ("weight", "bias")


class _Channels(nn.Module):
    """Lets layers for ``(B, C, H, W)`` take and give ``(B, H, W, C)``."""

    def __init__(self, *layers: nn.Module):
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


def _of_block(dim: int, grid: tuple[int, int], blocks: int, num_classes: int) -> nn.Sequential:
    norm = functools.partial(nn.LayerNorm, eps=1e-5)
    merging: list[nn.Module] = []
    while min(grid) >= 2 * SMALL:
        merging += [nn.GELU()] if merging else []
        merging.append(PatchMerging(dim, dim))
        grid = merging[-1].grid(grid)
    heads = math.gcd(dim, 4)
    mixing = [
        MetaBlock(dim, token_mixer=Attention(dim, heads=heads), channel_mixer=Mlp(dim, ratio=4), norm=norm)
        for _ in range(blocks)
    ]
    return nn.Sequential(*merging, *mixing, _Mean(), nn.Linear(dim, num_classes))


def _of_stage(dim: int, width: int, downsamplings: int, num_classes: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for number in range(downsamplings):
        out = width if number == downsamplings - 1 else 2 * dim
        layers += _separable(dim, dim, stride=2) + _separable(dim, out, stride=1)
        dim = out
    layers = layers or [nn.Conv2d(dim, width, 1)]
    return nn.Sequential(_Channels(*layers), _Mean(), nn.Linear(width, num_classes))


def _separable(dim: int, out: int, *, stride: int) -> list[nn.Module]:
    depthwise = nn.Conv2d(dim, dim, 3, stride, 1, groups=dim, bias=False)
    return [depthwise, nn.Conv2d(dim, out, 1, bias=False), _BatchNorm(out), nn.ReLU()]


@torch.no_grad()
def _initialise(module: nn.Module) -> None:
    """As the official code does it for its exits."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    elif isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
    if isinstance(module, (nn.Conv2d, nn.Linear)) and module.bias is not None:
        nn.init.zeros_(module.bias)
