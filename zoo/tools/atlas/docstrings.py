"""What griffe, which reads the sources for the pages of the API, would miss: an extension of it.

The headings of zoo's docstrings, and the options that blocks take over from others, which stand in no source.
"""

import functools
import inspect
import re
from collections.abc import Iterator
from typing import Any

import griffe

from zoo.checks import hints_of, words_of
from zoo.slots.table import KINDS, blocks_of

# Headings whose text begins on their own line; griffe knows those that stand alone.
INLINE = re.compile(r"(Shape|Source|Differs|Cost|Raises|Returns|Yields): (?=\S)")
NAMES = re.compile(r"    (\w+(?:, \w+)+): ")  # several arguments or attributes that one line is about


class Readable(griffe.Extension):
    """Gives each such heading a paragraph of its own, in bold, and each block the signature that it really has."""

    def on_instance(self, *, obj: griffe.Object, **_) -> None:
        """Called for every module, class, function and attribute that is read."""
        if obj.docstring is not None:
            obj.docstring.value = paragraphs(one_by_one(obj.docstring.value))

    def on_class_members(self, *, cls: griffe.Class, **_) -> None:
        """Called for every class once its members are read."""
        if cls.path in _blocks():
            parameters = [griffe.Parameter("self"), *_signature(_blocks()[cls.path])]
            cls.set_member("__init__", griffe.Function("__init__", parameters=griffe.Parameters(*parameters)))


@functools.cache
def _blocks() -> dict[str, type]:
    """All blocks by the path of their class."""
    blocks = (block for kind in KINDS for block in blocks_of(kind).values())
    return {f"{block.__module__}.{block.__qualname__}": block for block in blocks}


def _signature(block: type) -> Iterator[griffe.Parameter]:
    """The parameters of a block with their types in words, without placement and what is handed on."""
    hints = hints_of(block)
    for name, parameter in inspect.signature(block).parameters.items():
        if name in ("device", "dtype") or parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        default = None if parameter.default is parameter.empty else repr(parameter.default)
        by_name = parameter.kind is parameter.KEYWORD_ONLY
        kind = griffe.ParameterKind.keyword_only if by_name else griffe.ParameterKind.positional_or_keyword
        yield griffe.Parameter(name, annotation=words_of(hints.get(name, Any)), default=default, kind=kind)


def paragraphs(text: str) -> str:
    """A docstring whose inline headings are paragraphs, with what is indented below them.

    Example:
        >>> print(paragraphs("A layer.\\n\\nShape: any to\\n    the same.\\nCost: none."))
        A layer.
        <BLANKLINE>
        **Shape:** any to
        the same.
        <BLANKLINE>
        **Cost:** none.
    """
    lines, inside = [], False
    for line in text.splitlines():
        heading = INLINE.match(line)
        if line == "Example:":  # griffe's word for it, with which it reads what follows as code
            line = "Examples:"
        if heading:
            lines += [""] if lines and lines[-1] else []
            lines.append(f"**{heading[1]}:** {line[heading.end() :]}")
            inside = True
        elif inside and line.startswith("    "):
            lines.append(line.strip())
        else:
            inside = False
            lines.append(line)
    return "\n".join(lines)


def one_by_one(text: str) -> str:
    """A docstring in which what is said of several arguments or attributes at once is said of each.

    Example:
        >>> print(one_by_one("Args:\\n    a, b: Sides,\\n        in pixels.\\n    c: Depth."))
        Args:
            a: Sides,
                in pixels.
            b: Sides,
                in pixels.
            c: Depth.
    """
    lines: list[str] = []
    inside, pending = False, []  # names whose entry is not at its end, and what it says so far
    entry: list[str] = []
    for line in [*text.splitlines(), ""]:
        if pending and not line.startswith(" " * 8):
            lines += [each for name in pending for each in [f"    {name}: {entry[0]}", *entry[1:]]]
            pending = []
        if line in ("Args:", "Attributes:"):
            inside = True
        elif line and not line.startswith(" "):
            inside = False
        names = NAMES.match(line) if inside else None
        if names:
            pending, entry = names[1].split(", "), [line[names.end() :]]
        elif pending:
            entry.append(line)
        else:
            lines.append(line)
    return "\n".join(lines[:-1])
