"""Checks of what a user gives, and what an error says: names against those there are, values against annotations."""

import difflib
import functools
import math
import reprlib
import traceback
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
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
    """Check a value against an annotation: its type, its range, and those of its elements.

    Known are bool, int, float, str and None; `Literal`; ``Annotated`` with an `Interval` or an annotation within it;
    lists, tuples and sequences of these, as which a list and a tuple serve alike; mappings; and unions. Whatever else
    an annotation says, as a class or a callable, is not looked at. No number may be NaN or infinite.

    Example:
        >>> from typing import Annotated
        >>> check_type("drop", 0.5, Annotated[float, Interval(0, 1)])
        >>> check_type("kernel_size", (3, -5), tuple[Annotated[int, Interval(1)], ...])
        Traceback (most recent call last):
        ValueError: kernel_size[1] is -5; it must be at least 1

    Raises:
        TypeError: The value is of another type, or None where that cannot be.
        ValueError: It is out of its range, or a sequence has another length.
    """
    if hint is None or hint is Any:
        return
    if value is None and not allows_none(hint):
        raise TypeError(f"{what} is None, and it must be {_words(hint)}; leave it out")
    refusals = []
    for kind in _kinds(hint):
        try:
            _check(what, value, kind)
            return
        except (TypeError, ValueError) as error:
            refusals.append(error)
    ranged = [error for error in refusals if isinstance(error, ValueError)]
    if len(refusals) > 1 and not ranged:
        raise TypeError(f"{what} is {shown(value)}, a {type(value).__name__}; it must be {_words(hint)}")
    raise (ranged or refusals)[0]  # of the type that fits, what is wrong with the value


def _check(what: str, value: Any, kind: Any) -> None:
    """The same for one alternative of an annotation."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Annotated:
        check_type(what, value, arguments[0])
        for interval in arguments[1:]:
            if isinstance(interval, Interval) and value is not None:
                interval.check(what, value)
    elif origin is typing.Literal:
        if not any(type(value) is type(one) and value == one for one in arguments):
            raise ValueError(f"{what} is {shown(value)}; it must be {_words(kind)}")
    elif kind in PLAIN:
        if type(value) is not kind and not (kind is float and type(value) is int):
            raise TypeError(f"{what} is {shown(value)}, a {type(value).__name__}; it must be {_words(kind)}")
        if type(value) is float and not math.isfinite(value):
            raise ValueError(f"{what} is {value}; it must be a finite number")
    elif origin in SEQUENCES or kind in SEQUENCES:
        if not isinstance(value, Sequence) or isinstance(value, (str, bytes)):
            raise TypeError(f"{what} is {shown(value)}, a {type(value).__name__}; it must be {_words(kind)}")
        fixed = origin is tuple and Ellipsis not in arguments
        if fixed and len(value) != len(arguments):
            raise ValueError(f"{what} is {shown(value)}; it must be {_words(kind)}")
        inner = arguments if fixed else arguments[:1] * len(value)
        for i, (one, hint) in enumerate(zip(value, inner, strict=False)):
            check_type(f"{what}[{i}]", one, hint)
    elif origin in MAPPINGS or kind in MAPPINGS:
        if not isinstance(value, Mapping):
            raise TypeError(f"{what} is {shown(value)}, a {type(value).__name__}; it must be a mapping")
        for key, one in value.items() if arguments else ():
            check_type(f"a key of {what}", key, arguments[0])
            check_type(f"{what}[{shown(key)}]", one, arguments[1])


@dataclass(frozen=True)
class Interval:
    """A range of numbers, which stands where the type stands: ``drop: Annotated[float, Interval(0, 1)] = 0.0``.

    Args:
        least, most: Bounds that belong to it; None for none.
        above, below: Bounds that do not.

    Example:
        >>> print(Interval(0, 1), "|", Interval(1), "|", Interval(above=0), "|", Interval(0, below=1))
        from 0 to 1 | at least 1 | above 0 | at least 0 and below 1
    """

    least: float | None = None
    most: float | None = None
    _: KW_ONLY
    above: float | None = None
    below: float | None = None

    def check(self, what: str, value: float) -> None:
        """Raises ValueError if the number is not in the interval; what is no number was refused before."""
        inside = (
            (self.least is None or value >= self.least)
            and (self.most is None or value <= self.most)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
        )
        if not inside:
            raise ValueError(f"{what} is {shown(value)}; it must be {self}")

    def __str__(self) -> str:
        if self.least is not None and self.most is not None:
            return f"from {self.least} to {self.most}"
        bounds = {"at least": self.least, "above": self.above, "at most": self.most, "below": self.below}
        return " and ".join(f"{words} {bound}" for words, bound in bounds.items() if bound is not None)


PLAIN = (bool, int, float, str, type(None))
SEQUENCES = (list, tuple, Sequence)
MAPPINGS = (dict, Mapping)


def _kinds(hint: Any) -> tuple:
    """The alternatives of an annotation."""
    is_union = typing.get_origin(hint) in (types.UnionType, typing.Union)  # Python 3.10 makes the latter of `= None`
    return typing.get_args(hint) if is_union else (hint,)


def _words(hint: Any) -> str:
    """An annotation in words, as a part of a sentence.

    Example:
        >>> _words(tuple[typing.Annotated[int, Interval(1)], ...] | None), _words(tuple[float, float])
        ('a sequence of int (at least 1) or None', 'a sequence of 2: float, float')
    """
    if len(kinds := _kinds(hint)) > 1:
        return " or ".join(map(_words, kinds))
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return f"{_words(arguments[0])}{''.join(f' ({one})' for one in arguments[1:] if isinstance(one, Interval))}"
    if origin is typing.Literal:
        return f"one of {', '.join(map(repr, arguments))}"
    if origin in SEQUENCES:
        fixed = origin is tuple and Ellipsis not in arguments
        inner = ", ".join(map(_words, arguments if fixed else arguments[:1]))
        return f"a sequence of {len(arguments)}: {inner}" if fixed else f"a sequence of {inner}"
    if hint is type(None) or hint is None:
        return "None"
    return hint.__name__ if isinstance(hint, type) else str(hint).replace("collections.abc.", "")


class _Short(reprlib.Repr):
    def repr_int(self, value, level):
        try:
            return super().repr_int(value, level)
        except ValueError:  # more digits than Python writes
            return f"a whole number of {value.bit_length()} bits"


def shown(value: Any, most: int = 200) -> str:
    """A value as an error shows it: short whatever it is, and with nothing in it that a terminal would obey.

    Example:
        >>> print(shown(chr(27) + "[31mred"), len(shown("x" * 10**6)) < 210, shown([1, 2.5, None]))
        '\\x1b[31mred' True [1, 2.5, None]
    """
    short = _Short()
    short.maxstring = short.maxother = most
    short.maxlong = 60
    short.maxlist = short.maxtuple = short.maxdict = short.maxset = 12
    return printable(short.repr(value), most)


def printable(text: Any, most: int = 1000) -> str:
    """A text as an error shows it: what does not print is escaped, and from the middle of a long one something is cut.

    Example:
        >>> print(printable(f"a{chr(27)}]0;b"), printable("x" * 30, 9))
        a\\x1b]0;b xxx … xxx
    """
    text = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(text)[: 20 * most])
    half = (most - 3) // 2
    return text if len(text) <= most else f"{text[:half]} … {text[-half:]}"


@functools.cache
def hints_of(cls) -> dict[str, Any]:
    """The annotations of what a class, partial or function takes; none where they cannot be read."""
    function = cls.__init__ if isinstance(cls, type) else getattr(cls, "func", cls)
    function = function.__init__ if isinstance(function, type) else function
    try:
        return typing.get_type_hints(function, include_extras=True)
    except (NameError, TypeError):
        return {}
