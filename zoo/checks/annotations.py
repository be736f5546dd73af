"""Annotations as data: the alternatives of one, what it says in words, and those of a signature."""

import functools
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from zoo.checks.rules import Rule

NARROWER: dict[Any, dict[str, Any]] = {}  # annotations that say more than those of a class from elsewhere

PLAIN = (bool, int, float, str, type(None))
SEQUENCES = (list, tuple, Sequence)
MAPPINGS = (dict, Mapping)


def alternatives(hint: Any) -> tuple:
    """The alternatives of an annotation."""
    is_union = typing.get_origin(hint) in (types.UnionType, typing.Union)  # Python 3.10 makes the latter of `= None`
    return typing.get_args(hint) if is_union else (hint,)


def allows_none(hint: Any) -> bool:
    """Whether an annotation has room for None: it is Any, or a union with None. No annotation has none."""
    hint = typing.get_args(hint)[0] if typing.get_origin(hint) is typing.Annotated else hint
    kinds = alternatives(hint)
    return hint is Any or type(None) in kinds or (len(kinds) > 1 and any(map(allows_none, kinds)))


def words_of(hint: Any) -> str:
    """An annotation in words, as a part of a sentence and as the documentation shows it.

    Example:
        >>> from zoo.checks import Interval
        >>> words_of(tuple[typing.Annotated[int, Interval(1)], ...] | None), words_of(tuple[float, float])
        ('a sequence of int (at least 1) or None', '2 of float')
    """
    if len(kinds := alternatives(hint)) > 1:
        return " or ".join(map(words_of, kinds))
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        rules = ", ".join(str(rule) for rule in arguments[1:] if isinstance(rule, Rule))
        if arguments[0] is Any and rules:
            return rules
        return f"{words_of(arguments[0])} ({rules})" if rules else words_of(arguments[0])
    if origin is typing.Literal:
        return f"one of {', '.join(map(repr, arguments))}"
    if origin in SEQUENCES:
        fixed = origin is tuple and Ellipsis not in arguments
        inner = ", ".join(map(words_of, arguments if fixed else arguments[:1]))
        if fixed and len(set(arguments)) == 1:
            return f"{len(arguments)} of {words_of(arguments[0])}"
        return f"a sequence of {len(arguments)}: {inner}" if fixed else f"a sequence of {inner}"
    if hint is type(None) or hint is None:
        return "None"
    if hint is Any:
        return "anything"
    return hint.__name__ if isinstance(hint, type) else str(hint).replace("collections.abc.", "")


def callee(builder: Callable) -> Callable:
    """What a partial calls; anything else is itself."""
    return builder.func if isinstance(builder, functools.partial) else builder


@functools.cache
def hints_of(cls) -> dict[str, Any]:
    """The annotations of what a class, partial or function takes; none where they cannot be read."""
    if isinstance(cls, type) and (signature := getattr(cls, "__signature__", None)):  # in place of its constructor's
        named = {name: p.annotation for name, p in signature.parameters.items() if p.annotation is not p.empty}
        return named | NARROWER.get(cls, {})
    function = cls.__init__ if isinstance(cls, type) else callee(cls)
    function = function.__init__ if isinstance(function, type) else function
    try:
        return typing.get_type_hints(function, include_extras=True) | NARROWER.get(cls, {})
    except (NameError, TypeError):
        return {}
