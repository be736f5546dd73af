"""Whether what a user asks of a model has an effect in it: what nothing takes is an error, and no silence."""

import fnmatch
from collections.abc import Mapping
from typing import Any

from zoo.checks import shown
from zoo.skeletons.model import Model, option_of
from zoo.slots import Slot, options_of
from zoo.slots.table import blocks_of
from zoo.slots.use import Use


def check_effect(model: Model, use: Use, changed: Mapping[str, Any], name: str) -> None:
    """Check that what a user asks for beyond a variant's own arguments has reached a part of the model.

    What a family's defaults say is not asked about: a recombined model need not have a block for all of it.

    Args:
        model: The model that was built.
        use: What its parts took while it was built.
        changed: Those of the user's arguments that differ from the variant's own.
        name: The model's name in the message.

    Raises:
        ValueError: Nothing in the model takes an argument; the message says what would.
    """
    for key, value in changed.items():
        pattern = model.shorthands.get(key) or model.hands_on.get(key)
        if pattern and not (_is_set(model, key) or any(fnmatch.fnmatchcase(part, pattern) for part in use.taken)):
            raise ValueError(f"{name}: {key}={shown(value)} is given, and no part takes it; {_remedy(model, pattern)}")
        conditions = model.works_with.get(key, ())
        if conditions and not any(_holds(model, condition) for condition in conditions):
            needed = " or ".join(c if "=" in c else f"{c}=True" for c in conditions)
            raise ValueError(f"{name}: {key}={shown(value)} is given, and needs {needed}; set that, or leave it out")


def _is_set(model: Model, key: str) -> bool:
    """Whether an argument is a shorthand, and the slot that it is an option of has that option."""
    argument, _, option = model.shorthands.get(key, "").partition(".")
    return bool(argument) and option in model.config[argument][0].options


def _holds(model: Model, condition: str) -> bool:
    """Whether an argument of a model is true, or, where the condition is ``argument=slot``, has such a slot."""
    key, _, name = condition.partition("=")
    if key in model.shorthands:
        argument, option = model.shorthands[key].split(".")
        return bool(option_of(type(model), argument, model.config[argument][0], option))
    return any(slot.name == name for slot in model.config[key]) if name else bool(model.config[key])


def _remedy(model: Model, pattern: str) -> str:
    """What would take an option, as a part of a sentence."""
    kind, _, option = pattern.partition(".")
    if not option:
        return f"it is for a part ({kind}) that is not there; leave it out"
    takers = {}  # by kind of block, the names of those that have the option
    for own in model.slots.values():
        if fnmatch.fnmatchcase(own, kind) and own not in takers:
            takers[own] = [name for name, cls in blocks_of(own).items() if option in options_of(cls)]
    settled = [model.config[argument] for argument, own in model.slots.items() if own in takers]
    for slot in (slot for slots in settled if isinstance(slots, list) for slot in slots):
        if isinstance(slot, Slot) and option in slot.options:
            return f"{slot} has its own {option}, so set it there"
    known = "; ".join(f"{own} {', '.join(names)}" for own, names in takers.items() if names)
    return f"leave it out, or choose a part with the option {option!r}: {known}"
