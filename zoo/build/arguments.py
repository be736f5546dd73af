"""The arguments of a model: which of them a user passed, and whether their names, types and ranges are right."""

import inspect
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from zoo.checks import allows_none, check_argument, shown, unboxed, unknown
from zoo.skeletons.model import Model
from zoo.slots.table import kind_of

FEATURE_ARGUMENTS = {  # timm's builder takes these
    "features_only": bool | None,
    "out_indices": int | Sequence[int] | None,
    "feature_cls": Any,
}


def passed_arguments(model: type[Model], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that a user passed.

    None is a value where the argument can be None: a slot, or an annotation that says so. Elsewhere it stands for no
    argument at all, as in timm's scripts for what their command line leaves open. Numbers and arrays of numpy become
    Python's, and a `features_only` of 0 or 1 a truth value.
    """
    hints = model.argument_hints()
    arguments = {
        key: value.tolist() if isinstance(value, np.ndarray) else unboxed(value) for key, value in arguments.items()
    }
    if type(only := arguments.get("features_only")) is int and only in (0, 1):
        arguments["features_only"] = bool(only)
    return {key: value for key, value in arguments.items() if value is not None or _can_be_none(model, key, hints)}


def _can_be_none(model: type[Model], argument: str, hints: Mapping[str, Any]) -> bool:
    if argument in model.slots:
        return not kind_of(model.slots[argument]).assumed
    return argument not in model.shorthands and allows_none(hints.get(argument))


def check_arguments(
    model: type[Model], arguments: Mapping[str, Any], name: str, beside: Mapping[str, Any] = MappingProxyType({})
) -> None:
    """Check names, types and ranges of a model's arguments, and of others `beside` them, of which it has annotations.

    Raises:
        ValueError: A name is none of the class's arguments, or a value is out of its range.
        TypeError: A value has the wrong type.
    """
    known = model.argument_hints()
    hints = {name: hint for name, hint in {**known, **beside}.items() if hint is not None}
    for key, value in arguments.items():
        if key not in known and key not in beside:
            raise ValueError(unknown(f"{name} has no argument {shown(key)}", key, known, "arguments"))
        check_argument(f"{name}: {key}", key, value, hints)


def check_complete(model: type[Model], arguments: Mapping[str, Any], name: str) -> None:
    """Check that no argument is missing that a model cannot be built without.

    Raises:
        ValueError: One is.
    """
    known = inspect.signature(model).parameters
    missing = [key for key, p in known.items() if p.default is p.empty and key not in arguments]
    if missing:
        raise ValueError(f"{name} needs {', '.join(missing)}; give {', '.join(f'{key}=…' for key in missing)}")
