"""The arguments of a model as a file can hold them."""

import math
import reprlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from zoo.skeletons.model import Model
from zoo.slots import Slot, dump_slots, parse_slot


def arguments_of(model: Model) -> dict[str, Any]:
    """A model's arguments as config.json has them."""
    arguments = {**model.config}
    if "deploy" in arguments:
        arguments["deploy"] = model.deployed
    for key in model.slots:
        value = arguments.get(key)
        if isinstance(value, list) and value and isinstance(value[0], Slot):
            arguments[key] = dump_slots(value, key)
        elif not isinstance(value, (str, bool, type(None))):
            arguments[key] = dump_slots([parse_slot(value)], key)
    return {key: as_json(key, value) for key, value in arguments.items()}


def as_json(name: str, value: Any) -> Any:
    """A value as JSON has it.

    Raises:
        ValueError: JSON has nothing that is equal.
    """
    if isinstance(value, np.generic) and not isinstance(value.item(), np.generic):
        value = value.item()
    if isinstance(value, (list, tuple)):
        return [as_json(f"{name}[{i}]", element) for i, element in enumerate(value)]
    if isinstance(value, Mapping) and all(type(key) is str for key in value):
        return {key: as_json(f"{name}[{key!r}]", element) for key, element in value.items()}
    if not (value is None or type(value) in (bool, int, str) or (type(value) is float and math.isfinite(value))):
        raise ValueError(
            f"{name} is {reprlib.repr(value)}, a {type(value).__name__} that config.json cannot hold; give finite "
            "numbers, strings, lists or mappings of them"
        )
    return value
