"""The stack of MetaBlocks that models of images share with those of whatever else comes in rows of positions."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from timm.layers import calculate_drop_path_rates
from torch import Tensor, nn

from zoo.blocks.base import FORMS, Aux, MetaBlock, merge_aux
from zoo.blocks.init import InitLike
from zoo.blocks.mixer import trait
from zoo.checks import shown
from zoo.checks.ranges import RateBelowOne, Scale
from zoo.skeletons.checkpointing import run_block
from zoo.skeletons.model import Model
from zoo.slots import SlotLike, SlotsLike, build_block, resolve_slots, resolve_stage_slots

PER_BLOCK = ("token_mixer", "channel_mixer", "norm")
PER_STAGE = ("layer_scale", "res_scale")


@dataclass(frozen=True, kw_only=True)
class BlockArguments:
    """What a stack of blocks is built from.

    What is said "per stage" is one value for all stages or a list with an entry a stage.

    Args:
        token_mixer, channel_mixer, norm: Slots of the blocks: one for all, a list, or a mapping with ``at={index:
            slot}`` for single blocks or ``every={n: slot}`` for each n-th. In a model of one stage a list is repeated
            as a cycle (see `zoo.slots.resolve_slots`); in one of several it has an entry a stage, each a slot or a
            list, a cycle within the stage (see `zoo.slots.resolve_stage_slots`).
        act: Activation slot of all blocks that follow the model in it and do not set their own.
        init: Initialisation of all blocks that follow the model in it and do not set their own: a scheme of
            `zoo.list_blocks("init")`.
        final_norm: Slot of the norm behind the last block; True for that of the last block, ``none`` for no norm.
        form: Where norms and shortcuts stand in a block: ``pre``, ``post``, ``serial`` or ``plain`` (see
            `zoo.blocks.base.MetaBlock`).
        share_norm: The two branches of a block have one and the same norm, where both have a norm.
        layer_scale: Per stage: initial value of a learnt factor per channel on each branch; None for no factor.
        res_scale: Per stage: likewise on each shortcut.
        proj_drop_rate: Dropout in the mixers (their option ``drop``).
        attn_drop_rate: Dropout on attention weights (their option ``attn_drop``).
        drop_path_rate: Probability that a sample leaves a branch out in training.
        drop_path_rule: ``linear``, rising from 0 to the rate over the depth, or ``constant``.
    """

    token_mixer: SlotsLike
    channel_mixer: SlotsLike
    norm: SlotsLike = "layernorm"
    act: SlotLike = "gelu"
    init: InitLike = "trunc_normal"
    final_norm: SlotsLike | bool = True
    form: Literal[FORMS] = "pre"
    share_norm: bool = False
    layer_scale: Scale | None | Sequence[Scale | None] = None
    res_scale: Scale | None | Sequence[Scale | None] = None
    proj_drop_rate: RateBelowOne = 0.0
    attn_drop_rate: RateBelowOne = 0.0
    drop_path_rate: RateBelowOne = 0.0
    drop_path_rule: Literal["linear", "constant"] = "linear"

    @property
    def followed(self) -> dict[str, Any]:
        """What blocks may follow the model in."""
        rates = {"drop": self.proj_drop_rate, "attn_drop": self.attn_drop_rate}
        return {"init": self.init, "act": self.act, **rates}


class BlockModel(Model):
    """A model whose body is MetaBlocks, run level after level; a level gives one feature map.

    Attributes:
        levels: What is run one after another: blocks, or stages of them.
        norm: The norm behind the last.
    """

    slots = {
        **{"token_mixer": "token_mixer", "channel_mixer": "channel_mixer", "norm": "norm", "final_norm": "norm"},
        **{"act": "act", "init": "init"},
    }
    hands_on = {
        "act": "*.act",
        "init": "*.init",
        "proj_drop_rate": "*_mixer.drop",
        "attn_drop_rate": "token_mixer.attn_drop",
    }

    levels: nn.Sequential
    norm: nn.Module
    grad_checkpointing = False

    def _stack(self, arguments: BlockArguments, dims: Sequence[int], depths: Sequence[int], **place) -> "Stages":
        """What makes the blocks of each stage; the settled slots are written into `config`."""
        stages = Stages(arguments, dims, depths, **place)
        self.config |= stages.slots
        return stages

    def _token_mixers(self) -> Iterator[nn.Module]:
        """Every token mixer."""
        raise NotImplementedError

    @property
    def keywords(self) -> frozenset[str]:
        """Optional keywords of a call that a mixer declares, such as the ``task`` of a router that knows tasks."""
        return frozenset().union(*[trait(level, "keywords") for level in self.levels])

    def _run(self, x: Tensor, levels: nn.Sequential, keywords: Mapping[str, Any]) -> Iterator[tuple[Tensor, Aux]]:
        """Run the levels; yields the output and the auxiliary outputs of each.

        Raises:
            TypeError: A keyword is none that a mixer of the model declares.
        """
        if keywords and not keywords.keys() <= (declared := self.keywords):
            name, known = min(keywords.keys() - declared), ", ".join(sorted(declared)) or "none"
            raise TypeError(
                f"no mixer of this {type(self).__name__} takes the keyword {shown(name)}; they take {known}"
            )
        for level in levels:
            x, aux = run_block(level, x, self.grad_checkpointing, keywords)
            yield x, aux

    def _run_all(self, x: Tensor, keywords: Mapping[str, Any]) -> tuple[Tensor, Aux]:
        """The output of the last level, and the auxiliary outputs of all."""
        auxes = []
        for y, aux in self._run(x, self.levels, keywords):
            x = y
            auxes.append(aux)
        return x, merge_aux(auxes)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Keep only the levels' inputs in training and compute the rest again in the backward pass."""
        self.grad_checkpointing = enable


class Stages:
    """Makes the blocks of stage after stage, from what a model's arguments say of all of them.

    Args:
        arguments: They.
        dims, depths: Width and number of blocks of each stage.

    Attributes:
        slots: Each argument that is a slot of the blocks, as a list with a slot a block; and ``final_norm``.

    Raises:
        ValueError: A list has another length than there are stages, or a slot is none.
    """

    def __init__(self, arguments: BlockArguments, dims: Sequence[int], depths: Sequence[int], **place):
        self.dims, self.depths, self.place = dims, depths, place
        self.form, self.share_norm, self.followed = arguments.form, arguments.share_norm, arguments.followed
        resolve = partial(resolve_stage_slots, depths=depths)
        if len(depths) == 1:
            resolve = partial(resolve_slots, depth=depths[0])
        self.slots = {name: resolve(getattr(arguments, name), label=name) for name in PER_BLOCK}
        last = arguments.final_norm
        self.slots["final_norm"] = self.slots["norm"][-1:] if last is True else resolve_slots(last, 1, "final_norm")
        self.scales = {name: _per_stage(getattr(arguments, name), len(depths), name) for name in PER_STAGE}
        self.rates = calculate_drop_path_rates(arguments.drop_path_rate, list(depths), stagewise=True)
        if arguments.drop_path_rule == "constant":
            self.rates = [[arguments.drop_path_rate] * depth for depth in depths]

    def blocks(self, stage: int, grid: tuple[int, ...]) -> list[MetaBlock]:
        """The blocks of a stage.

        Args:
            stage: Its number.
            grid: The grid of its positions.
        """
        dim, first, followed = self.dims[stage], sum(self.depths[:stage]), self.followed
        blocks = []
        for i in range(self.depths[stage]):
            token, channel, norm = (self.slots[name][first + i] for name in PER_BLOCK)
            blocks.append(
                MetaBlock(
                    dim,
                    token_mixer=build_block("token_mixer", token, dim, defaults=followed, grid=grid, **self.place),
                    channel_mixer=build_block("channel_mixer", channel, dim, defaults=followed, **self.place),
                    norm=partial(build_block, "norm", norm, **self.place),
                    form=self.form,
                    share_norm=self.share_norm,
                    drop_path=self.rates[stage][i],
                    **{name: scales[stage] for name, scales in self.scales.items()},
                    **self.place,
                )
            )
        return blocks

    def final_norm(self) -> nn.Module:
        """The norm behind the last block."""
        return build_block("norm", self.slots["final_norm"][0], self.dims[-1], **self.place)


def _per_stage(value: float | None | Sequence[float | None], stages: int, name: str) -> list[float | None]:
    """A value for each stage, from one for all or a list."""
    if not isinstance(value, (list, tuple)):
        return [value] * stages
    if len(value) != stages:
        raise ValueError(f"{name} has {len(value)} entries for {stages} stages; give one value for all, or one a stage")
    return list(value)
