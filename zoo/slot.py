"""One slot: ``"name(option=value)"`` as an object, from the text or mapping that a user gives, and back into text."""

import ast
import functools
import inspect
import math
import reprlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import nn

SlotLike = Any  # str | Mapping | type | functools.partial | Slot | None


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

    The options are the slot's own: whoever changes them later changes no other slot, and nothing that was given.

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
        return Slot(value.name, copied(value.options), value.factory)
    if isinstance(value, str):
        return _parse_string(value)
    if isinstance(value, Mapping):
        options = copied(value)
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


def copied(value: Any) -> Any:
    """A value whose mappings, lists, tuples and sets are copies, at any depth; what else is in them stays as it is.

    Example:
        >>> old = {"experts": ["mlp"]}
        >>> new = copied(old)
        >>> new["experts"].append("glu")
        >>> old
        {'experts': ['mlp']}
    """
    if isinstance(value, Mapping):
        return {key: copied(entry) for key, entry in value.items()}
    if type(value) in (list, tuple, set):
        return type(value)(map(copied, value))
    return parse_slot(value) if isinstance(value, Slot) else value


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
