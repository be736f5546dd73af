"""Checks of what a user passes: values against annotations, which may carry rules."""

import functools
import inspect
import os
import sys
import typing
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from zoo.checks.annotations import MAPPINGS, PLAIN, SEQUENCES, allows_none, alternatives, hints_of, words_of
from zoo.checks.errors import printable, shown
from zoo.checks.rules import Rule

T = TypeVar("T", bound=type)

SCALARS = (np.number, np.bool_, np.str_)


def unboxed(value: Any) -> Any:
    """A number, truth value or string of numpy as Python's own, in a list or tuple too; anything else as it is.

    Behind the checks of types, torch and zoo want numbers of Python. So what comes in becomes such at the door.

    Example:
        >>> unboxed(np.int64(5)), unboxed((np.int32(4), 8)), unboxed("five")
        (5, (4, 8), 'five')
    """
    if isinstance(value, SCALARS) and not isinstance(value, np.timedelta64):
        return value.item()
    if type(value) in (list, tuple) and any(isinstance(element, np.generic) for element in value):
        return type(value)(map(unboxed, value))
    return value


def check_type(label: str, value: Any, hint: Any) -> None:
    """Check a value against an annotation: its type, its range, and those of its elements.

    Known are bool, int, float, str and None; `Literal`; ``Annotated`` with a `Rule` such as an `Interval`, or with an
    annotation within it; lists, tuples and sequences of these, as which a list and a tuple serve alike; mappings; and
    unions. Whatever else an annotation says, as a class or a callable, is not looked at. No number may be NaN or
    infinite.

    Example:
        >>> from typing import Annotated
        >>> from zoo.checks import Interval
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
        raise TypeError(f"{label} is None, and it must be {words_of(hint)}; leave it out")
    refusals = []
    for kind in alternatives(hint):
        try:
            _check(label, value, kind)
            return
        except (TypeError, ValueError) as error:
            refusals.append(error)
    ranged = [error for error in refusals if isinstance(error, ValueError)]
    if len(refusals) > 1 and not ranged:
        raise TypeError(f"{label} is {shown(value)}, a {type(value).__name__}; it must be {words_of(hint)}")
    raise (ranged or refusals)[0]  # of the type that fits, what is wrong with the value


def _check(label: str, value: Any, kind: Any) -> None:
    """The same for one alternative of an annotation."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Annotated:
        check_type(label, value, arguments[0])
        for rule in arguments[1:]:
            if isinstance(rule, Rule) and value is not None:
                rule.check(label, value)
    elif origin is typing.Literal:
        if not any(type(value) is type(element) and value == element for element in arguments):
            raise ValueError(f"{label} is {shown(value)}; it must be {words_of(kind)}")
    elif kind in PLAIN:
        value = value.item() if isinstance(value, np.generic) else value  # a number of numpy
        if type(value) is not kind and not (kind is float and type(value) is int):
            raise TypeError(f"{label} is {shown(value)}, a {type(value).__name__}; it must be {words_of(kind)}")
        if kind is float and not abs(value) <= sys.float_info.max:  # a whole number may be too large for a float
            raise ValueError(f"{label} is {shown(value)}; it must be a finite number")
    elif origin in SEQUENCES or kind in SEQUENCES:
        if not isinstance(value, Sequence) or isinstance(value, (str, bytes)):
            raise TypeError(f"{label} is {shown(value)}, a {type(value).__name__}; it must be {words_of(kind)}")
        fixed = origin is tuple and Ellipsis not in arguments
        if fixed and len(value) != len(arguments):
            raise ValueError(f"{label} is {shown(value)}; it must be {words_of(kind)}")
        inner = arguments if fixed else arguments[:1] * len(value)
        for i, (element, hint) in enumerate(zip(value, inner, strict=False)):
            check_type(f"{label}[{i}]", element, hint)
    elif origin in MAPPINGS or kind in MAPPINGS:
        if not isinstance(value, Mapping):
            raise TypeError(f"{label} is {shown(value)}, a {type(value).__name__}; it must be a mapping")
        for key, element in value.items() if arguments else ():
            check_type(f"a key of {label}", key, arguments[0])
            check_type(f"{label}[{shown(key)}]", element, arguments[1])


def checked(cls: T) -> T:
    """Decorator of a class, or of a function that makes a module: its arguments are checked against its annotations.

    `zoo.slots.table.register` does so for zoo's own blocks. A constructor that is inherited from elsewhere, such as
    torch's, stays as it is. The signature and the annotations are still the constructor's own, and what copies, pickles
    or traces modules never calls it.

    Example:
        >>> from typing import Annotated
        >>> from zoo.checks import Interval
        >>> @checked
        ... class Dropped:
        ...     def __init__(self, drop: Annotated[float, Interval(0, 1)] = 0.0):
        ...         self.drop = drop
        >>> Dropped(drop=7.0)
        Traceback (most recent call last):
        ValueError: Dropped: drop is 7.0; it must be from 0 to 1
    """
    if not isinstance(cls, type):
        return _checked_function(cls)
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


def _checked_function(function: T) -> T:
    names = list(inspect.signature(function).parameters)

    @functools.wraps(function)
    def call(*args, **kwargs):
        hints = hints_of(function)
        values = {name: unboxed(value) for name, value in [*zip(names, args, strict=False), *kwargs.items()]}
        for name, value in values.items():
            check_argument(f"{function.__name__}: {name}", name, value, hints)
        return function(*args, **kwargs)

    return call


def check_argument(label: str, name: str, value: Any, hints: Mapping[str, Any]) -> None:
    """Check an argument against its annotation; a device and a dtype, which need none, against what torch can take.

    Raises:
        TypeError, ValueError: As in `check_type`.
    """
    if name in hints or value is None:
        check_type(label, value, hints.get(name))
        return
    import torch  # not above: the command line checks arguments where nothing else needs it

    if name == "dtype" and not (isinstance(value, torch.dtype) and value.is_floating_point):
        raise TypeError(f"{label} is {shown(value)}; it must be a torch.dtype of floating-point numbers")
    if name == "device":
        try:
            torch.empty(0, device=value)  # what is refused depends on how torch was built
        except (RuntimeError, AssertionError, NotImplementedError, TypeError, ValueError) as error:
            reason = printable(str(error).strip().partition("\n")[0], 200)
            kind = TypeError if isinstance(error, TypeError) else ValueError
            raise kind(f"{label} is {shown(value)}, which cannot be used: {reason}") from None


def check_path(label: str, value: Any, of: str) -> None:
    """Raise TypeError unless a value is a path, as text or as a ``Path``; `of` says what it is to be the path of.

    Example:
        >>> check_path("output", None, "the run's folder")
        Traceback (most recent call last):
        TypeError: output is None; it must be the path of the run's folder, a str or a Path
    """
    if not isinstance(value, (str, os.PathLike)):
        raise TypeError(f"{label} is {shown(value)}; it must be the path of {of}, a str or a Path")
