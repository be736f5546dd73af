"""YAML to typed dataclasses, strictly: what a recipe says is either understood whole or refused with file and line.

`build(cls, node)` walks PyYAML's node tree beside the fields of a dataclass, so an error can say where it is:

- an unknown key, a missing key, a key given twice, a value of another type: `RecipeError` with file, line and remedy;
- a field typed as a union of dataclasses (`Task = Classify | Denoise`) is a section whose `name` says which one it is;
- what a dataclass itself refuses (`ValueError` from `__post_init__`) is reported with the line of its section.

`plain(value)` is the way back: what it returns, dumped as YAML, builds the same value again.
"""

import dataclasses
import io
import math
import re
import types
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml

from zoo.checks import unknown

OVERRIDE = "override "  # how the source name of a command-line override begins; it has no lines to speak of


class RecipeError(ValueError):
    """A recipe that cannot be used as written; the message names the file, the line, the key and the remedy."""


@dataclasses.dataclass(frozen=True)
class Duration:
    """A length of training with its unit: `5ep` (epochs) or `2000st` (optimizer steps)."""

    count: int
    unit: Literal["ep", "st"]

    @classmethod
    def parse(cls, text: str) -> "Duration":
        """Read `5ep` or `2000st`; raises ValueError on anything else."""
        match = re.fullmatch(r"(\d+)(ep|st)", text)
        if match:
            return cls(int(match[1]), match[2])
        unit = f" A bare number has no unit: write {text}ep or {text}st." if text.isdigit() else ""
        raise ValueError(f"expected a duration such as 5ep (epochs) or 2000st (steps), got {text!r}.{unit}")

    def steps(self, steps_per_epoch: int) -> int:
        """The same length in optimizer steps."""
        return self.count * steps_per_epoch if self.unit == "ep" else self.count

    def __str__(self) -> str:
        return f"{self.count}{self.unit}"


class _Loader(yaml.SafeLoader):
    """SafeLoader that also reads 1e-3 as a number, as YAML 1.2 does (YAML 1.1 reads a text unless it has a dot)."""


_Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(r"[-+]?\d+[eE][-+]?\d+"), list("-+0123456789"))


def compose(text: str, source: str) -> yaml.Node:
    """Parse YAML `text` into its node tree; `source` is the file name that errors will show."""
    stream = io.StringIO(text)
    stream.name = source
    try:
        node = _Loader(stream).get_single_node()
    except yaml.YAMLError as error:
        raise RecipeError(f"{source}: not valid YAML: {error}") from None
    if node is None:
        raise RecipeError(f"{source}: the file is empty")
    return node


def override(root: yaml.Node, assignment: str) -> None:
    """Apply one `key.sub=value` of the command line to the node tree, in place; the value is read as YAML."""
    source = OVERRIDE + assignment
    dotted, equals, text = assignment.partition("=")
    if not equals or not all(dotted.split(".")):
        raise RecipeError(f"{source}: expected key.sub=value, such as train.batch_size=32")
    value = compose(text or "null", source)
    *parents, last = (yaml.ScalarNode("tag:yaml.org,2002:str", key, value.start_mark) for key in dotted.split("."))
    node = root
    for key in parents:
        child = _get(_mapping(node, source, dotted), key.value)
        if child is None:
            child = yaml.MappingNode("tag:yaml.org,2002:map", [], value.start_mark)
            node.value.append((key, child))
        node = child
    _mapping(node, source, dotted)
    node.value = [pair for pair in node.value if pair[0].value != last.value] + [(last, value)]


def build(kind: Any, node: yaml.Node, path: str = "") -> Any:
    """Convert a node to the annotated type `kind`, checking everything below it.

    Args:
        kind: a dataclass, a union of dataclasses told apart by `name`, `int`, `float`, `bool`, `str`, `Any`,
            `Duration`, `Literal[...]`, `tuple[...]`, `dict[str, ...]`, or `... | None`.
        node: where the value stands in the YAML tree.
        path: dotted key of the value, for messages.
    """
    args, origin = get_args(kind), get_origin(kind)
    if origin in (Union, types.UnionType):
        if type(None) in args and _tag(node) == "null":
            return None
        options = [option for option in args if option is not type(None)]
        return build(options[0], node, path) if len(options) == 1 else _build_named(options, node, path)
    if kind is Duration:
        try:
            return Duration.parse(str(node.value))
        except ValueError as error:
            raise _error(node, path, str(error)) from None
    if dataclasses.is_dataclass(kind):
        return _build_dataclass(kind, _items(node, path), node, path)
    if kind is Any:
        try:
            return _Loader("").construct_document(node)
        except yaml.YAMLError as error:
            raise _error(node, path, str(error)) from None
    if origin is dict:
        return {key: build(args[1], value, _join(path, key)) for key, (_, value) in _items(node, path).items()}
    if origin is tuple:
        any_length = args[-1] is Ellipsis
        if not isinstance(node, yaml.SequenceNode) or len(node.value) != len(args) and not any_length:
            wanted = "a list" if any_length else f"a list of {len(args)} values"
            raise _error(node, path, f"expected {wanted}, got {_shown(node)}")
        kinds = args[:1] * len(node.value) if any_length else args
        return tuple(build(arg, item, path) for arg, item in zip(kinds, node.value, strict=True))
    return _build_scalar(kind, node, path)


def plain(value: Any) -> Any:
    """The value as YAML can hold it: a dataclass as a mapping (with its `name`, if it has one), a tuple as a list."""
    if isinstance(value, Duration):
        return str(value)
    if dataclasses.is_dataclass(value):
        fields = {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return {"name": value.name} | fields if hasattr(value, "name") else fields
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [plain(item) for item in value]
    return value


def _build_named(kinds: list[type], node: yaml.Node, path: str) -> Any:
    by_name = {kind.name: kind for kind in kinds}
    items = _items(node, path)
    if "name" not in items:
        raise _error(node, path, f"missing key 'name', one of: {', '.join(by_name)}")
    name = build(str, items.pop("name")[1], _join(path, "name"))
    if name not in by_name:
        raise _error(_get(node, "name"), path, unknown(repr(name), name, by_name))
    return _build_dataclass(by_name[name], items, node, path)


def _build_dataclass(cls: type, items: dict[str, tuple[yaml.Node, yaml.Node]], node: yaml.Node, path: str) -> Any:
    kinds = get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls)}
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
    except ValueError as error:
        raise _error(node, path, str(error)) from None


def _build_scalar(kind: Any, node: yaml.Node, path: str) -> Any:
    value = build(Any, node) if isinstance(node, yaml.ScalarNode) else None
    if get_origin(kind) is Literal:
        valid = value in get_args(kind)
    elif kind is float:
        valid = type(value) in (int, float) and math.isfinite(value)
        value = float(value) if valid else value
    else:
        valid = type(value) is kind
    if not valid:
        raise _error(node, path, f"expected {_expected(kind)}, got {_shown(node)}")
    return value


def _expected(kind: Any) -> str:
    """The type `kind` in words."""
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "a text", Duration: "a duration"}
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(map(str, get_args(kind)))
    return words.get(kind, "a section")


def _items(node: yaml.Node, path: str) -> dict[str, tuple[yaml.Node, yaml.Node]]:
    """The pairs of a mapping as key -> (key node, value node); a key given twice is an error."""
    if not isinstance(node, yaml.MappingNode):
        raise _error(node, path, f"expected a section of `key: value` lines, got {_shown(node)}")
    items: dict[str, tuple[yaml.Node, yaml.Node]] = {}
    for key_node, value_node in node.value:
        key = build(str, key_node, path)
        if key in items:
            raise _error(key_node, _join(path, key), f"given twice, first at {_where(items[key][0])}")
        items[key] = (key_node, value_node)
    return items


def _mapping(node: yaml.Node, source: str, dotted: str) -> yaml.MappingNode:
    if not isinstance(node, yaml.MappingNode):
        raise RecipeError(f"{source}: {dotted} leads through {_shown(node)} at {_where(node)}, which has no keys")
    return node


def _get(node: yaml.MappingNode, key: str) -> yaml.Node | None:
    return next((value for key_node, value in node.value if key_node.value == key), None)


def _tag(node: yaml.Node) -> str:
    return node.tag.rpartition(":")[2]


def _shown(node: yaml.Node) -> str:
    if isinstance(node, yaml.ScalarNode):
        return f"{node.value!r} ({_tag(node)})"
    return "a list" if isinstance(node, yaml.SequenceNode) else "a section"


def _where(node: yaml.Node) -> str:
    mark = node.start_mark
    return mark.name if mark.name.startswith(OVERRIDE) else f"{mark.name}:{mark.line + 1}"


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def _error(node: yaml.Node, path: str, message: str) -> RecipeError:
    return RecipeError(": ".join(part for part in (_where(node), path, message) if part))
