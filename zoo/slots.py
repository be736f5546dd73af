"""Slots: ``"name(option=value)"`` -> a checked block, one for each place of a model.

A slot is a string, a mapping ``{"name": ..., option: value}``, a class or partial, or None. A model takes one slot for
all its blocks, a list (a cycle over the blocks), or a mapping that exchanges blocks: ``at={index: slot}`` single ones,
``every={n: slot}`` each n-th. Such a mapping that has no name leaves the model's own slots to the other blocks.
"""

import ast
import difflib
import functools
import inspect
import math
import reprlib
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import nn

from zoo.blocks.register import blocks_of
from zoo.blocks.register import register as register_block  # noqa: F401 - public as zoo.register_block

# str | Mapping | type | functools.partial | Slot | None; where a model takes them a list, or a mapping with EXCHANGES
SlotLike = Any
EXCHANGES = ("every", "at")  # in this order
OTHERS = "others"  # in such a mapping, instead of a name: a list, or whatever else a model takes


NEVER_NONE = ("router", "dispatch", "experts")  # kinds that cannot be left out; a basis says so itself


@dataclass(frozen=True)
class Slot:
    """A block by name with its options, or by class; `name` is None for a class that no name stands for."""

    name: str | None
    options: dict[str, Any] = field(default_factory=dict)
    factory: Callable[..., nn.Module] | None = None

    def __str__(self) -> str:
        if self.name is None:
            return repr(self.factory)
        options = ", ".join(f"{k}={_literal(v)}" for k, v in self.options.items())
        return f"{self.name}({options})" if options else self.name


def parse_slot(value: SlotLike) -> Slot:
    """Read one slot. Strings are parsed as Python call syntax with literal arguments; nothing is evaluated.

    Example:
        >>> parse_slot("mlp(ratio=2, act='relu')")
        Slot(name='mlp', options={'ratio': 2, 'act': 'relu'}, factory=None)
        >>> str(parse_slot({"name": "mlp", "ratio": 2}))
        'mlp(ratio=2)'

    Raises:
        ValueError: The string is no name or call with literal keyword arguments, or the mapping has no name.
        TypeError: The value is of another type.
    """
    if value is None:
        return Slot("none")
    if isinstance(value, Slot):
        return value
    if isinstance(value, str):
        return _parse_string(value)
    if isinstance(value, Mapping):
        options = dict(value)
        name = options.pop("name", None)
        if not isinstance(name, str):
            raise ValueError(f'slot {dict(value)!r} has no name; write {{"name": "mlp", "ratio": 4}}')
        return Slot(name, options)
    if isinstance(value, (type, functools.partial)) or inspect.isfunction(value):
        return Slot(None, factory=value)
    raise TypeError(f"slot {value!r} is a {type(value).__name__}; give a string, a mapping, a class or None")


def _parse_string(text: str) -> Slot:
    rule = f"slot {text!r} is not of the form name or name(option=value, …) with literal values"
    try:
        node = ast.parse(text.strip(), mode="eval").body
    except SyntaxError:
        raise ValueError(rule) from None
    if isinstance(node, ast.Constant) and node.value is None:
        return Slot("none")
    if isinstance(node, ast.Name):
        return Slot(node.id)
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name) or node.args:
        raise ValueError(rule)
    options = {}
    for keyword in node.keywords:
        try:
            options[keyword.arg] = ast.literal_eval(keyword.value)
        except ValueError:
            raise ValueError(f"{rule}: {keyword.arg} is {ast.unparse(keyword.value)}") from None
    if None in options:
        raise ValueError(rule)
    return Slot(node.func.id, options)


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
        return [parse_slot(value[i % len(value)]) for i in range(depth)]
    return [parse_slot(value)] * depth


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
        return [parse_slot(value)] * total
    if len(value) == 1 and isinstance(value[0], (list, tuple)):
        value = list(value) * len(depths)
    if len(value) == len(depths):
        cycles = [entry if isinstance(entry, (list, tuple)) else [entry] for entry in value]
        if not all(cycles):
            raise ValueError(f"{what} has an empty list for a stage; give it a slot, or a list of them to repeat")
        return [
            parse_slot(cycle[i % len(cycle)]) for cycle, depth in zip(cycles, depths, strict=True) for i in range(depth)
        ]
    if len(value) == total:
        return [parse_slot(entry) for entry in value]
    raise ValueError(
        f"{what} has {len(value)} entries for {len(depths)} stages of {total} blocks; give one slot for all, one a "
        f"stage, one a block, or {[list(value)]!r} for a cycle within every stage"
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
    others = {k: v for k, v in value.items() if k not in EXCHANGES}
    given = " and ".join(f'"{key}"' for key in EXCHANGES if key in value)
    if not others:
        raise ValueError(f'{what} has {given} but no slot for the other blocks; add "name", or "{OTHERS}" for a list')
    if OTHERS in others and len(others) > 1:
        raise ValueError(
            f'{what} has "{OTHERS}" beside {", ".join(sorted(others.keys() - {OTHERS}))}; it is all that the other '
            "blocks get, so write their options into it"
        )
    slots = list(resolve(others.get(OTHERS, others)))
    for key in EXCHANGES:
        if not isinstance(value.get(key, {}), Mapping):
            raise ValueError(f'{what} has {key}={value[key]!r}; it must be a mapping such as {{{key}: {{2: "moe"}}}}')
    for number, slot in value.get("every", {}).items():
        step = _number(number, f"{what}: every={{{number}: …}}")
        if not 1 <= step <= depth:
            raise ValueError(f"{what}: every={{{number}: …}} is not from 1 to the model's {depth} blocks")
        slots[step - 1 :: step] = [parse_slot(slot)] * (depth // step)
    for index, slot in value.get("at", {}).items():
        place = _number(index, f"{what}: at={{{index}: …}}")
        if not -depth <= place < depth:
            raise ValueError(f"{what}: at={{{index}: …}} is outside the model's {depth} blocks")
        slots[place] = parse_slot(slot)
    return slots


def _number(key: int | str, where: str) -> int:
    """A key of a mapping as a whole number; those of JSON and YAML may be strings."""
    try:
        return int(key)
    except (TypeError, ValueError):
        raise ValueError(f"{where} has the key {key!r}, which must be a whole number") from None


def dump_slots(slots: Sequence[Slot], what: str = "slot") -> str | list[str]:
    """The shortest plain form that `resolve_slots` turns into the same slots: a string, or a list of strings.

    Numbers of numpy become Python's, a slot within a slot its string.

    Example:
        >>> dump_slots([Slot("moe", {"router": Slot("top_k"), "capacity_factor": float("inf")})] * 2)
        "moe(router='top_k', capacity_factor=1e999)"

    Raises:
        ValueError: A slot, or an option within it, is a class, an array or whatever else has no literal; a name or an
            option is no identifier.
    """
    names = [_dump(slot, what) for slot in slots]
    return names[0] if len(set(names)) == 1 else names


def _dump(slot: Slot, what: str) -> str:
    if slot.name is None:
        raise ValueError(
            f"{what} was given as {slot}, which cannot be saved by name; register the class with "
            "zoo.register_block and give its name, or save the state dict yourself"
        )
    for option, value in slot.options.items():
        _literal(value, f"{what} {slot.name}: {option}")
    text = str(slot)
    try:
        same = (again := parse_slot(text)).name == slot.name and str(again) == text
    except ValueError:
        same = False
    if not same:
        raise ValueError(
            f"{what} {text!r} cannot be read back from a file; the names of blocks and options must be identifiers"
        )
    return text


def _literal(value: Any, where: str | None = None) -> str:
    """A value as text that `ast.literal_eval` turns into the same value.

    What has no such text gives its `repr`, or with `where` a ValueError that begins so.
    """
    if isinstance(value, Slot) and value.name is not None:
        return repr(_dump(value, where) if where else str(value))
    if isinstance(value, np.generic) and not isinstance(value.item(), np.generic):
        return _literal(value.item(), where)
    if isinstance(value, (list, tuple)):
        inner = ", ".join(_literal(v, where) for v in value)
        return f"[{inner}]" if isinstance(value, list) else f"({inner},)" if len(value) == 1 else f"({inner})"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_literal(k, where)}: {_literal(v, where)}" for k, v in value.items()) + "}"
    if type(value) is float and math.isinf(value):
        return "1e999" if value > 0 else "-1e999"  # repr's `inf` is a name
    plain = value is None or type(value) in (bool, int, float, str, bytes)
    if where and (not plain or value != value):
        kind = "no number" if plain else f"a {type(value).__name__}"
        remedy = "give numbers, strings, lists or mappings of them"
        if isinstance(value, (type, Slot, functools.partial)) or callable(value):
            remedy = "register the class with zoo.register_block and give its name"
        raise ValueError(f"{where} is {reprlib.repr(value)}, {kind}, which a file cannot hold; {remedy}")
    return repr(value)


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
    slot = parse_slot(slot)
    if slot.name is None:
        cls, title = slot.factory, getattr(slot.factory, "__name__", repr(slot.factory))
    else:
        known = blocks_of(kind)
        if slot.name == "none" and "none" not in known and kind not in NEVER_NONE:
            if slot.options:
                raise ValueError(f"{kind} none has no options, and {slot} gives {', '.join(slot.options)}")
            return None
        if slot.name not in known:
            raise ValueError(unknown(f"{kind} {slot.name!r}", slot.name, known))
        cls, title = known[slot.name], f"{kind} {slot.name}"
    takes = inspect.signature(cls).parameters
    options = [name for name, p in takes.items() if p.kind is p.KEYWORD_ONLY]
    if not options:  # a torch class such as nn.GELU: all its arguments are options
        options = [n for n, p in takes.items() if p.kind is not p.VAR_KEYWORD][len(args) :]
    options = [name for name in options if name not in ("grid", "device", "dtype")]
    for name, value in slot.options.items():
        if name not in options:
            raise ValueError(unknown(f"{title} has no option {name!r}", name, options, "options"))
        check_type(f"{title}: {name}", value, _hints(cls).get(name))
    anything = any(p.kind is p.VAR_KEYWORD for p in takes.values())
    passed = {k: v for k, v in {**(defaults or {}), **given}.items() if k in takes or (anything and k in given)}
    return cls(*args, **{**passed, **slot.options})


def create_block(kind: str, slot: SlotLike, dim: int, **kwargs) -> nn.Module | None:
    """A block alone, by name.

    Example:
        >>> mixer = create_block("channel_mixer", "glu(act='gelu')", dim=12)
        >>> mixer(nn.Identity()(__import__("torch").ones(2, 12))).shape
        torch.Size([2, 12])

    Args:
        kind: ``token_mixer``, ``channel_mixer`` or ``norm``.
        slot: Name with options, mapping or class.
        dim: Number of channels.
        kwargs: ``grid`` for a mixer whose weights depend on it, ``device``, ``dtype``.

    Raises:
        ValueError: The name or an option is unknown, or a needed grid was not given.
    """
    cls = blocks_of(kind).get(parse_slot(slot).name)
    if getattr(cls, "needs_grid", False) and "grid" not in kwargs:
        raise ValueError(
            f"{kind} {slot} has weights for a grid of positions; give grid=(height, width) or grid=(length,)"
        )
    return build_block(kind, slot, dim, **kwargs)


def list_blocks(kind: str) -> list[str]:
    """Names of all blocks of a kind: ``token_mixer``, ``channel_mixer``, ``norm``, ``act``, ``stem``, ``downsample``,
    ``basis``, ``router``, ``dispatch`` or ``experts``.

    Example:
        >>> "attention" in list_blocks("token_mixer")
        True
    """
    return sorted({*blocks_of(kind), *(() if kind in ("basis", *NEVER_NONE) else ("none",))})


def build_act(slot: SlotLike, *, device=None, dtype=None) -> nn.Module:
    """The activation of a slot. Few have parameters, and classes such as `nn.Tanh` take no device: it is moved."""
    return build_block("act", slot).to(device=device, dtype=dtype)


def unknown(problem: str, name: str, known, what: str = "known") -> str:
    """A message for an unknown name: the problem, the nearest name, and all there are.

    Example:
        >>> unknown("model 'vti'", "vti", ["vit", "gmlp"])
        "model 'vti' is unknown; did you mean 'vit'? Known: gmlp, vit"
    """
    known = sorted(map(str, known))
    near = difflib.get_close_matches(str(name), known, 1, 0.5)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    problem = problem if " has no " in problem else f"{problem} is unknown"
    return f"{problem}{hint} {what.capitalize()}: {', '.join(known) or 'none'}"


def check_type(what: str, value: Any, hint: Any) -> None:
    """Check a value against a plain annotation (bool, int, float, str, and unions of them); others pass.

    Raises:
        TypeError: The value is of another type.
    """
    is_union = typing.get_origin(hint) in (types.UnionType, typing.Union)  # Python 3.10 makes the latter of `= None`
    kinds = typing.get_args(hint) if is_union else (hint,)
    if not set(kinds) <= {bool, int, float, str, type(None)}:
        return
    fits = type(value) in kinds or (float in kinds and type(value) is int)
    if not fits:
        names = " or ".join("None" if k is type(None) else k.__name__ for k in kinds)
        raise TypeError(f"{what} is {value!r}, a {type(value).__name__}; it must be {names}")


@functools.cache
def _hints(cls) -> dict[str, Any]:
    function = cls.__init__ if isinstance(cls, type) else getattr(cls, "func", cls)
    try:
        return typing.get_type_hints(function)
    except (NameError, TypeError):
        return {}
