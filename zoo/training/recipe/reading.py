"""The text of a recipe as a tree of YAML nodes, and what a command line changes in it.

Whatever a text holds, it is read, or refused by a `RecipeError` with file and line. It has at most `CHARACTERS`, is
nested at most `DEPTH` deep and has at most `NODES` keys and values, an alias counted as all that it stands for: what is
made of the tree is no larger than the tree.
"""

import copy
import os
import re
import stat
from pathlib import Path
from typing import Any

import yaml
from yaml.reader import ReaderError

from zoo.checks import printable, shown

CHARACTERS = 2**18  # sixty times the longest of zoo's recipes
NODES = 5000  # forty times the largest
DEPTH = 64
LONGEST_ERROR = 1800

MAPPING, SEQUENCE, TEXT = (f"tag:yaml.org,2002:{kind}" for kind in ("map", "seq", "str"))


class RecipeError(ValueError):
    """A recipe that cannot be used as written; the message names the file, the line, the key and the remedy."""

    def __init__(self, message: str):
        super().__init__(printable(message, LONGEST_ERROR))


class _Assignment(str):
    """The name of a source that is an argument of the command line: it has no lines to speak of."""


class Loader(yaml.SafeLoader):
    """PyYAML's, within bounds; it also reads 1e-3 as a number, where YAML 1.1 reads a text unless there is a dot."""

    def __init__(self, text: str, source: str):
        super().__init__(text)
        self.name = source
        self.depth = 0
        self.extents: dict[yaml.Node, tuple[int, int]] = {}  # of each node its nodes and levels, aliases written out

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node:
        mark, alias = self.peek_event().start_mark, self.check_event(yaml.AliasEvent)
        self._check(mark, len(self.extents) + 1, self.depth + 1)
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        if alias and node not in self.extents:
            raise RecipeError(f"{place(mark)}: the alias lies within what it stands for: write out what is meant")
        if not alias:
            inner = () if isinstance(node, yaml.ScalarNode) else node.value
            if isinstance(node, yaml.MappingNode):
                inner = [each for pair in inner for each in pair]
            sizes, levels = zip((1, 0), *(self.extents[each] for each in inner), strict=True)
            self.extents[node] = sum(sizes), 1 + max(levels)
        size, levels = self.extents[node]
        self._check(mark, size, self.depth + levels)
        return node

    def _check(self, mark: yaml.Mark, nodes: int, depth: int) -> None:
        if depth > DEPTH:
            raise RecipeError(f"{place(mark)}: nested more than {DEPTH} deep; no recipe needs that")
        if nodes > NODES:
            raise RecipeError(
                f"{place(mark)}: more than {NODES:,} keys and values, every alias written out; no recipe needs that"
            )


Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def read(path: Path) -> str:
    """The text of a file.

    Raises:
        RecipeError: it is no file, is too long or no text; the message says which.
        FileNotFoundError: there is no such file.
    """
    try:
        mode = os.stat(path).st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):  # to open a pipe might never end
            raise RecipeError(f"{path}: a pipe or a device, not a file: name a YAML file")
        with open(path, "rb") as file:
            data = file.read(CHARACTERS + 1)
    except FileNotFoundError:
        raise FileNotFoundError(printable(f"there is no recipe {path}: name a YAML file", LONGEST_ERROR)) from None
    except RecipeError:
        raise
    except (OSError, ValueError) as error:  # the latter of a path that no file can have
        reason = error.strerror if isinstance(error, OSError) else error
        raise RecipeError(f"{path}: cannot be read ({reason}): name a YAML file") from None
    if len(data) > CHARACTERS:
        raise RecipeError(f"{path}: more than {CHARACTERS:,} bytes; no recipe is so long: is it the file you mean?")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise RecipeError(
            f"{path}:{line}: the byte {data[error.start]:#04x} is no text in UTF-8: save the file in this encoding"
        ) from None


def compose(text: str, source: str) -> yaml.Node:
    """Parse YAML `text` into its node tree; `source` is the file name that errors will show."""
    if len(text) > CHARACTERS:
        raise RecipeError(f"{source}: {len(text):,} characters; no recipe has more than {CHARACTERS:,}")
    try:
        loader = Loader(text, source)
        node = loader.get_single_node()
    except RecipeError:
        raise
    except ReaderError as error:
        where = _place(source, text.count("\n", 0, error.position))
        raise RecipeError(f"{where}: not valid YAML: the character {shown(chr(error.character))}: remove it") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        problem = ", ".join(filter(None, (error.context, error.problem)))
        tab = ": indent by spaces" if "'\\t'" in problem else ""
        raise RecipeError(f"{place(mark)}: not valid YAML: {problem} (column {mark.column + 1}){tab}") from None
    except (ValueError, OverflowError):  # of an escape such as "\\U00110000", or a version of 5,000 digits
        raise RecipeError(f"{place(loader.get_mark())}: not valid YAML: a number that is out of range") from None
    if node is None:
        problem = "there is nothing in it" if isinstance(source, _Assignment) else "the file is empty"
        raise RecipeError(f"{source}: {problem}")
    return node


def override(root: yaml.Node, assignment: str) -> None:
    """Apply one `key.sub=value` of the command line to the node tree, in place; the value is read as YAML."""
    if not isinstance(assignment, str):
        raise TypeError(f"an override is a text such as 'train.batch_size=32', not {shown(assignment)}")
    source = _Assignment(f"override {printable(assignment, 300)}")
    dotted, equals, text = assignment.partition("=")
    keys = dotted.split(".")
    if not equals or not all(keys):
        raise RecipeError(f"{source}: expected key.sub=value, such as train.batch_size=32")
    if len(keys) > DEPTH:
        raise RecipeError(f"{source}: {len(keys)} keys, one within the other; no recipe needs more than {DEPTH}")
    value = compose(text or "null", source)
    *parents, last = (yaml.ScalarNode(TEXT, key, value.start_mark) for key in keys)
    node = root
    for key in parents:
        # What an alias shares with it stays as it is.
        child = copy.copy(_get(_mapping(node, source, dotted), key.value))
        if child is None:
            child = yaml.MappingNode(MAPPING, [], value.start_mark)
        child.value = copy.copy(child.value)
        _put(node, key, child)
        node = child
    _put(_mapping(node, source, dotted), last, value)


def place(mark: yaml.Mark) -> str:
    """File and line, or the argument of the command line."""
    return _place(mark.name, mark.line)


def _place(source: str, line: int) -> str:
    return source if isinstance(source, _Assignment) else f"{source}:{line + 1}"


def in_words(node: yaml.Node) -> str:
    """What a node is, for errors."""
    if isinstance(node, yaml.ScalarNode):
        return f"{shown(node.value)} ({printable(node.tag.removeprefix('tag:yaml.org,2002:'), 100)})"
    return "a list" if isinstance(node, yaml.SequenceNode) else "a section"


def find(node: yaml.Node, keys: list[str]) -> yaml.Node:
    """The node at the end of these keys, as far as there are such."""
    for key in keys:
        below = _get(node, key) if isinstance(node, yaml.MappingNode) else None
        if below is None:
            break
        node = below
    return node


def _mapping(node: yaml.Node, source: str, dotted: str) -> yaml.MappingNode:
    if not isinstance(node, yaml.MappingNode):
        through = f"{printable(dotted, 300)} leads through {in_words(node)} at {place(node.start_mark)}"
        raise RecipeError(f"{source}: {through}, which has no keys")
    return node


def _get(node: yaml.MappingNode, key: str) -> yaml.Node | None:
    return next((value for key_node, value in node.value if key_node.value == key), None)


def _put(node: yaml.MappingNode, key: yaml.ScalarNode, value: yaml.Node) -> None:
    """Let a key have this value, in the place of the first that it has."""
    for i, (key_node, _) in enumerate(node.value):
        if key_node.value == key.value:
            node.value[i] = key, value
            return
    node.value.append((key, value))
