"""What a user gives a model: which arguments count as given, whether they fit, and whether anything takes them."""

import fnmatch
import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

import numpy as np

from zoo.checks import allows_none, check_argument, printable, shown, unboxed, unknown
from zoo.skeletons.model import Model, option_of
from zoo.slots import Slot, options_of
from zoo.slots.table import KINDS, blocks_of, kind_of
from zoo.slots.use import Use

FEATURE_ARGUMENTS = {  # timm's builder takes these
    "features_only": bool | None,
    "out_indices": int | Sequence[int] | None,
    "feature_cls": Any,
}


def given(model: type[Model], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that a user gave.

    None is a value where the argument can be None: a slot, or an annotation that says so. Elsewhere it means that
    nothing was given, as timm's scripts do with what their command line leaves open. Numbers and arrays of numpy become
    Python's, and a `features_only` of 0 or 1 a truth value.
    """
    hints, arguments = model.argument_hints(), {key: _plain(value) for key, value in arguments.items()}
    if type(only := arguments.get("features_only")) is int and only in (0, 1):
        arguments["features_only"] = bool(only)
    return {key: value for key, value in arguments.items() if value is not None or _may_be_none(model, key, hints)}


def _may_be_none(model: type[Model], argument: str, hints: Mapping[str, Any]) -> bool:
    if argument in model.slots:
        return kind_of(model.slots[argument]).optional
    return allows_none(hints.get(argument))


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray) else unboxed(value)


def check_arguments(
    model: type[Model],
    arguments: Mapping[str, Any],
    name: str,
    beside: Mapping[str, Any] = MappingProxyType({}),
) -> None:
    """Check names, types and ranges of a model's arguments, and of others `beside` them, of which it has annotations.

    Raises:
        ValueError: A name is none of the class's arguments, or a value is out of its range.
        TypeError: A value has the wrong type.
    """
    takes = model.argument_hints()
    hints = {**takes, **beside}
    for key, value in arguments.items():
        if key not in takes and key not in beside:
            raise ValueError(unknown(f"{name} has no argument {shown(key)}", key, takes, "arguments"))
        check_argument(f"{name}: {key}", key, value, hints)


def check_complete(model: type[Model], arguments: Mapping[str, Any], name: str) -> None:
    """Check that no argument is missing that a model cannot be built without.

    Raises:
        ValueError: One is.
    """
    takes = inspect.signature(model).parameters
    missing = [key for key, p in takes.items() if p.default is p.empty and key not in arguments]
    if missing:
        raise ValueError(f"{name} needs {', '.join(missing)}; give {', '.join(f'{key}=…' for key in missing)}")


@contextmanager
def in_memory(name: str) -> Iterator[None]:
    """What torch raises for weights of more memory than there can be, of a model that is built, becomes a ValueError.

    Raises:
        ValueError: A weight does not fit.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        reason = str(error).strip()
        if isinstance(error, RuntimeError) and not any(word in reason for word in ("allocate", "overflow")):
            raise
        raise ValueError(
            f"{name}: a weight does not fit into memory ({printable(reason, 200)}); give smaller sizes, or "
            'device="meta" for a model without values'
        ) from error


def check_taken(model: Model, use: Use, asked: Mapping[str, Any], name: str) -> None:
    """Check that what a user asked for beyond a variant's own arguments reached a part of the model.

    What a family's defaults say is not asked about: a recombined model need not have a block for all of it.

    Args:
        model: The model that was built.
        use: What its parts took while it was built.
        asked: Those of the user's arguments that differ from the variant's own.
        name: The model's name in the message.

    Raises:
        ValueError: Nothing in the model takes an argument; the message says what would.
    """
    for key, value in asked.items():
        if place := model.shorthands.get(key):
            argument, option = place.split(".")
            if option not in model.config[argument][0].options:
                raise ValueError(
                    f"{name}: {key}={shown(value)} is given, and no part takes it; {_remedy(model, place)}"
                )
        pattern = model.hands_on.get(key)
        if pattern and not any(fnmatch.fnmatchcase(part, pattern) for part in use.taken):
            raise ValueError(f"{name}: {key}={shown(value)} is given, and no part takes it; {_remedy(model, pattern)}")
        conditions = model.works_with.get(key, ())
        if conditions and not any(_holds(model, condition) for condition in conditions):
            wanted = " or ".join(c if "=" in c else f"{c}=True" for c in conditions)
            raise ValueError(f"{name}: {key}={shown(value)} is given, and needs {wanted}; set that, or leave it out")


def _holds(model: Model, condition: str) -> bool:
    """Whether an argument of a model is true, or, where the condition is ``argument=slot``, has such a slot."""
    key, _, name = condition.partition("=")
    if key in model.shorthands:
        argument, option = model.shorthands[key].split(".")
        return bool(option_of(type(model), argument, model.config[argument][0], option))
    return any(one.name == name for one in model.config[key]) if name else bool(model.config[key])


def _remedy(model: Model, pattern: str) -> str:
    """What would take an option, as a part of a sentence."""
    kind, _, option = pattern.partition(".")
    if not option:
        return f"it is for a part ({kind}) that is not there; leave it out"
    owners = {}
    for known in fnmatch.filter(KINDS, kind):
        names = [n for n, cls in blocks_of(known).items() if option in options_of(cls)]
        if names and known in model.config:
            owners[known] = names
    own = [
        str(slot)
        for known in owners
        for slot in model.config[known]
        if isinstance(slot, Slot) and (slot.name in owners[known]) and option in slot.options
    ]
    if own:
        return f"{own[0]} has an {option} of its own, so set it there"
    takers = "; ".join(f"{known} {', '.join(names)}" for known, names in owners.items())
    return f"leave it out, or choose a part with the option {option!r}: {takers}"
