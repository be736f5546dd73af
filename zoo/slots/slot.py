"""One slot: ``"name(option=value)"`` as an object, from the text or mapping that a user gives, and back into text."""

import ast
import functools
import inspect
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

import numpy as np
from torch import nn

from zoo.checks import Rule, printable, shown, unboxed

LONGEST = 2**16  # letters of a slot
DEEPEST = 32  # mappings and lists within each other
MOST = 2**17  # values in all of them together


@dataclass(frozen=True)
class Slot:
    """A block by name with its options, or by class; `name` is None for a class that no name stands for.

    `where` is the argument that it was given as, for errors: ``final_norm``, ``channel_mixer[3]``.
    """

    name: str | None
    options: dict[str, Any] = field(default_factory=dict)
    factory: Callable[..., nn.Module] | None = None
    where: str = field(default="", repr=False, compare=False)

    def __str__(self) -> str:
        if self.name is None:
            return repr(self.factory)
        options = ", ".join(f"{k}={_literal(v)}" for k, v in self.options.items())
        return f"{self.name}({options})" if options else self.name


def parse_slot(value: Any, where: str = "") -> Slot:
    """Read one slot. Strings are parsed as Python call syntax with literal arguments; nothing is evaluated.

    The options are the slot's own: whoever changes them later changes no other slot, and nothing that was given.

    Example:
        >>> parse_slot("mlp(ratio=2, act='relu')")
        Slot(name='mlp', options={'ratio': 2, 'act': 'relu'}, factory=None)
        >>> str(parse_slot({"name": "mlp", "ratio": 2}))
        'mlp(ratio=2)'

    Args:
        value: A string, a mapping with the key ``name``, a class, a partial, a function, a `Slot` or None.
        where: The argument that it was given as, for errors.

    Raises:
        ValueError: The string is no name or call with literal keyword arguments, is longer than `LONGEST` or gives an
            option twice; the mapping has no name, an option is no string, or it is nested deeper than `DEEPEST`.
        TypeError: The value is of another type.
    """
    label = where or "slot"
    if value is None:
        return Slot("none", {}, None, where)
    if isinstance(value, Slot):
        return Slot(value.name, copied(value.options, label), value.factory, where or value.where)
    if isinstance(value, str):
        return Slot(*_parse_string(value, label), None, where)
    if isinstance(value, Mapping):
        options = copied(value, label)
        name = options.pop("name", None)
        if not isinstance(name, str):
            raise ValueError(f'{label} {shown(value)} has no name; write {{"name": "mlp", "ratio": 4}}')
        for option in options:
            if not isinstance(option, str):
                raise ValueError(f"{label} {shown(value)} has the option {shown(option)}; options are named by strings")
        return Slot(name, options, None, where)
    if isinstance(value, (type, functools.partial)) or inspect.isfunction(value):
        return Slot(None, {}, value, where)
    raise TypeError(f"{label} {shown(value)} is a {type(value).__name__}; give a string, a mapping, a class or None")


def _parse_string(text: str, label: str) -> tuple[str, dict[str, Any]]:
    """The name and the options of a slot's text."""
    if len(text) > LONGEST:
        raise ValueError(f"{label} {shown(text)} has {len(text)} letters; it must be no longer than {LONGEST}")
    if text.isidentifier() and text != "None":
        return text, {}
    rule = f"{label} {shown(text)} is not of the form name or name(option=value, …) with literal values"
    if (place := _unreadable(text)) is not None:
        raise ValueError(f"{rule}: {shown(text[place : place + 40])} cannot be read there")
    try:
        node = ast.parse(text.strip(), mode="eval").body
    except PARSER_ERRORS:
        raise ValueError(rule) from None
    if isinstance(node, ast.Constant) and node.value is None:
        return "none", {}
    if isinstance(node, ast.Name):
        return node.id, {}
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name) or node.args:
        raise ValueError(rule)
    options = {}
    for keyword in node.keywords:
        if keyword.arg is None:
            raise ValueError(rule)
        if keyword.arg in options:
            raise ValueError(f"{label} {shown(text)} gives the option {shown(keyword.arg)} twice; give it once")
        try:
            options[keyword.arg] = ast.literal_eval(keyword.value)
        except PARSER_ERRORS:
            text_of_value = shown(ast.get_source_segment(text.strip(), keyword.value))[1:-1]
            raise ValueError(f"{rule}: {printable(keyword.arg)} is {text_of_value}") from None
        for twice in filter(None, map(_repeated_key, ast.walk(keyword.value))):
            raise ValueError(f"{label} {shown(text)} gives {twice} twice in {printable(keyword.arg)}; give it once")
    return node.func.id, options


# What `ast` raises for text that is no Python, no text at all, too large, or holds {[]: 1}.
PARSER_ERRORS = (SyntaxError, ValueError, TypeError, RecursionError, MemoryError, OverflowError)
TOKEN = re.compile(
    r"""
    (?P<space>\s+) | (?P<string>[rRbBuU]{0,2}(?:'(?:\\.|[^'\\\n])*'|"(?:\\.|[^"\\\n])*"))
    | (?P<number>(?:\d\w*(?:\.\w*)?|\.\d\w*)(?:(?<=[eE])[-+]\d\w*)?) | (?P<name>[^\W\d]\w*) | (?P<mark>[-+()\[\]{},:=])
    """,
    re.VERBOSE | re.DOTALL,
)


def _unreadable(text: str) -> int | None:
    """The place from which a text is no slot, or None.

    Python's parser is written in C, and what is stacked high (signs, sums, calls of calls) ends its stack and with it
    the process. So a slot has only what slots need: after its name, literals in brackets that are not too deep.
    """
    depth, before, place, start = 0, "start", 0, True
    while place < len(text):
        token = TOKEN.match(text, place)
        if token is None:
            return place
        kind, word = token.lastgroup, token.group()
        opens = before in ("=", "(", "[", "{", ",", ":")
        if kind == "name":
            is_option = depth == 1 and before in ("(", ",")
            right = before == "start" or is_option or (opens and word in ("None", "True", "False"))
        elif kind in ("number", "string"):
            right = opens or before == "sign" or before == kind == "string"
        elif word in ("-", "+"):
            right = opens
        elif word in ("(", "[", "{"):
            right = opens or (before == "head" and word == "(")
        else:
            right = kind == "space" or before not in ("start", "sign")
        depth += (word in ("(", "[", "{")) - (word in (")", "]", "}"))
        if not right or not 0 <= depth <= DEEPEST:
            return place
        if kind != "space":
            word = "sign" if word in ("-", "+") else word
            before = "head" if start else kind if kind != "mark" else word
            start = False
        place = token.end()
    return None


def _repeated_key(node: ast.AST) -> str | None:
    """A key that a literal mapping has twice."""
    if isinstance(node, ast.Dict):
        seen = set()
        for key in map(ast.literal_eval, node.keys):
            if key in seen:
                return shown(key)
            seen.add(key)
    return None


def copied(value: Any, label: str = "the value") -> Any:
    """A value whose mappings, lists, tuples and sets are copies, at any depth, and whose numbers are Python's own.

    Whatever else is in them stays as it is.

    Example:
        >>> old = {"experts": ["mlp"]}
        >>> new = copied(old)
        >>> new["experts"].append("glu")
        >>> old
        {'experts': ['mlp']}

    Raises:
        ValueError: It is nested deeper than `DEEPEST`, as one that contains itself, or holds more than `MOST` values.
    """
    left = MOST

    def copy(value: Any, depth: int) -> Any:
        nonlocal left
        left -= 1
        if depth > DEEPEST:
            raise ValueError(f"{label} is nested deeper than {DEEPEST}, or contains itself; make it flatter")
        if left < 0:
            raise ValueError(f"{label} holds more than {MOST} values; make it smaller")
        if isinstance(value, Mapping):
            return {unboxed(key): copy(entry, depth + 1) for key, entry in value.items()}
        if type(value) in (list, tuple, set):
            return type(value)([copy(entry, depth + 1) for entry in value])
        if isinstance(value, Slot):
            return Slot(value.name, copy(value.options, depth + 1), value.factory, value.where)
        return unboxed(value) if isinstance(value, np.generic) else value

    return copy(value, 0)


class OneSlot(Rule):
    """Of an annotation: the value is one slot that can be read."""

    def check(self, label: str, value: Any) -> None:
        parse_slot(value, label)

    def __str__(self) -> str:
        return "a slot"


class Slots(Rule):
    """Of an annotation: the value is one slot, or a list or mapping of slots for several blocks."""

    def check(self, label: str, value: Any) -> None:
        copied(value, label)  # it is read where the number of blocks is known

    def __str__(self) -> str:
        return "a slot, or slots for the blocks"


SlotLike = Annotated[Any, OneSlot()]  # str | Mapping | type | functools.partial | Slot | None
SlotsLike = Annotated[Any, Slots()]  # a SlotLike, a list of them as in `config`, or a mapping with `at` or `every`


def dump_slots(slots: Sequence[Slot], label: str = "slot") -> str | list[str]:
    """The shortest plain form that `resolve_slots` turns into the same slots: a string, or a list of strings.

    Numbers of numpy become Python's, a slot within a slot its string.

    Example:
        >>> dump_slots([Slot("moe", {"router": Slot("top_k"), "capacity_factor": float("inf")})] * 2)
        "moe(router='top_k', capacity_factor=1e999)"

    Raises:
        ValueError: A slot, or an option within it, is a class, an array or whatever else has no literal; a name or an
            option is no identifier.
    """
    names = [_dump(slot, label) for slot in slots]
    return names[0] if len(set(names)) == 1 else names


def _dump(slot: Slot, label: str) -> str:
    if slot.name is None:
        raise ValueError(
            f"{label} was given as {slot}, which cannot be saved by name; register the class with "
            "zoo.register_block and give its name, or save the state dict yourself"
        )
    for option, value in slot.options.items():
        _literal(value, f"{label} {slot.name}: {option}")
    text = str(slot)
    try:
        same = (again := parse_slot(text)).name == slot.name and str(again) == text
    except ValueError:
        same = False
    if not same:
        raise ValueError(
            f"{label} {shown(text)} cannot be read back from a file; the names of blocks and options must be "
            "identifiers"
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
        raise ValueError(f"{where} is {shown(value)}, {kind}, which a file cannot hold; {remedy}")
    return repr(value)
