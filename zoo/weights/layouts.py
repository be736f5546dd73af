"""Layouts of keys that several published checkpoints share, as rules that turn them into zoo's."""

import re
from collections.abc import Mapping
from functools import partial

from zoo.weights.rules import Operation, Rule, rename

# Where a block stands: a pattern of the source's keys, and what zoo's begin with.
BLOCKS = r"^(blocks\.\d+)\.", r"\1."
STAGES = r"^stages\.(\d+)\.(?:blocks\.)?(\d+)\.", r"stages.\1.blocks.\2."  # authors leave ``blocks`` out, timm has it
LAYERS = r"^layers\.(\d+)\.blocks\.(\d+)\.", r"stages.\1.blocks.\2."  # of Swin


def below(place: tuple[str, str], names: Mapping[str, str], operation: Operation | None = None) -> tuple[Rule, ...]:
    r"""Rules for the keys that stand below a place, in order.

    Example:
        >>> [rule.target for rule in below(BLOCKS, {r"attn\.": "token_mixer."})]
        ['\\1.token_mixer.']

    Args:
        place: What the source's keys begin with, a pattern, and what the model's begin with: `BLOCKS`, `STAGES`, ….
        names: By the pattern of what follows there, what stands in its place.
        operation: On every tensor.
    """
    old, new = place
    return tuple(rename(old + pattern, new + target, operation) for pattern, target in names.items())


def halves(
    pattern: str,
    half: int,
    names: Mapping[str, str],
    operation: Operation | None = None,
    first: tuple[int, int] = (0, 0),
) -> tuple[Rule, ...]:
    r"""Rules for published blocks of which each is two blocks of zoo: one with three branches, say.

    Example:
        >>> from zoo.weights.rules import remap
        >>> import torch
        >>> rules = halves(r"^blocks(\d)\.(\d+)\.token\.", 0, {"fc": "fc"}, first=(1, 0))
        >>> list(remap({"blocks1.3.token.fc": torch.ones(2)}, {"stages.0.blocks.6.fc": torch.ones(2)}, rules))
        ['stages.0.blocks.6.fc']

    Args:
        pattern: What a block's keys begin with; its first group is the number of the stage, its second of the block.
        half: Which of the two, 0 or 1.
        names: As in `below`.
        operation: On every tensor.
        first: The numbers of the source's first stage and of a stage's first block.
    """
    return tuple(
        rename(pattern + old, partial(_half, half=half, name=new, first=first), operation) for old, new in names.items()
    )


def _half(match: re.Match, *, half: int, name: str, first: tuple[int, int]) -> str:
    stage, block = (int(number) - start for number, start in zip(match.group(1, 2), first, strict=True))
    return match.expand(f"stages.{stage}.blocks.{2 * block + half}.{name}")


def after(pattern: str, names: Mapping[str, str]) -> tuple[Rule, ...]:
    r"""Rules for what published checkpoints number by the stage before it: the downsampling, with which a stage begins.

    Example:
        >>> from zoo.weights.rules import remap
        >>> import torch
        >>> rules = after(r"^embeds\.(\d+)\.", {"conv": "conv"})
        >>> list(remap({"embeds.0.conv": torch.ones(2)}, {"stages.1.downsample.conv": torch.ones(2)}, rules))
        ['stages.1.downsample.conv']

    Args:
        pattern: What its keys begin with; the first group is the number of the stage before.
        names: As in `below`.
    """
    return tuple(rename(pattern + old, partial(_after, name=new)) for old, new in names.items())


def _after(match: re.Match, *, name: str) -> str:
    return match.expand(f"stages.{int(match[1]) + 1}.downsample.{name}")


def within(place: tuple[str, str], old: str, new: str) -> tuple[str, str]:
    r"""A place below another one, for `below`.

    Example:
        >>> within(BLOCKS, r"mlp\.experts\.", "channel_mixer.experts.")
        ('^(blocks\\.\\d+)\\.mlp\\.experts\\.', '\\1.channel_mixer.experts.')
    """
    return place[0] + old, place[1] + new


def timm_vit() -> tuple[Rule, ...]:
    """timm's ViT: ``cls_token``, ``patch_embed.…``, ``blocks.0.attn.…``, ``blocks.0.mlp.…``."""
    return (
        rename(r"^(cls_token|pos_embed)$", r"tokens.\1"),
        rename(r"^patch_embed\.", "stem."),
        *below(BLOCKS, {r"attn\.": "token_mixer.", r"mlp\.": "channel_mixer."}),
    )


def timm_head() -> tuple[Rule, ...]:
    """timm's head behind stages: the norm behind the pooling, and the classifier."""
    return rename(r"^head\.norm\.", "norm."), rename(r"^head\.fc\.", "head.")


def stem(names: Mapping[str, str]) -> tuple[Rule, ...]:
    """The stem of ConvNeXt and its kin: ``downsample_layers.0.…`` of the authors, ``stem.…`` of timm."""
    return below((r"^(?:stem|downsample_layers\.0)\.", "stem."), {f"{old}\\.": f"{new}." for old, new in names.items()})


def downsampling(names: Mapping[str, str]) -> tuple[Rule, ...]:
    """What lies before a stage: ``downsample_layers.1.…`` of the authors, ``stages.1.downsample.…`` of timm."""
    place = r"^(?:stages\.([1-3])\.downsample|downsample_layers\.([1-3]))\.", r"stages.\1\2.downsample."
    return below(place, {f"{old}\\.": f"{new}." for old, new in names.items()})
