"""What is said of all blocks of a model -> one slot for each of them."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from zoo.checks import MANY, printable, shown
from zoo.slots.slot import Slot, SlotLike, copied, parse_slot

# A model takes a `SlotLike`, a list of them, or a mapping with EXCHANGES.
EXCHANGES = ("every", "at")  # in this order

OTHERS = "others"  # in such a mapping, instead of a name: a list, or whatever else a model takes


def resolve_slots(value: SlotLike | Sequence[SlotLike], depth: int, label: str = "slot") -> list[Slot]:
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
        label: Name of the slot in error messages.

    Raises:
        ValueError: The list is empty or longer than `depth`, an index of `at` or a number of `every` is outside the
            blocks, or nothing is said of the other blocks.
    """
    if exchanges(value):
        return _exchange(value, depth, label, lambda others: resolve_slots(others, depth, label))
    if isinstance(value, (list, tuple)):
        if not 0 < len(value) <= depth:
            raise ValueError(
                f"{label} has {len(value)} entries for {depth} blocks; give one for all, or a cycle of 1 to {depth}"
            )
        return [parse_slot(value[i % len(value)], f"{label}[{i % len(value)}]") for i in range(depth)]
    return [parse_slot(value, label) for _ in range(depth)]


def resolve_stage_slots(value: SlotLike | Sequence, depths: Sequence[int], label: str = "slot") -> list[Slot]:
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
        label: Name of the slot in error messages.

    Raises:
        ValueError: The list is of another length, or a mapping is wrong as in `resolve_slots`.
    """
    total = sum(depths)
    if exchanges(value):
        return _exchange(value, total, label, lambda others: resolve_stage_slots(others, depths, label))
    if not isinstance(value, (list, tuple)):
        return [parse_slot(value, label) for _ in range(total)]
    if len(value) == 1 and isinstance(value[0], (list, tuple)):
        value = list(value) * len(depths)
    if len(value) == len(depths):
        slots = []
        for stage, (entry, depth) in enumerate(zip(value, depths, strict=True)):
            where = f"{label}[{stage}]"
            if not isinstance(entry, (list, tuple)):
                slots += [parse_slot(entry, where) for _ in range(depth)]
            elif not entry:
                raise ValueError(f"{label} has an empty list for a stage; give it a slot, or a list of them to repeat")
            else:
                places = [i % len(entry) for i in range(depth)]
                slots += [parse_slot(entry[place], f"{where}[{place}]") for place in places]
        return slots
    if len(value) == total:
        return [parse_slot(entry, f"{label}[{i}]") for i, entry in enumerate(value)]
    raise ValueError(
        f"{label} has {len(value)} entries for {len(depths)} stages of {total} blocks; give one slot for all, one a "
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


def _exchange(value: Mapping, depth: int, label: str, resolve: Callable[[Any], list[Slot]]) -> list[Slot]:
    """The slots of a mapping with ``at`` or ``every``: those of the other blocks, some exchanged."""
    value = copied(value, label)  # no deeper than a slot may be
    others = {k: v for k, v in value.items() if k not in EXCHANGES}
    keys = " and ".join(f'"{key}"' for key in EXCHANGES if key in value)
    if not others:
        raise ValueError(f'{label} has {keys} but no slot for the other blocks; add "name", or "{OTHERS}" for a list')
    if OTHERS in others and len(others) > 1:
        beside = ", ".join(sorted(printable(key, 100) for key in others if key != OTHERS)[:MANY])
        raise ValueError(
            f'{label} has "{OTHERS}" beside {beside}; it is what the other blocks get, so write their options into it'
        )
    slots = list(resolve(others.get(OTHERS, others)))
    for key in EXCHANGES:
        if not isinstance(value.get(key, {}), Mapping):
            entry, example = shown(value[key]), f'{{{key}: {{2: "moe"}}}}'
            raise ValueError(f"{label} has {key}={entry}; it must be a mapping such as {example}")
    for number, slot in value.get("every", {}).items():
        where = f"{label}: every={{{shown(number)}: …}}"
        step = _number(number, where)
        if not 1 <= step <= depth:
            raise ValueError(f"{where} is not from 1 to the model's {depth} blocks")
        slots[step - 1 :: step] = [parse_slot(slot, where) for _ in range(depth // step)]
    exchanged = set()
    for index, slot in value.get("at", {}).items():
        where = f"{label}: at={{{shown(index)}: …}}"
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
