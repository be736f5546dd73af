"""Options that a constructor hands on to another: written down once, where they belong, and still in its signature."""

import functools
import inspect
import typing
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from zoo.checks import hints_of

C = TypeVar("C", bound=Callable)
PLACEMENT = ("device", "dtype")  # the last in every signature


def with_options_of(*sources: Callable, without: Sequence[str] = (), **defaults: Any) -> Callable[[C], C]:
    """Decorator of a constructor, or of a function: its ``*args`` and ``**options`` are what `sources` take.

    The signature and the annotations become those of one that had written all of it down, so that slots, checks and the
    catalogue see every option with its range. The constructor's own options come first; an option that it declares
    itself is its own, whatever a source says of it. Without ``*args`` nothing of theirs is taken by position. In its
    body ``**options`` has every option that it took over, with its default where none was given.

    Args:
        sources: Classes or functions, often the class's own base.
        without: Names of theirs that are not taken over.
        defaults: Options of theirs with another default here.

    Example:
        >>> class Norm:
        ...     def __init__(self, dim: int, *, eps: float = 1e-6, bias: bool = True):
        ...         self.dim, self.eps, self.bias = dim, eps, bias
        >>> class Unbiased(Norm):
        ...     @with_options_of(Norm, without=["bias"], eps=1e-5)
        ...     def __init__(self, *args, scale: float = 1.0, **options):
        ...         super().__init__(*args, bias=False, **options)
        >>> print(inspect.signature(Unbiased), Unbiased(8).eps)
        (dim: int, *, scale: float = 1.0, eps: float = 1e-05) 1e-05

    Raises:
        ValueError: `without` names what no source takes, or `defaults` what none takes by name.
    """

    def decorate(init: C) -> C:
        signature = _merged(init, sources, without, defaults)
        own = inspect.signature(init).parameters
        taken = [p for name, p in signature.parameters.items() if p.kind is p.KEYWORD_ONLY and name not in own]
        filled = {p.name: p.default for p in taken if p.default is not p.empty}
        in_order = [p for p in signature.parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
        needed = sum(p.default is p.empty for p in in_order)
        by_name = signature.parameters.keys() - {p.name for p in in_order[:needed]}
        required = {p.name for p in signature.parameters.values() if p.kind is p.KEYWORD_ONLY and p.default is p.empty}

        @functools.wraps(init)
        def with_options(*args, **options):
            fits = needed <= len(args) <= len(in_order) and required <= options.keys() <= by_name
            if not fits:  # or is given in another way than usual; to bind it takes longer
                try:
                    signature.bind(*args, **options)
                except TypeError as error:
                    owner = type(args[0]) if init.__name__ == "__init__" else init
                    raise TypeError(f"{owner.__name__}: {error}") from None
            return init(*args, **(filled | options))

        hints = {name: p.annotation for name, p in signature.parameters.items() if p.annotation is not p.empty}
        if signature.return_annotation is not signature.empty:
            hints["return"] = signature.return_annotation
        with_options.__signature__, with_options.__annotations__ = signature, hints
        with_options.__annotate__ = lambda format, /: dict(hints)  # from Python 3.14 on, what a decorator above copies
        return with_options

    return decorate


def _merged(
    init: Callable, sources: Sequence[Callable], without: Sequence[str], defaults: dict[str, Any]
) -> inspect.Signature:
    """The signature of a constructor with what the sources take in the place of its ``*args`` and ``**options``."""
    own_hints = typing.get_type_hints(init, include_extras=True)
    own = [p.replace(annotation=own_hints.get(name, p.empty)) for name, p in inspect.signature(init).parameters.items()]
    rest = {p.kind for p in own if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}
    parameters = {p.name: p for p in own if p.kind not in rest}
    offered = {}
    for source in sources:
        hints = hints_of(source)
        for name, p in inspect.signature(source).parameters.items():
            offered.setdefault(name, p.replace(annotation=hints.get(name, p.empty)))
    by_name = [name for name, p in offered.items() if p.kind is p.KEYWORD_ONLY]
    unknown = [name for name in without if name not in offered] + [name for name in defaults if name not in by_name]
    if unknown:
        raise ValueError(f"{init.__qualname__} names {', '.join(unknown)}, which none of its sources takes by name")
    for name, p in offered.items():
        place = p.VAR_POSITIONAL if p.kind is p.POSITIONAL_OR_KEYWORD else p.VAR_KEYWORD
        if place in rest and name not in without and name not in parameters:
            parameters[name] = p.replace(default=defaults[name]) if name in defaults else p
    ordered = sorted(parameters.values(), key=lambda p: (p.kind, p.name in PLACEMENT))  # stable
    return inspect.Signature(ordered, return_annotation=own_hints.get("return", inspect.Signature.empty))


def pop_options_of(source: Callable, options: dict[str, Any]) -> dict[str, Any]:
    """Those of some options that a source takes by name, taken out of them; device and dtype stay.

    Example:
        >>> def norm(dim, *, eps=1e-6, device=None): ...
        >>> options = {"eps": 0.1, "device": "cpu", "drop": 0.5}
        >>> pop_options_of(norm, options), options
        ({'eps': 0.1}, {'device': 'cpu', 'drop': 0.5})
    """
    return {name: options.pop(name) for name in _named(source) if name in options}


@functools.cache
def _named(source: Callable) -> list[str]:
    parameters = inspect.signature(source).parameters.values()
    return [p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.name not in PLACEMENT]


def placement(options: dict[str, Any]) -> dict[str, Any]:
    """Device and dtype of some options, which stay in them.

    Example:
        >>> placement({"device": "cpu", "drop": 0.5})
        {'device': 'cpu', 'dtype': None}
    """
    return {name: options.get(name) for name in PLACEMENT}
