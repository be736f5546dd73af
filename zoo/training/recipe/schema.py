"""YAML to typed dataclasses, strictly: what a recipe says is either understood whole or refused with file and line.

`build(cls, node)` walks PyYAML's node tree beside the fields of a dataclass, so an error can say where it is:

- an unknown key, a missing key, a key given twice, a value of another type, or out of the range that its annotation
  names: `RecipeError` with file, line and remedy;
- a field typed as the base of an `OpenSection` is a section whose `name` says which of its kinds it is;
- what a dataclass itself refuses (`ValueError` from `__post_init__`) is reported with the line of its section, or of
  the key that a `Misfit` names.

`plain(value)` is the way back: what it returns, dumped as YAML, builds the same value again.
"""

import dataclasses
import math
import re
import types
import unicodedata
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml

from zoo.checks import Interval, check_type, printable, shown, unknown
from zoo.training.recipe.reading import MAPPING, SEQUENCE, TEXT, Loader, RecipeError, find, in_words, place
from zoo.training.recipe.section import Misfit, OpenSection, hints, is_open

LONGEST = 99_999_999  # steps of a training: a checkpoint's name has eight digits for its step
BITS = 64  # of a whole number that no annotation bounds
SCALARS = {
    "null": "null",
    "bool": "truth value",
    "int": f"whole number of at most {BITS} bits",
    "float": "number",
    "str": "text",
}
OCTAL = re.compile(r"[-+]?0_*[0-9]")  # to YAML 1.1; YAML 1.2 reads 010 as ten


@dataclasses.dataclass(frozen=True)
class Duration:
    """A length of training with its unit: `5ep` (epochs) or `2000st` (optimizer steps)."""

    count: int
    unit: Literal["ep", "st"]

    @classmethod
    def parse(cls, text: str) -> "Duration":
        """Read `5ep` or `2000st`; raises ValueError on anything else."""
        match = re.fullmatch(r"([0-9]{1,18})(ep|st)", text)
        if match:
            return cls(int(match[1]), match[2])
        bare = shown(text)[1:-1]
        unit = f" A bare number has no unit: write {bare}ep or {bare}st." if text.isdigit() else ""
        raise ValueError(f"expected a duration such as 5ep (epochs) or 2000st (steps), got {shown(text)}.{unit}")

    def steps(self, steps_per_epoch: int) -> int:
        """The same length in optimizer steps."""
        return self.count * steps_per_epoch if self.unit == "ep" else self.count

    def __str__(self) -> str:
        return f"{self.count}{self.unit}"


class Lasting(Interval):
    """A range of a duration's number, whatever its unit."""

    def check(self, label: str, value: Duration) -> None:
        super().check(f"the number in {label}={value}", value.count)


# Ranges of more than one field. What they leave out is no wish but a slip, or more than a machine bears.
Length = Annotated[Duration, Lasting(1, LONGEST)]
Seed = Annotated[int, Interval(0, 2**64 - 1)]
Count = Annotated[int, Interval(1, 1_000_000)]  # of images and the like
Share = Annotated[float, Interval(0, 1)]
Positive = Annotated[float, Interval(above=0, most=1_000_000)]


def build(kind: Any, node: yaml.Node, path: str = "") -> Any:
    """Convert a node to the annotated type `kind`, checking everything below it.

    Args:
        kind: a dataclass, the base of an `OpenSection`, `int`, `float`, `bool`, `str`, `Any`, `Duration`,
            `Literal[...]`, `tuple[...]`, `dict[str, ...]`, one of these `Annotated` with its range, `... | None`, or a
            list `| ...` what is none.
        node: where the value stands in the YAML tree.
        path: dotted key of the value, for messages.
    """
    args, origin = get_args(kind), get_origin(kind)
    if origin in (Union, types.UnionType):
        if type(None) in args and _tag(node) == "null":
            return None
        options = [option for option in args if option is not type(None)]
        is_list = isinstance(node, yaml.SequenceNode)
        suited = [option for option in options if (get_origin(option) is tuple) == is_list]
        return build((suited or options)[0], node, path)
    if is_open(kind):
        return _build_named(kind.kinds(), node, path)
    if origin is Annotated:
        value = build(args[0], node, path)
        try:
            check_type(path, value, kind)
        except ValueError as error:
            raise _error(node, "", str(error)) from None
        return value
    if kind is Duration:
        if not isinstance(node, yaml.ScalarNode):
            raise _error(node, path, f"expected {_expected(kind)}, got {in_words(node)}")
        try:
            return Duration.parse(node.value)
        except ValueError as error:
            raise _error(node, path, str(error)) from None
    if dataclasses.is_dataclass(kind):
        return _build_dataclass(kind, _items(node, path), node, path)
    if kind is Any:
        return _build_any(node, path)
    if origin is dict:
        return {key: build(args[1], value, _join(path, key)) for key, (_, value) in _items(node, path).items()}
    if origin is tuple:
        any_length = args[-1] is Ellipsis
        values = _list(node, path) if isinstance(node, yaml.SequenceNode) else None
        if values is None or len(values) != len(args) and not any_length:
            form = "a list" if any_length else f"a list of {len(args)} values"
            raise _error(node, path, f"expected {form}, got {in_words(node)}")
        kinds = args[:1] * len(values) if any_length else args
        return tuple(build(arg, item, f"{path}[{i}]") for i, (arg, item) in enumerate(zip(kinds, values, strict=True)))
    return _build_scalar(kind, node, path)


def plain(value: Any) -> Any:
    """The value as YAML can hold it: a dataclass as a mapping (with its `name`, if it has one), a tuple as a list."""
    if isinstance(value, Duration):
        return str(value)
    if dataclasses.is_dataclass(value):
        fields = {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return {"name": value.name} | fields if isinstance(value, OpenSection) else fields
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [plain(item) for item in value]
    return value


def _build_named(by_name: dict[str, type], node: yaml.Node, path: str) -> Any:
    items = _items(node, path)
    if "name" not in items:
        raise _error(node, path, f"missing key 'name', one of: {', '.join(by_name)}")
    name_node = items.pop("name")[1]
    name = build(str, name_node, _join(path, "name"))
    if name not in by_name:
        raise _error(name_node, path, unknown(shown(name), name, by_name))
    return _build_dataclass(by_name[name], items, node, path)


def _build_dataclass(cls: type, items: dict[str, tuple[yaml.Node, yaml.Node]], node: yaml.Node, path: str) -> Any:
    kinds = hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls)}
    for key, now in cls.renamed.items():
        if key in items:
            _rename(items, key, now, path)
    for key, (key_node, _) in items.items():
        if key not in fields:
            raise _error(key_node, _join(path, key), unknown("the key", key, fields))
    for name, field in fields.items():
        required = field.default is field.default_factory is dataclasses.MISSING
        if required and name not in items:
            raise _error(node, path, f"missing key {name!r}, {_expected(kinds[name])}")
    values = {key: build(kinds[key], value, _join(path, key)) for key, (_, value) in items.items()}
    try:
        return cls(**values)
    except (TypeError, ValueError) as error:
        keys = error.key.split(".") if isinstance(error, Misfit) else []
        raise _error(find(node, keys), path, str(error)) from None


def _rename(items: dict[str, tuple[yaml.Node, yaml.Node]], key: str, now: str, path: str) -> None:
    """Move what a key of old says to where it is said now, ``section.key``; a null has said nothing."""
    section, _, name = now.partition(".")
    key_node, value = items.pop(key)
    where, node = items.get(section, (key_node, yaml.MappingNode(MAPPING, [], key_node.start_mark)))
    there = _items(node, _join(path, section)).get(name)
    if there is not None:
        clash = f"which is given too, at {place(there[0].start_mark)}: remove one of the two"
        raise _error(key_node, _join(path, key), f"the former name of {_join(path, now)}, {clash}")
    if _tag(value) != "null":
        moved = (yaml.ScalarNode(TEXT, name, key_node.start_mark), value)
        items[section] = where, yaml.MappingNode(MAPPING, [*node.value, moved], node.start_mark)


def _build_any(node: yaml.Node, path: str) -> Any:
    """What is nobody's field, such as an argument of a model: lists and mappings of whatever a scalar can be."""
    if isinstance(node, yaml.SequenceNode):
        return [_build_any(item, f"{path}[{i}]") for i, item in enumerate(_list(node, path))]
    if isinstance(node, yaml.MappingNode):
        items = _items(node, path, (str, int))  # the latter are numbers of blocks, in slots
        return {key: _build_any(value, _join(path, key)) for key, (_, value) in items.items()}
    return _scalar(node, path)


def _build_scalar(kind: Any, node: yaml.Node, path: str) -> Any:
    value = _scalar(node, path) if isinstance(node, yaml.ScalarNode) else None
    if get_origin(kind) is Literal:
        valid = any(type(value) is type(choice) and value == choice for choice in get_args(kind))
    elif kind is float:
        valid = type(value) in (int, float)
        value = float(value) if valid else value
    else:
        valid = type(value) is kind
    if not valid:
        quotes = ": put it into quotes" if kind is str and isinstance(node, yaml.ScalarNode) and node.value else ""
        raise _error(node, path, f"expected {_expected(kind)}, got {in_words(node)}{quotes}")
    return value


def _scalar(node: yaml.ScalarNode, path: str) -> Any:
    """None, a truth value, a number or a text, and nothing else that YAML has."""
    tag, text = _tag(node), node.value
    if tag not in SCALARS:
        raise _error(node, path, f"{in_words(node)} is no value of a recipe; if it is a text, put it into quotes")
    base = 60 if tag in ("int", "float") and ":" in text else 8 if tag == "int" and OCTAL.match(text) else 10
    if base != 10:
        raise _error(node, path, f"{shown(text)} is a number in base {base}: write it in base 10, or a text in quotes")
    try:
        value = Loader("", "").construct_object(node)
    except (yaml.YAMLError, ValueError, KeyError, IndexError, OverflowError):  # by a tag, or by its length
        raise _error(node, path, f"{shown(text)} is no {SCALARS[tag]}") from None
    if value is None and text.lower() not in ("", "~", "null"):
        raise _error(node, path, f"{shown(text)} has the tag of null: remove one of the two")
    if type(value) is float and not math.isfinite(value):
        raise _error(node, path, f"expected a finite number, got {in_words(node)}")
    if type(value) is int and value.bit_length() > BITS:
        raise _error(node, path, f"{shown(value)} is too large: a whole number has at most {BITS} bits")
    if type(value) is str:
        for sign in value:
            if unicodedata.category(sign) in ("Cc", "Cs") and sign not in "\n\t":
                raise _error(node, path, f"the text {in_words(node)} has the character {shown(sign)}: remove it")
    return value


def _expected(kind: Any) -> str:
    """The type `kind` in words."""
    if get_origin(kind) is Annotated:
        return _expected(get_args(kind)[0])
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "a text", Duration: "a duration"}
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(map(str, get_args(kind)))
    return words.get(kind, "a section")


def _items(node: yaml.Node, path: str, kinds: tuple = (str,)) -> dict[Any, tuple[yaml.Node, yaml.Node]]:
    """The pairs of a mapping as key -> (key node, value node); a key given twice is an error."""
    if not isinstance(node, yaml.MappingNode):
        raise _error(node, path, f"expected a section of `key: value` lines, got {in_words(node)}")
    _check_tag(node, path, MAPPING)
    items: dict[Any, tuple[yaml.Node, yaml.Node]] = {}
    for key_node, value_node in node.value:
        if _tag(key_node) == "merge":
            raise _error(key_node, path, "`<<` takes over keys from elsewhere: write them out here")
        key = _scalar(key_node, path) if isinstance(key_node, yaml.ScalarNode) else None
        if type(key) not in kinds:
            words = " or ".join(map(_expected, kinds))
            raise _error(key_node, path, f"expected {words} as a key, got {in_words(key_node)}")
        if key in items:
            raise _error(key_node, _join(path, key), f"given twice, first at {place(items[key][0].start_mark)}")
        items[key] = (key_node, value_node)
    return items


def _list(node: yaml.SequenceNode, path: str) -> list[yaml.Node]:
    _check_tag(node, path, SEQUENCE)
    return node.value


def _check_tag(node: yaml.Node, path: str, tag: str) -> None:
    if node.tag != tag:
        raise _error(node, path, f"the tag {shown(node.tag)} is none that a recipe knows: remove it")


def _tag(node: yaml.Node) -> str:
    return node.tag.removeprefix(TEXT.removesuffix("str"))


def _join(path: str, key: Any) -> str:
    return printable(f"{path}.{key}" if path else key, 400)


def _error(node: yaml.Node, path: str, message: str) -> RecipeError:
    return RecipeError(": ".join(part for part in (place(node.start_mark), path, message) if part))
