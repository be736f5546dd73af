"""Checks of what a user gives, and what an error says: names against those there are, values against annotations."""

import difflib
import functools
import traceback
import types
import typing
from collections.abc import Sequence
from typing import Any

MANY = 40  # an error lists all known names if there are no more


def unknown(problem: str, name: str, known, what: str = "known", *, count: int = 1, see: str | None = None) -> str:
    """A message for an unknown name: the problem, what is nearest, and all there are, if they are not too many.

    Example:
        >>> unknown("model 'vti'", "vti", ["vit", "gmlp"])
        "model 'vti' is unknown; did you mean 'vit'? Known: gmlp, vit"

    Args:
        problem: The thing and its name; " is unknown" is added unless it says itself what there is not.
        name: The name that is unknown.
        known: The names there are.
        what: What the list of them is called.
        count: How many of the nearest are shown.
        see: A call that lists the names, in place of the list.
    """
    known = sorted(map(str, known))
    near = [repr(n) for n in nearest(str(name), known, count)]
    hint = f"; did you mean {' or '.join(filter(None, (', '.join(near[:-1]), near[-1])))}?" if near else "."
    problem = problem if " has no " in problem else f"{problem} is unknown"
    if see is not None:
        return f"{problem}{hint} {see} lists what there is"
    more = f", … ({len(known)} in all)" if len(known) > MANY else ""
    return f"{problem}{hint} {what.capitalize()}: {', '.join(known[:MANY]) or 'none'}{more}"


def in_a_line(error: Exception) -> str:
    """An error of a file that was run, in one line, with the place where it arose."""
    where = traceback.extract_tb(error.__traceback__)[-1]
    place = "" if isinstance(error, SyntaxError) else f" ({where.filename}, line {where.lineno})"
    return f"{type(error).__name__}: {error}{place}"


def nearest(name: str, known: Sequence[str], count: int) -> list[str]:
    """The names most like an unknown one, whatever their case; first those that go on where it ends.

    Example:
        >>> nearest("KAT", ["kan", "gelu", "kat_tiny"], 2)
        ['kat_tiny', 'kan']
    """
    lower = {n.lower(): n for n in known}
    begun = sorted((n for n in lower if name and n.startswith(name.lower())), key=len)
    close = difflib.get_close_matches(name.lower(), lower, count, 0.5)
    return [lower[n] for n in dict.fromkeys((*begun, *close))][:count]


def allows_none(hint: Any) -> bool:
    """Whether an annotation has room for None: it is Any, or a union with None. No annotation has none."""
    return hint is Any or bool({Any, type(None)} & set(_kinds(hint)))


def check_type(what: str, value: Any, hint: Any) -> None:
    """Check a value against a plain annotation (bool, int, float, str, and unions of them), and None against any.

    Raises:
        TypeError: The value is of another type, or None where that cannot be.
    """
    kinds = _kinds(hint)
    plain = set(kinds) <= {bool, int, float, str, type(None)}
    if value is None and hint is not None and not allows_none(hint):
        names = hint.__name__ if isinstance(hint, type) else str(hint).replace("collections.abc.", "")
        raise TypeError(f"{what} is None, and it must be {names}; leave it out")
    if not plain or hint is None:
        return
    fits = type(value) in kinds or (float in kinds and type(value) is int)
    if not fits:
        names = " or ".join("None" if k is type(None) else k.__name__ for k in kinds)
        raise TypeError(f"{what} is {value!r}, a {type(value).__name__}; it must be {names}")


def _kinds(hint: Any) -> tuple:
    """The alternatives of an annotation."""
    is_union = typing.get_origin(hint) in (types.UnionType, typing.Union)  # Python 3.10 makes the latter of `= None`
    return typing.get_args(hint) if is_union else (hint,)


@functools.cache
def hints_of(cls) -> dict[str, Any]:
    """The annotations of what a class, partial or function takes; none where they cannot be read."""
    function = cls.__init__ if isinstance(cls, type) else getattr(cls, "func", cls)
    function = function.__init__ if isinstance(function, type) else function
    try:
        return typing.get_type_hints(function)
    except (NameError, TypeError):
        return {}
