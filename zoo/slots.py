"""Slots: ``"name(option=value)"`` -> a checked block, one for each place of a model.

A slot is a string, a mapping ``{"name": ..., option: value}``, a class or partial, or None. A model takes one slot for
all its blocks, a list (a cycle over the blocks), or a mapping that exchanges blocks: ``at={index: slot}`` single ones,
``every={n: slot}`` each n-th. Such a mapping that has no name leaves the model's own slots to the other blocks.
"""

import functools
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn

from zoo.blocks.register import blocks_of
from zoo.blocks.register import register as register_block  # noqa: F401 - public as zoo.register_block
from zoo.checks import MANY, check_argument, hints_of, printable, shown, unknown
from zoo.slot import Slot, SlotLike, SlotsLike, copied, dump_slots, parse_slot  # noqa: F401 - the one slot and its text
from zoo.use import USE, watched

# A model takes a `SlotLike`, a list of them, or a mapping with EXCHANGES.
EXCHANGES = ("every", "at")  # in this order
OTHERS = "others"  # in such a mapping, instead of a name: a list, or whatever else a model takes

NEVER_NONE = ("router", "dispatch", "experts", "stem", "downsample")  # cannot be left out; a basis says so itself
OF_THE_MODEL = ("grid", "device", "dtype")  # arguments that no slot may set
RANKS = frozenset({1, 2})  # what a token mixer works on that does not say so in `spatial`: sequences and images


def resolve_slots(value: SlotLike | Sequence[SlotLike], depth: int, what: str = "slot") -> list[Slot]:
    """One slot for each of `depth` blocks.

    Example:
        >>> [str(s) for s in resolve_slots(["pool", "attention"], 4)]
        ['pool', 'attention', 'pool', 'attention']
        >>> [str(s) for s in resolve_slots({"name": "mlp", "ratio": 2, "at": {-1: "glu"}}, 3)]
        ['mlp(ratio=2)', 'mlp(ratio=2)', 'glu']
        >>> [str(s) for s in resolve_slots({"others": ["mlp", "glu"], "every": {2: "moe"}}, 5)]
        ['mlp', 'moe', 'mlp', 'moe', 'mlp']

    Args:
        value: One slot; a list of slots, repeated as a cycle; or a mapping with the key ``every``, whose slot goes to
            the blocks n - 1, 2n - 1, …, or ``at``, or both, of which ``at`` has the last word. The other blocks get the
            slot that the rest of the mapping is, or what is under the key ``others``.
        depth: Number of blocks.
        what: Name of the slot in error messages.

    Raises:
        ValueError: The list is empty or longer than `depth`, an index of `at` or a number of `every` is outside the
            blocks, or nothing is said of the other blocks.
    """
    if exchanges(value):
        return _exchange(value, depth, what, lambda others: resolve_slots(others, depth, what))
    if isinstance(value, (list, tuple)):
        if not 0 < len(value) <= depth:
            raise ValueError(
                f"{what} has {len(value)} entries for {depth} blocks; give one for all, or a cycle of 1 to {depth}"
            )
        return [parse_slot(value[i % len(value)], f"{what}[{i % len(value)}]") for i in range(depth)]
    return [parse_slot(value, what) for _ in range(depth)]


def resolve_stage_slots(value: SlotLike | Sequence, depths: Sequence[int], what: str = "slot") -> list[Slot]:
    """One slot for each block of a model whose stages have `depths` blocks.

    Example:
        >>> [str(s) for s in resolve_stage_slots(["pool", ["window", "shifted_window"]], [1, 3])]
        ['pool', 'window', 'shifted_window', 'window']
        >>> [str(s) for s in resolve_stage_slots({"name": "mlp", "at": {-1: "glu"}}, [1, 2])]
        ['mlp', 'mlp', 'glu']

    Args:
        value: One slot for all blocks; a list with an entry a stage, each a slot or a list, a cycle within the stage; a
            list of one list, that cycle in every stage; a list with a slot for every block of the model; or a mapping
            with the keys ``at`` and ``every`` as in `resolve_slots`, which count the blocks of all stages.
        depths: Number of blocks of each stage.
        what: Name of the slot in error messages.

    Raises:
        ValueError: The list is of another length, or a mapping is wrong as in `resolve_slots`.
    """
    total = sum(depths)
    if exchanges(value):
        return _exchange(value, total, what, lambda others: resolve_stage_slots(others, depths, what))
    if not isinstance(value, (list, tuple)):
        return [parse_slot(value, what) for _ in range(total)]
    if len(value) == 1 and isinstance(value[0], (list, tuple)):
        value = list(value) * len(depths)
    if len(value) == len(depths):
        slots = []
        for stage, (entry, depth) in enumerate(zip(value, depths, strict=True)):
            where = f"{what}[{stage}]"
            if not isinstance(entry, (list, tuple)):
                slots += [parse_slot(entry, where) for _ in range(depth)]
            elif not entry:
                raise ValueError(f"{what} has an empty list for a stage; give it a slot, or a list of them to repeat")
            else:
                places = [i % len(entry) for i in range(depth)]
                slots += [parse_slot(entry[place], f"{where}[{place}]") for place in places]
        return slots
    if len(value) == total:
        return [parse_slot(entry, f"{what}[{i}]") for i, entry in enumerate(value)]
    raise ValueError(
        f"{what} has {len(value)} entries for {len(depths)} stages of {total} blocks; give one slot for all, one a "
        f"stage, one a block, or {shown([list(value)])} for a cycle within every stage"
    )


def exchanges(value: SlotLike) -> bool:
    """Whether it is a mapping that exchanges blocks by ``at`` or ``every``."""
    return isinstance(value, Mapping) and any(key in value for key in EXCHANGES)


def with_others(value: SlotLike, own: SlotLike) -> SlotLike:
    """A mapping that exchanges blocks and says nothing of the others, with a model's own slots for these.

    Example:
        >>> with_others({"at": {-1: "moe"}}, ["pool", "attention"])
        {'at': {-1: 'moe'}, 'others': ['pool', 'attention']}

    Returns:
        The completed mapping; any other value as it is.
    """
    return {**value, OTHERS: own} if exchanges(value) and not set(value) - set(EXCHANGES) else value


def _exchange(value: Mapping, depth: int, what: str, resolve: Callable[[Any], list[Slot]]) -> list[Slot]:
    """The slots of a mapping with ``at`` or ``every``: those of the other blocks, some exchanged."""
    copied(value, what)  # no deeper than a slot may be
    others = {k: v for k, v in value.items() if k not in EXCHANGES}
    given = " and ".join(f'"{key}"' for key in EXCHANGES if key in value)
    if not others:
        raise ValueError(f'{what} has {given} but no slot for the other blocks; add "name", or "{OTHERS}" for a list')
    if OTHERS in others and len(others) > 1:
        beside = ", ".join(sorted(printable(key, 100) for key in others if key != OTHERS)[:MANY])
        raise ValueError(
            f'{what} has "{OTHERS}" beside {beside}; it is what the other blocks get, so write their options into it'
        )
    slots = list(resolve(others.get(OTHERS, others)))
    for key in EXCHANGES:
        if not isinstance(value.get(key, {}), Mapping):
            found, example = shown(value[key]), f'{{{key}: {{2: "moe"}}}}'
            raise ValueError(f"{what} has {key}={found}; it must be a mapping such as {example}")
    for number, slot in value.get("every", {}).items():
        where = f"{what}: every={{{shown(number)}: …}}"
        step = _number(number, where)
        if not 1 <= step <= depth:
            raise ValueError(f"{where} is not from 1 to the model's {depth} blocks")
        slots[step - 1 :: step] = [parse_slot(slot, where) for _ in range(depth // step)]
    exchanged = set()
    for index, slot in value.get("at", {}).items():
        where = f"{what}: at={{{shown(index)}: …}}"
        place = _number(index, where)
        if not -depth <= place < depth:
            raise ValueError(f"{where} is outside the model's {depth} blocks")
        if place % depth in exchanged:
            raise ValueError(f"{where} is a block that another entry of at names too; give each block once")
        exchanged.add(place % depth)
        slots[place] = parse_slot(slot, where)
    return slots


def _number(key: int | str, where: str) -> int:
    """A key of a mapping as a whole number; those of JSON and YAML may be strings."""
    if type(key) is int or (isinstance(key, str) and re.fullmatch(r"-?[0-9]{1,9}", key)):
        return int(key)
    raise ValueError(f"{where} has the key {shown(key)}, which must be a whole number")


def build_block(
    kind: str, slot: SlotLike, *args, defaults: Mapping[str, Any] | None = None, **given
) -> nn.Module | None:
    """Build the block of a slot.

    Args:
        kind: A kind of `zoo.blocks.register.KINDS`.
        slot: One slot.
        args: Positional arguments of the class (a mixer's `dim`).
        defaults: Options that the slot may override, passed only if the class takes them.
        given: Arguments that belong to the model (`grid`, `device`, `dtype`), passed only if the class takes them; a
            slot may not set them.

    Returns:
        The module, or None for a mixer called ``none``.

    Raises:
        ValueError: The name, or an option, is unknown; the nearest one and all there are is said.
        TypeError: An option has a value of the wrong type.
    """
    slot = parse_slot(slot, getattr(slot, "where", "") or kind)
    cls, title = _class_of(kind, slot)
    if cls is None:
        return None
    takes = _takes(cls)
    _check_options(title, cls, slot.options, options_of(cls, len(args)))
    if kind == "token_mixer" and "grid" in given:
        check_rank(title, cls, given["grid"])
    anything = any(p.kind is p.VAR_KEYWORD for p in takes.values())
    passed = {k: v for k, v in {**(defaults or {}), **given}.items() if k in takes or (anything and k in given)}
    with watched() as within:
        block = cls(*args, **{**passed, **slot.options})
    if outer := USE.get():
        outer.note(kind, defaults or (), {k for k in passed if k not in slot.options}, within)
    return block


def _class_of(kind: str, slot: Slot) -> tuple[Callable[..., nn.Module] | None, str]:
    """What builds the block of a slot, None for no block, and what errors call it."""
    where = slot.where or kind
    if slot.name is None:
        cls = getattr(slot.factory, "func", slot.factory)  # a partial goes by the name of its class
        return slot.factory, getattr(cls, "__name__", repr(cls))
    known = blocks_of(kind)
    if slot.name == "none" and "none" not in known and kind not in NEVER_NONE:
        if slot.options:
            raise ValueError(f"{where} none has no options, and {shown(str(slot))} gives some; leave them out")
        return None, "none"
    if slot.name not in known:
        raise ValueError(unknown(f"{where} {shown(slot.name)}", slot.name, known))
    return known[slot.name], f"{where} {slot.name}"


def _check_options(title: str, cls: Callable[..., nn.Module], given: Mapping[str, Any], options: Sequence[str]) -> None:
    """Check the names and values of what a slot, or a caller, sets of a block.

    Raises:
        ValueError: A name is none of the options, or a value is out of its range.
        TypeError: A value is of the wrong type.
    """
    hints = hints_of(cls)
    for name, value in given.items():
        if name not in options:
            raise ValueError(unknown(f"{title} has no option {shown(name)}", name, options, "options"))
        check_argument(f"{title}: {name}", name, value, hints)


@functools.lru_cache(maxsize=1024)
def _takes(cls: Callable[..., nn.Module]) -> Mapping[str, inspect.Parameter]:
    """What builds a block takes; a class without a constructor of its own, such as `nn.Tanh`, takes nothing."""
    own = cls if not isinstance(cls, type) or cls.__init__ is not nn.Module.__init__ else lambda: None
    return inspect.signature(own).parameters


def options_of(cls: Callable[..., nn.Module], args: int = 0) -> list[str]:
    """Names of what a slot can set of a block: the arguments that are given by keyword only.

    A torch class such as `nn.GELU` has none of these; all its arguments but the first `args` are options.
    """
    takes = _takes(cls)
    options = [name for name, p in takes.items() if p.kind is p.KEYWORD_ONLY]
    if not options:
        options = [n for n, p in takes.items() if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)][args:]
    return [name for name in options if name not in OF_THE_MODEL]


def check_rank(title: str, cls: Callable[..., nn.Module], grid: Sequence[int]) -> None:
    """Check that a token mixer works on grids of so many dimensions: those in its `spatial`, else one and two.

    Raises:
        ValueError: It does not.
    """
    ranks = getattr(getattr(cls, "func", cls), "spatial", RANKS)  # a partial's class is asked
    if len(grid) not in ranks:
        raise ValueError(
            f"{title} works on grids of {' or '.join(map(str, sorted(ranks)))} dimensions, and the grid {tuple(grid)} "
            f"has {len(grid)}; choose another token_mixer, or another grid"
        )


def create_block(kind: str, slot: SlotLike, dim: int | None = None, **kwargs) -> nn.Module | None:
    """A block alone, by name.

    Example:
        >>> mixer = create_block("channel_mixer", "glu(act='gelu')", dim=12)
        >>> mixer(nn.Identity()(__import__("torch").ones(2, 12))).shape
        torch.Size([2, 12])
        >>> create_block("act", "gelu")
        GELU(approximate='none')

    Args:
        kind: A kind of `list_blocks`.
        slot: Name with options, mapping or class.
        dim: Number of channels, or of the features of a basis. An activation and a dispatch fit any number.
        kwargs: What else the block needs: ``grid`` for a mixer whose weights depend on it; ``in_chans`` for a stem,
            ``in_dim`` for downsampling; ``num_experts`` for experts, with ``top_k`` for a router. Besides, its options,
            ``device`` and ``dtype``.

    Returns:
        The module, or None for a mixer called ``none``.

    Raises:
        ValueError: The name or an option is unknown, or something that the block needs was not given.
        TypeError: An option has a value of the wrong type.
    """
    slot = parse_slot(slot, getattr(slot, "where", "") or kind)
    cls, title = _class_of(kind, slot)
    if cls is None:
        return None
    takes = _takes(cls)
    options = options_of(cls)
    first = [n for n, p in takes.items() if p.kind is p.POSITIONAL_OR_KEYWORD and n not in options]
    width = "dim" if "dim" in first else "features" if "features" in first else None
    if width and dim is not None:
        kwargs.setdefault(width, dim)
    needed = [*first, *(n for n, p in takes.items() if p.kind is p.KEYWORD_ONLY and p.default is p.empty)]
    missing = [n for n in needed if n not in kwargs and n not in slot.options]
    if "grid" in missing:
        raise ValueError(
            f"{kind} {printable(slot, 200)} has weights for a grid of positions; give grid=(height, width) or "
            "grid=(length,)"
        )
    if missing:
        names = ["dim" if name == width else name for name in missing]
        raise ValueError(
            f"{kind} {printable(slot, 200)} needs {', '.join(names)}; give create_block({kind!r}, {shown(str(slot))}, "
            f"{', '.join(f'{name}=…' for name in names)})"
        )
    anything = kwargs if any(p.kind is p.VAR_KEYWORD for p in takes.values()) else ()
    _check_options(title, cls, kwargs, [*first, *options, *OF_THE_MODEL, *anything])
    if kind == "act":
        place = {name: kwargs.pop(name, None) for name in ("device", "dtype")}
        return build_act(Slot(slot.name, {**slot.options, **kwargs}, slot.factory), **place)
    return build_block(kind, slot, *(kwargs.pop(name) for name in first), **kwargs)


def list_blocks(kind: str) -> list[str]:
    """Names of all blocks of a kind: ``token_mixer``, ``channel_mixer``, ``norm``, ``act``, ``stem``, ``downsample``,
    ``basis``, ``router``, ``dispatch`` or ``experts``. `create_block` makes each of them.

    Example:
        >>> "attention" in list_blocks("token_mixer")
        True
    """
    return sorted({*blocks_of(kind), *(() if kind in ("basis", *NEVER_NONE) else ("none",))})


def build_act(slot: SlotLike, *, device=None, dtype=None) -> nn.Module:
    """The activation of a slot. Few have parameters, and classes such as `nn.Tanh` take no device: it is moved."""
    return build_block("act", slot).to(device=device, dtype=dtype)
