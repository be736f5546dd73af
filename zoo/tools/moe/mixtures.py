"""Where the mixtures of a model stand, in the model and in the slots of its config: what surgery on models shares."""

import inspect
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from operator import attrgetter

from torch import nn

from zoo.blocks.base import MetaBlock, PatchesOnly
from zoo.blocks.mixer import trait
from zoo.blocks.moe.layer import MoE
from zoo.skeletons.model import Model
from zoo.slots import Slot, SlotLike, parse_slot
from zoo.slots.table import blocks_of

Places = int | Sequence[int] | None
KINDS = ("token_mixer", "channel_mixer")


@dataclass(frozen=True)
class Place:
    """Where one mixture stands.

    Attributes:
        block: Number of the block around it.
        kind: Kind of the block's slot that holds it.
        path: The options of that slot, one in another, that hold it; empty where the slot itself describes it.
        name: Name of the mixture among the model's modules.
        mixture: The mixture.
    """

    block: int
    kind: str
    path: tuple[str, ...]
    name: str
    mixture: MoE

    @property
    def key(self) -> int | str:
        """The number of the block whose channel mixer it is; for a mixture in any other place its name."""
        direct = not self.path and self.name.endswith(".channel_mixer")
        return self.block if direct else self.name

    def slot(self, model: Model) -> Slot:
        """The slot whose options are those of the mixture."""
        slot, kind = model.config[self.kind][self.block], self.kind
        for option in self.path:
            slot, kind = parse_slot(option_of(kind, slot, option)), option
        return slot

    def router(self, model: Model) -> Slot:
        """The slot of the router."""
        return parse_slot(option_of(self.path[-1] if self.path else self.kind, self.slot(model), "router"))

    def note(self, model: Model, options: dict[str, SlotLike]) -> None:
        """Write into the config that the mixture has these options now."""
        slots = model.config[self.kind]
        slots[self.block] = _exchanged(self.kind, slots[self.block], self.path, options)


def option_of(kind: str, slot: Slot, name: str) -> SlotLike:
    """An option of a slot, or what the class of that name has by default."""
    return slot.options.get(name, inspect.signature(blocks_of(kind)[slot.name]).parameters[name].default)


def _exchanged(kind: str, slot: Slot, path: tuple[str, ...], options: dict[str, SlotLike]) -> Slot:
    """The slot with other options at the end of a path."""
    if not path:
        return Slot(slot.name, {**slot.options, **options})
    inner = _exchanged(path[0], parse_slot(option_of(kind, slot, path[0])), path[1:], options)
    return Slot(slot.name, {**slot.options, path[0]: str(inner)})


def find_mixtures(model: nn.Module, at: Places = None, every: int | None = None) -> list[Place]:
    """The mixtures of the blocks that are asked for, by default of all, in the order of the blocks.

    A mixer that is no mixture may hold some, and says where: in ``mixture`` the name of one that its own options
    describe, in ``within`` the names of modules by the options that describe them.

    Raises:
        TypeError: It is no model of zoo.
        ValueError: A block is not there or has no mixture; or a mixture's slot, or its router's, has no name; or
            nothing says which slot describes a mixture; or its experts are split over processes.
    """
    blocks = blocks_of_model(model)
    names = {module: name for name, module in model.named_modules()}
    every_place = [
        Place(i, kind, path, names[mixture], mixture)
        for i, block in enumerate(blocks)
        for kind in KINDS
        for path, mixture in _mixtures_of(getattr(block, kind))
    ]
    if at is None and every is None:
        _check_described(names, every_place)
    able = sorted({place.block for place in every_place})
    chosen = choose_blocks(len(blocks), at, every, able, "a mixture of experts")
    places = [place for place in every_place if place.block in chosen]
    for place in places:
        _check(model, place)
    return places


def _mixtures_of(mixer: nn.Module | None) -> Iterator[tuple[tuple[str, ...], MoE]]:
    """The mixtures that a mixer is or has within, each with the options that lead to it."""
    if isinstance(mixer, PatchesOnly):
        mixer = mixer.mixer
    if isinstance(mixer, MoE):
        yield (), mixer
    if name := trait(mixer, "mixture"):
        yield (), attrgetter(name)(mixer)
    for option, name in trait(mixer, "within").items():
        for path, mixture in _mixtures_of(attrgetter(name)(mixer)):
            yield (option, *path), mixture


def _check_described(names: dict[nn.Module, str], places: list[Place]) -> None:
    known = {place.mixture for place in places}
    for module, name in names.items():
        if isinstance(module, MoE) and module not in known:
            raise ValueError(
                f"nothing says which slot describes the mixture {name}; let the mixer around it name it in `mixture` "
                "or `within`, as those of zoo.blocks.token.token_moe do, or choose other blocks by at="
            )


def _check(model: Model, place: Place) -> None:
    slot, kind = model.config[place.kind][place.block], place.kind
    for option in (*place.path, "router"):
        named = slot.name is not None
        slot, kind = (parse_slot(option_of(kind, slot, option)), option) if named else (slot, kind)
        if not named or slot.name is None:
            raise ValueError(
                f"the mixture of block {place.block}, or its router, was given as a class; register it and give its "
                "name"
            )
    if place.mixture.experts.exchange is not None:
        raise ValueError(
            f"the experts of block {place.block} are split over processes; save the model, and load it in one"
        )


# --- Blocks -----------------------------------------------------------------------------------------------------------


def blocks_of_model(model: nn.Module) -> list[MetaBlock]:
    """The blocks of a model, in the order of its slots."""
    if not isinstance(model, Model):
        raise TypeError(
            f"a model of zoo.create_model is needed, not a {type(model).__name__}; for one wrapped for features, "
            "compiled or distributed, give the model inside it"
        )
    blocks = list(_outermost(model))
    if not blocks:
        raise ValueError(f"{type(model).__name__} has no blocks with channel mixers")
    return blocks


def _outermost(module: nn.Module) -> Iterator[MetaBlock]:
    """The blocks below a module, without those that a mixer has within."""
    for child in module.children():
        if isinstance(child, MetaBlock):
            yield child
        else:
            yield from _outermost(child)


def choose_blocks(depth: int, at: Places, every: int | None, able: list[int], part: str) -> list[int]:
    """The indices of the blocks that are asked for, all of which must be among those that are able."""
    if at is None and every is None:
        if not able:
            raise ValueError(f"no block of the model has {part}")
        return able
    places = [] if at is None else list(at) if isinstance(at, Iterable) else [at]
    for place in places:
        if not -depth <= place < depth:
            raise ValueError(f"at={at} is outside the model's {depth} blocks")
    if every is not None and not 1 <= every <= depth:
        raise ValueError(f"every={every} is not from 1 to the model's {depth} blocks")
    chosen = {place % depth for place in places} | set(range(depth)[every - 1 :: every] if every else ())
    if chosen - set(able):
        raise ValueError(f"blocks {sorted(chosen - set(able))} do not have {part}; those that have: {able}")
    return sorted(chosen)


def block_widths(model: Model) -> list[int]:
    """The number of channels of each block."""
    if "dims" not in model.config:
        return [model.config["dim"]] * model.config["depth"]
    return [dim for dim, depth in zip(model.config["dims"], model.config["depths"], strict=True) for _ in range(depth)]
