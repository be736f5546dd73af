"""Checks of what a user gives: values against annotations, which may carry rules."""

import functools
import inspect
import os
import sys
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, TypeVar

import numpy as np
import torch

from zoo.checks.errors import printable, shown, unknown

T = TypeVar("T", bound=type)

NARROWER: dict[Any, dict[str, Any]] = {}  # annotations that say more than those of a class from elsewhere


def unboxed(value: Any) -> Any:
    """A number, truth value or string of numpy as Python's own, in a list or tuple too; anything else as it is.

    Behind the checks of types, torch and zoo want numbers of Python. So what is given becomes such at the door.

    Example:
        >>> unboxed(np.int64(5)), unboxed((np.int32(4), 8)), unboxed("five")
        (5, (4, 8), 'five')
    """
    if isinstance(value, SCALARS) and not isinstance(value, np.timedelta64):
        return value.item()
    if type(value) in (list, tuple) and any(isinstance(one, np.generic) for one in value):
        return type(value)(map(unboxed, value))
    return value


SCALARS = (np.number, np.bool_, np.str_)


def allows_none(hint: Any) -> bool:
    """Whether an annotation has room for None: it is Any, or a union with None. No annotation has none."""
    hint = typing.get_args(hint)[0] if typing.get_origin(hint) is typing.Annotated else hint
    kinds = _kinds(hint)
    return hint is Any or type(None) in kinds or (len(kinds) > 1 and any(map(allows_none, kinds)))


def check_type(what: str, value: Any, hint: Any) -> None:
    """Check a value against an annotation: its type, its range, and those of its elements.

    Known are bool, int, float, str and None; `Literal`; ``Annotated`` with a `Rule` such as an `Interval`, or with an
    annotation within it; lists, tuples and sequences of these, as which a list and a tuple serve alike; mappings; and
    unions. Whatever else an annotation says, as a class or a callable, is not looked at. No number may be NaN or
    infinite.

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
    if hint is None or hint is Any or (type(value) is hint and hint is not float):
        return
    if value is None and not allows_none(hint):
        raise TypeError(f"{what} is None, and it must be {words_of(hint)}; leave it out")
    refusals = []
    for kind in _kinds(hint):
        try:
            _check(what, value, kind)
            return
        except (TypeError, ValueError) as error:
            refusals.append(error)
    ranged = [error for error in refusals if isinstance(error, ValueError)]
    if len(refusals) > 1 and not ranged:
        raise TypeError(f"{what} is {shown(value)}, a {type(value).__name__}; it must be {words_of(hint)}")
    raise (ranged or refusals)[0]  # of the type that fits, what is wrong with the value


def _check(what: str, value: Any, kind: Any) -> None:
    """The same for one alternative of an annotation."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Annotated:
        check_type(what, value, arguments[0])
        for rule in arguments[1:]:
            if isinstance(rule, Rule) and value is not None:
                rule.check(what, value)
    elif origin is typing.Literal:
        if not any(type(value) is type(one) and value == one for one in arguments):
            raise ValueError(f"{what} is {shown(value)}; it must be {words_of(kind)}")
    elif kind in PLAIN:
        value = value.item() if isinstance(value, np.generic) else value  # a number of numpy
        if type(value) is not kind and not (kind is float and type(value) is int):
            raise TypeError(f"{what} is {shown(value)}, a {type(value).__name__}; it must be {words_of(kind)}")
        if kind is float and not abs(value) <= sys.float_info.max:  # a whole number may be too large for a float
            raise ValueError(f"{what} is {shown(value)}; it must be a finite number")
    elif origin in SEQUENCES or kind in SEQUENCES:
        if not isinstance(value, Sequence) or isinstance(value, (str, bytes)):
            raise TypeError(f"{what} is {shown(value)}, a {type(value).__name__}; it must be {words_of(kind)}")
        fixed = origin is tuple and Ellipsis not in arguments
        if fixed and len(value) != len(arguments):
            raise ValueError(f"{what} is {shown(value)}; it must be {words_of(kind)}")
        inner = arguments if fixed else arguments[:1] * len(value)
        for i, (one, hint) in enumerate(zip(value, inner, strict=False)):
            check_type(f"{what}[{i}]", one, hint)
    elif origin in MAPPINGS or kind in MAPPINGS:
        if not isinstance(value, Mapping):
            raise TypeError(f"{what} is {shown(value)}, a {type(value).__name__}; it must be a mapping")
        for key, one in value.items() if arguments else ():
            check_type(f"a key of {what}", key, arguments[0])
            check_type(f"{what}[{shown(key)}]", one, arguments[1])


class Rule:
    """What an annotation says beyond a type, as an entry of ``Annotated``; as text it goes on after "it must be"."""

    def check(self, what: str, value: Any) -> None:
        """Raises ValueError if the value, which is of the type that stands before the rule, breaks it."""
        raise NotImplementedError


@dataclass(frozen=True)
class Interval(Rule):
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
            return f"from {_number(self.least)} to {_number(self.most)}"
        bounds = {"at least": self.least, "above": self.above, "at most": self.most, "below": self.below}
        return " and ".join(f"{words} {_number(bound)}" for words, bound in bounds.items() if bound is not None)


class Known(Rule):
    """A word of a table, which may still grow: it is read when a value is checked.

    Args:
        table: The table, by word.
        beside: Words that are right too.

    Example:
        >>> check_type("mlp: init", "xaver", typing.Annotated[str, Known({"xavier": 1, "zeros": 2})])
        Traceback (most recent call last):
        ValueError: mlp: init 'xaver' is unknown; did you mean 'xavier'? Known: xavier, zeros
    """

    def __init__(self, table: Mapping[str, Any], *beside: str):
        self.table, self.beside = table, beside

    def check(self, what: str, value: str) -> None:
        if value not in self.table and value not in self.beside:
            raise ValueError(unknown(f"{what} {shown(value)}", value, (*self.beside, *self.table)))

    def __str__(self) -> str:
        return f"one of {', '.join((*self.beside, *self.table))}"


def _number(bound: float) -> str:
    """A bound in words: large powers of two, and what is one below, by their exponent."""
    for less in (0, 1):
        power = bound + less
        if power >= 2**20 and power == int(power) and int(power).bit_count() == 1:
            return f"2**{int(power).bit_length() - 1}{' - 1' * less}"
    return str(bound)


PLAIN = (bool, int, float, str, type(None))
SEQUENCES = (list, tuple, Sequence)
MAPPINGS = (dict, Mapping)


def _kinds(hint: Any) -> tuple:
    """The alternatives of an annotation."""
    is_union = typing.get_origin(hint) in (types.UnionType, typing.Union)  # Python 3.10 makes the latter of `= None`
    return typing.get_args(hint) if is_union else (hint,)


def words_of(hint: Any) -> str:
    """An annotation in words, as a part of a sentence and as the documentation shows it.

    Example:
        >>> words_of(tuple[typing.Annotated[int, Interval(1)], ...] | None), words_of(tuple[float, float])
        ('a sequence of int (at least 1) or None', '2 of float')
    """
    if len(kinds := _kinds(hint)) > 1:
        return " or ".join(map(words_of, kinds))
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        rules = ", ".join(str(one) for one in arguments[1:] if isinstance(one, Rule))
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


@functools.cache
def hints_of(cls) -> dict[str, Any]:
    """The annotations of what a class, partial or function takes; none where they cannot be read."""
    if isinstance(cls, type) and (signature := getattr(cls, "__signature__", None)):  # in place of its constructor's
        named = {name: p.annotation for name, p in signature.parameters.items() if p.annotation is not p.empty}
        return named | NARROWER.get(cls, {})
    function = cls.__init__ if isinstance(cls, type) else getattr(cls, "func", cls)
    function = function.__init__ if isinstance(function, type) else function
    try:
        return typing.get_type_hints(function, include_extras=True) | NARROWER.get(cls, {})
    except (NameError, TypeError):
        return {}


def checked(cls: T) -> T:
    """Class decorator: what its constructor is given is checked against its annotations, by whatever way it comes.

    `zoo.slots.table.register` and `zoo.skeletons.model.Model` do so for zoo's own classes. A constructor that is
    inherited from elsewhere, such as torch's, stays as it is. The signature and the annotations are still the
    constructor's own, and what copies, pickles or traces modules never calls it.

    Example:
        >>> from typing import Annotated
        >>> @checked
        ... class Dropped:
        ...     def __init__(self, drop: Annotated[float, Interval(0, 1)] = 0.0):
        ...         self.drop = drop
        >>> Dropped(drop=7.0)
        Traceback (most recent call last):
        ValueError: Dropped: drop is 7.0; it must be from 0 to 1
    """
    init = cls.__init__
    if getattr(init, "is_checked", False) or init.__module__.partition(".")[0] != cls.__module__.partition(".")[0]:
        return cls
    names = [name for name, p in inspect.signature(init).parameters.items() if p.kind is p.POSITIONAL_OR_KEYWORD][1:]

    @functools.wraps(init)
    def __init__(self, *args, **kwargs):
        hints = hints_of(cls)
        args, kwargs = tuple(map(unboxed, args)), {name: unboxed(value) for name, value in kwargs.items()}
        for name, value in (*zip(names, args, strict=False), *kwargs.items()):
            check_argument(f"{cls.__name__}: {name}", name, value, hints)
        init(self, *args, **kwargs)

    __init__.is_checked = True
    cls.__init__ = __init__
    return cls


def check_argument(what: str, name: str, value: Any, hints: Mapping[str, Any]) -> None:
    """Check an argument against its annotation; a device and a dtype, which need none, against what torch can take.

    Raises:
        TypeError, ValueError: As in `check_type`.
    """
    if name in hints or value is None:
        check_type(what, value, hints.get(name))
    elif name == "dtype" and not (isinstance(value, torch.dtype) and value.is_floating_point):
        raise TypeError(f"{what} is {shown(value)}; it must be a torch.dtype of floating-point numbers")
    elif name == "device":
        _check_device(what, value)


def check_path(what: str, value: Any, of: str) -> None:
    """Raise TypeError unless a value is a path, as text or as a ``Path``; `of` says what it is to be the path of.

    Example:
        >>> check_path("output", None, "the run's folder")
        Traceback (most recent call last):
        TypeError: output is None; it must be the path of the run's folder, a str or a Path
    """
    if not isinstance(value, (str, os.PathLike)):
        raise TypeError(f"{what} is {shown(value)}; it must be the path of {of}, a str or a Path")


def _check_device(what: str, value: Any) -> None:
    try:
        torch.empty(0, device=value)
    except (RuntimeError, AssertionError, NotImplementedError, TypeError, ValueError) as error:  # as torch was built
        reason = printable(str(error).strip().partition("\n")[0], 200)
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"{what} is {shown(value)}, which cannot be used: {reason}") from None
