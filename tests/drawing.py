"""Random recombinations: a variant of any registered family, with random slots and random arguments.

Names, types and ranges are read from the registry and from the signatures, so that families, blocks and options that
come later are drawn as well. `composing.py` says what must hold of every draw.
"""

import dataclasses
import functools
import inspect
import random
import typing
from collections.abc import Mapping, Sequence
from typing import Any

import zoo
from zoo.checks import Interval, hints_of
from zoo.checks.annotations import SEQUENCES, alternatives
from zoo.checks.ranges import Channels, Classes, Depth, Odd, Width
from zoo.checks.rules import Known
from zoo.registry import families, family_of
from zoo.slots import OfKind, options_of, parse_slot
from zoo.slots.slot import OneSlot
from zoo.slots.table import KINDS, blocks_of

PLACE = ("device", "dtype")
NOTHING = object()  # an argument that is left out

# Of which kind the slot of an option is where neither its annotation nor its name says so; of a list's entries.
KINDS_OF = {"base": "act", "shared": "channel_mixer"}
KINDS_OF_ENTRIES = {"experts": "channel_mixer", "bases": "basis"}
MORE_NAMES = {"layer": "basis"}  # a layer may be a basis

LARGEST = 8  # of whole numbers, unless the default is larger
LARGEST_NUMBER = 2.0  # of factors, deviations and the like
FINITE = {"eps": 1e-6}  # least values: without it, what divides by nothing is no number


@dataclasses.dataclass(frozen=True)
class Draw:
    """A recombination: a variant, and what it is created with."""

    number: int
    name: str
    arguments: Mapping[str, Any]

    def __str__(self) -> str:
        arguments = "".join(f", {name}={value!r}" for name, value in self.arguments.items())
        return f"{self.number}: create_model({self.name!r}{arguments})"


# --- Values -----------------------------------------------------------------------------------------------------------


def value_of(rng: random.Random, name: str, hint: Any, default: Any, level: int) -> Any:
    """A value that an annotation allows, small, sometimes at an end of its range; NOTHING where none is known.

    Args:
        rng: The generator.
        name: The name of the argument.
        hint: Its annotation.
        default: What it is otherwise.
        level: How many slots it is within.
    """
    kinds = [kind for kind in alternatives(hint) if kind is not type(None) or default is not None]
    kind = rng.choice(kinds)
    if kind is type(None):
        return None
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if kind is bool:
        return rng.random() < 0.5
    if origin is typing.Literal:
        return rng.choice(parts)
    if origin in SEQUENCES:
        return _sequence(rng, name, parts, default, level)
    if origin is not typing.Annotated:
        return NOTHING
    base, *rules = parts
    for rule in rules:
        if isinstance(rule, OfKind):
            return rng.choice(rule.beside) if rule.beside and rng.random() < 0.2 else slot(rng, rule.kind, level + 1)
        if isinstance(rule, Known):
            return rng.choice([*rule.beside, *rule.table])
        if isinstance(rule, OneSlot):
            kind = name if name in KINDS else KINDS_OF.get(name)
            return slot(rng, kind, level + 1) if kind else NOTHING
        if isinstance(rule, Interval):
            return _number(rng, name, base, rules, default)
    return value_of(rng, name, base, default, level)  # what its rules are about is small enough


def _sequence(rng: random.Random, name: str, parts: Sequence[Any], default: Any, level: int) -> Any:
    if Ellipsis not in parts and len(parts) > 1:
        values = [value_of(rng, name, part, None, level) for part in parts]
        if name.endswith("range"):
            values = [-rng.choice((0.5, 1.0, 2.0)), rng.choice((0.5, 1.0, 2.0))]
        return tuple(values)
    if name in KINDS_OF_ENTRIES:
        return [slot(rng, KINDS_OF_ENTRIES[name], level + 1) for _ in range(rng.choice((2, 3, 4)))]
    length = len(default) if isinstance(default, Sequence) and not isinstance(default, str) else rng.choice((2, 4))
    values = [value_of(rng, name, parts[0], None, level) for _ in range(length)]
    return NOTHING if NOTHING in values else values


def _number(rng: random.Random, name: str, base: type, rules: Sequence[Any], default: Any) -> Any:
    own = [default] if type(default) in (int, float) else []
    if base is int:
        values = [1, 2, 4, 4, 8, *own, *(rule.least for rule in rules if getattr(rule, "least", None) is not None)]
        values += [3, 5, 7] if any(isinstance(rule, Odd) for rule in rules) else []
        values = [value for value in values if value <= max([LARGEST, *own])]
    else:
        values = [0.0, 0.1, 0.25, 0.5, 1.0, LARGEST_NUMBER, *own, *own]
        values += [value for rule in rules for value in _ends(rule) if abs(value) <= LARGEST_NUMBER]
        values = [max(value, FINITE.get(name, value)) for value in values]
    fit = [value for value in values if _allows(rules, value)]
    return rng.choice(fit) if fit else NOTHING


def _ends(rule: Any) -> list[float]:
    """The ends of a range, or numbers just inside of those that do not belong to it."""
    if not isinstance(rule, Interval):
        return []
    ends = [end for end in (rule.least, rule.most) if end is not None]
    ends += [] if rule.above is None else [rule.above + 1e-3]
    return ends + ([] if rule.below is None else [rule.below - 1e-3])


def _allows(rules: Sequence[Any], value: Any) -> bool:
    try:
        for rule in rules:
            rule.check("", value)
    except ValueError:
        return False
    return True


# --- Slots ------------------------------------------------------------------------------------------------------------


def slot(rng: random.Random, kind: str, level: int = 0) -> Any:
    """One slot of a kind, as a text or as a mapping, with a few random options."""
    name = rng.choice([*zoo.list_blocks(kind), *(blocks_of(MORE_NAMES[kind]) if kind in MORE_NAMES else ())])
    cls = blocks_of(kind).get(name) or blocks_of(MORE_NAMES.get(kind, kind)).get(name)
    if cls is None:  # it leaves the block out
        return rng.choice((name, None)) if not KINDS[kind].assumed else name
    parameters, hints, options = inspect.signature(cls).parameters, hints_of(cls), {}
    for option in options_of(cls, _placed(kind)):
        needed = parameters[option].default is inspect.Parameter.empty
        if needed or (level < 3 and rng.random() < 0.4 / (level + 1)):
            value = value_of(rng, option, hints.get(option, Any), parameters[option].default, level)
            if value is not NOTHING:
                options[option] = value
    if isinstance(options.get("experts"), list):
        options["num_experts"] = len(options["experts"])
    if options.get("top_k", 1) > options.get("num_experts", LARGEST):
        options["top_k"] = options["num_experts"]
    mapping = {"name": name, **options}
    return str(parse_slot(mapping)) if rng.random() < 0.5 else mapping


def _placed(kind: str) -> int:
    """How many arguments a block of a kind is given by position, so far as its options are concerned."""
    return {"norm": 1, "layer": 2, "basis": 1}.get(kind, 0)


def slots(rng: random.Random, kind: str, places: int, stages: Sequence[int]) -> Any:
    """What an argument may say of several blocks: one slot, one a stage, a cycle, one a block, or some exchanged.

    Args:
        rng: The generator.
        kind: The kind of the slots.
        places: How many blocks there are.
        stages: How many of them each stage has; empty where a list is a cycle.
    """
    one = functools.partial(slot, rng, kind)
    some = lambda most: [one() for _ in range(rng.randint(1, min(most, 3)))]
    if places == 1:
        return one()
    form = rng.choice(("one", "list", "list", "cycle", "blocks", "at", "every", "own"))
    if form == "one":
        return one()
    if form in ("list", "cycle"):
        if not stages:
            return some(places)
        if form == "cycle":
            return [some(3)]
        return [some(blocks) if rng.random() < 0.5 else one() for blocks in stages]
    if form == "blocks":
        return [one() for _ in range(places)]
    exchanged = {"at": {rng.randrange(-places, places): one()}} if form != "every" else {}
    if form == "every" or rng.random() < 0.3:
        exchanged["every"] = {rng.randint(1, places): one()}
    if form == "own":  # the other blocks stay the model's own
        return exchanged
    others = one()
    if isinstance(others, Mapping) and rng.random() < 0.5:
        return {**others, **exchanged}
    return {"others": others, **exchanged}


# --- Models -----------------------------------------------------------------------------------------------------------


def _variant(rng: random.Random) -> tuple[str, dict[str, Any]]:
    """A variant of any family, and what makes it small where it is not so by itself."""
    family = rng.choice(sorted(families().values(), key=lambda family: family.name))
    tiny = [name for name in family.variants if name.endswith("_test")]
    name = rng.choice(sorted(family.variants)) if rng.random() < 0.25 else rng.choice(tiny)
    if name in tiny:
        return name, {}
    least, small = family.arguments(tiny[0]), {"dim": 96, "img_size": 64}
    small |= {key: least[key] for key in ("depth", "depths", "hidden", "num_classes") if key in least}
    small |= {"dims": [32] * len(least["dims"])} if "dims" in least else {}
    small = {key: value for key, value in small.items() if key in family.model.argument_names()}
    try:
        _config(name, small)
    except ValueError:  # its own arguments need larger ones
        return tiny[0], {}
    return name, small


@functools.cache
def _own_config(name: str) -> Mapping[str, Any]:
    return zoo.create_model(name, device="meta").config


def _config(name: str, small: Mapping[str, Any]) -> Mapping[str, Any]:
    return zoo.create_model(name, device="meta", **small).config if small else _own_config(name)


def draw(number: int, seed: int = 0) -> Draw:
    """A recombination by its number."""
    rng = random.Random(f"composition {seed} {number}")
    name, arguments = _variant(rng)
    model = family_of(name).model
    config = _config(name, arguments)
    hints = model.argument_hints()
    blocks = _depths(config)
    others = [argument for argument in hints if argument not in model.slots and argument not in PLACE]
    for argument in rng.sample(others, k=min(rng.choice((0, 1, 2, 3)), len(others))):
        value = _argument(rng, argument, hints[argument], config.get(argument), len(blocks))
        if value is not NOTHING:
            arguments[argument] = value
    depths = _depths({**config, **arguments})
    for argument in rng.sample(list(model.slots), k=min(rng.choice((1, 2, 3, 4)), len(model.slots))):
        own = config.get(argument)
        places = len(own) if isinstance(own, list) else 1
        of_blocks = places == sum(blocks) > 1
        stages = depths if of_blocks and len(depths) > 1 else ()
        arguments[argument] = slots(rng, model.slots[argument], sum(depths) if of_blocks else places, stages)
    return Draw(number, name, arguments)


def _depths(config: Mapping[str, Any]) -> list[int]:
    """How many blocks each stage of a model has."""
    return list(config.get("depths") or [config.get("depth") or len(config.get("hidden", ())) + 1])


def _argument(rng: random.Random, name: str, hint: Any, own: Any, stages: int) -> Any:
    """A value of an argument of a model that is no slot; sizes stay near the variant's own."""
    if name == "img_size":
        sides = [own[0], own[0] // 2, own[0] * 3 // 2]
        return rng.choice((rng.choice(sides), (rng.choice(sides), rng.choice(sides))))
    if name == "patch_size":
        return rng.choice((own[0], max(1, own[0] // 2), own, (own[0], max(1, own[1] // 2))))
    if isinstance(own, Sequence) and not isinstance(own, str):
        of_width = Width in typing.get_args(typing.get_args(hint)[0]) if typing.get_args(hint) else False
        of_depth = Depth in typing.get_args(typing.get_args(hint)[0]) if typing.get_args(hint) else False
        if of_width or of_depth:
            return [_size(rng, Width if of_width else Depth) for _ in own]
    if hint in (Width, Depth, Channels, Classes):
        return _size(rng, hint)
    of_stages = [0.0] * stages if not isinstance(own, (int, float)) else own  # for the length of a list
    return value_of(rng, name, hint, of_stages, 0)


def _size(rng: random.Random, hint: Any) -> int:
    if hint is Width:
        return rng.choice((16, 16, 24, 32, 32, 48, 1, 7))
    return rng.choice({Depth: (1, 2, 2, 3), Channels: (1, 3, 4), Classes: (0, 1, 10)}[hint])
