"""Random recombinations of models: `python tests/composing.py [COUNT] [SEED] [--first NUMBER] [--to FORMAT]`.

A draw is a variant of any registered family, with random slots and random arguments, whose names, types and ranges are
read from the signatures. Each has a generator of its own, so that one comes again by its number:
`python tests/composing.py 1 0 --first 123`. What must hold of every draw:

- it goes all the way: built on meta and on the CPU, run, differentiated, counted with nothing unlisted, saved, loaded
  with an equal configuration and equal logits, and exported to programs that compute what it computes; or
- it is refused by a ValueError or TypeError of zoo's own that names what was asked for, the rule and the remedy: when
  it is built, on meta as on the CPU, or when it is exported, by a format that cannot hold it.

The suite tries 40 draws (`models/test_composition.py`); the script has five hundred, in every format.
"""

import argparse
import collections
import copy
import dataclasses
import functools
import inspect
import random
import re
import tempfile
import time
import traceback
import typing
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from fuzzing import LENGTH

import zoo
from zoo.checks import Interval, hints_of
from zoo.checks.annotations import SEQUENCES, alternatives
from zoo.checks.ranges import Channels, Classes, Depth, Odd, Width
from zoo.checks.rules import Known
from zoo.export import export_model, formats
from zoo.export.export import TOLERANCE
from zoo.export.program import deployed, relative_difference
from zoo.registry import families, family_of
from zoo.slots import OfKind, Slot, options_of, parse_slot
from zoo.slots.slot import OneSlot
from zoo.slots.table import KINDS, blocks_of

FORMATS = ("exported", "onnx")
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


@dataclasses.dataclass
class Outcome:
    """What became of a draw.

    Attributes:
        refused: By step, the sentence by which it was refused there.
        wrong: What no draw may end in; None if all is well.
        exported: The formats that it is in now.
    """

    refused: dict[str, str] = dataclasses.field(default_factory=dict)
    wrong: str | None = None
    exported: list[str] = dataclasses.field(default_factory=list)

    @property
    def whole(self) -> bool:
        """Whether it went all the way."""
        return not self.refused and self.wrong is None


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


# --- What must hold ---------------------------------------------------------------------------------------------------


class Wrong(Exception):
    """What no draw may end in."""


def outcome(drawn: Draw, to: Sequence[str] = ()) -> Outcome:
    """What becomes of a draw; `to` are the formats that it is exported to."""
    done = Outcome()
    try:
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            _all_the_way(drawn, Path(folder), to, done)
        surprising = [w for w in warned if not issubclass(w.category, DeprecationWarning)]
        if surprising:
            w = surprising[0]
            raise Wrong(f"warns: {w.category.__name__} of {w.filename}:{w.lineno}: {str(w.message)[:300]}")
    except Wrong as error:
        done.wrong = str(error)
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        done.wrong = f"{type(error).__name__} of {place.filename}:{place.lineno}: {str(error)[:600]}"
    return done


def _all_the_way(drawn: Draw, folder: Path, to: Sequence[str], done: Outcome) -> None:
    on_meta, refused_there = _built(drawn, device="meta")
    torch.manual_seed(drawn.number)
    model, refused_here = _built(drawn)
    if refused_there != refused_here:
        raise Wrong(f"meta says {refused_there!r:.300}, and the CPU {refused_here!r:.300}")
    if model is None:
        done.refused["build"] = refused_here
        return
    shapes = lambda model: {name: (value.shape, value.dtype) for name, value in model.state_dict().items()}
    if shapes(on_meta) != shapes(model):
        raise Wrong("the model on meta has other weights than the one on the CPU")
    x = torch.randn(2, *model.input_size)
    before, logits = x.clone(), _run(model, x)
    if not torch.isfinite(logits).all():
        raise Wrong("the logits are not finite")
    if not torch.equal(x, before) or not torch.equal(_run(model, x), logits):
        raise Wrong("a forward pass changes its input, or the model")
    _differentiated(model, x)
    _counted(model)
    model.eval()
    zoo.save_pretrained(model, folder / "saved")
    again = zoo.create_model(f"local-dir:{folder / 'saved'}").eval()
    was, comes = ({**_plain(m.config), "deploy": m.deployed} for m in (model, again))
    if others := {key: (was[key], comes.get(key)) for key in was if was[key] != comes.get(key)}:
        raise Wrong(f"what the configuration was, and comes back as: {others}")
    if not torch.equal(_run(again, x), _run(model, x)):
        raise Wrong("the logits of the loaded model are others")
    with torch.no_grad():  # weights that all begin alike leave rounding alone, made large by the next norm
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.05)
    for form in to:
        _exported(drawn, model, folder, form, done)


def _built(drawn: Draw, **place) -> tuple[torch.nn.Module | None, str | None]:
    """A draw's model, or the sentence by which it is refused."""
    try:
        return zoo.create_model(drawn.name, **drawn.arguments, **place), None
    except (ValueError, TypeError) as error:
        return None, _sentence(drawn, error)


def _run(model: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(x)


def _differentiated(model: torch.nn.Module, x: torch.Tensor) -> None:
    """A backward pass of all losses, after which every parameter has a gradient, and all are finite."""
    logits, aux = model.train()(x, return_aux=True)
    losses = {"of the logits": logits.square().mean(), **{k: v for k, v in aux.items() if k.startswith("loss/")}}
    if infinite := [name for name, loss in losses.items() if not torch.isfinite(loss).all()]:
        raise Wrong(f"the losses {infinite} are not finite")
    sum(losses.values()).backward()
    trained = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    if missing := [name for name, gradient in trained.items() if gradient is None]:
        raise Wrong(f"no gradient reaches {missing}")
    if infinite := [name for name, gradient in trained.items() if not torch.isfinite(gradient).all()]:
        raise Wrong(f"the gradients of {infinite} are not finite")
    model.zero_grad()


def _counted(model: torch.nn.Module) -> None:
    report, costs = zoo.count_flops(model), zoo.count_costs(model)
    if costs.unknown:
        raise Wrong(f"of unknown cost: {costs.unknown}")
    if report.params != sum(p.numel() for p in model.parameters()) or report.macs != costs.macs:
        raise Wrong(f"count_flops and count_costs differ: {report.macs} and {costs.macs} MACs")


def _exported(drawn: Draw, model: torch.nn.Module, folder: Path, form: str, done: Outcome) -> None:
    """Export a model; where its program is said to depend on the size of a batch, for one size."""
    try:
        export_model(model, folder / "model", form)
    except ValueError as error:
        done.refused[form] = said = _sentence(drawn, error)
        if "give dynamic_batch=False" in said:
            export_model(model, folder / "model", form, dynamic_batch=False)
            del done.refused[form]
        elif "to exported or aoti" not in said and not ("differs from the model" in said and _rough(model)):
            raise Wrong(f"{form}: {said}") from error
    if form not in done.refused:
        done.exported.append(form)


def _rough(model: torch.nn.Module) -> bool:
    """Whether fp32 alone makes the outputs so inexact that another order of sums could be taken for another model."""
    x = torch.randn(16, *model.input_size, generator=torch.Generator().manual_seed(0))
    model = deployed(model)
    exact = _run(copy.deepcopy(model).double(), x.double())
    return relative_difference(_run(model, x).double(), exact) > TOLERANCE / 4


def _sentence(drawn: Draw, error: Exception) -> str:
    """The message of a refusal.

    Raises:
        Wrong: It is no sentence of zoo's own about what was asked for.
    """
    said, place = str(error), traceback.extract_tb(error.__traceback__)[-1]
    if Path(zoo.__file__).parent not in Path(place.filename).parents:
        raise Wrong(f"an internal {type(error).__name__} of {place.filename}:{place.lineno}: {said[:300]}") from error
    if len(said) >= LENGTH:
        raise Wrong(f"a message of {len(said)} characters: {said[:300]}") from error
    words = {*re.findall(r"\w+", str(drawn)), *family_of(drawn.name).model.argument_names(), *_options()}
    if not words & set(re.findall(r"[A-Za-z_]\w+", said)):
        raise Wrong(f"a message that names nothing that was asked for: {said}") from error
    if not re.search(r"\b(must|needs?|give|choose|leave|use|set|create|exchange|export|did you mean|one of)\b", said):
        raise Wrong(f"a message without a rule or a remedy: {said}") from error
    return said


@functools.cache
def _options() -> frozenset[str]:
    """The names of all options of all blocks: one that was not given may be what is wrong."""
    return frozenset(name for kind in KINDS for block in blocks_of(kind).values() for name in options_of(block))


def _plain(config: Any) -> Any:
    """A configuration in which slots are texts and tuples lists, as a file has them."""
    if isinstance(config, Slot) or (isinstance(config, Mapping) and "name" in config):
        return str(parse_slot(config))
    if isinstance(config, Mapping):
        return {key: _plain(value) for key, value in config.items()}
    if isinstance(config, (list, tuple)):
        return [_plain(value) for value in config]
    return config


# --- By script --------------------------------------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("count", nargs="?", type=int, default=500)
    parser.add_argument("seed", nargs="?", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first draw")
    parser.add_argument("--to", nargs="*", choices=sorted(formats()), default=FORMATS, help="formats of the exports")
    args = parser.parse_args()
    torch.set_num_threads(1)
    total: collections.Counter = collections.Counter()
    reasons: collections.Counter = collections.Counter()
    for number in range(args.first, args.first + args.count):
        drawn, start = draw(number, args.seed), time.perf_counter()
        done = outcome(drawn, args.to)
        state = "wrong" if done.wrong else "refused" if "build" in done.refused else "whole"
        total.update([state, *done.refused, *done.exported])
        reasons.update(f"{step}: {re.sub(r'[0-9]+', 'N', said)[:160]}" for step, said in done.refused.items())
        said = done.wrong or "; ".join(f"{step}: {text}" for step, text in done.refused.items())
        print(
            f"{state} in {time.perf_counter() - start:.1f} s, {drawn}" + (f"\n    {said}" if said else ""), flush=True
        )
    print(dict(total))
    for reason, times in reasons.most_common(20):
        print(f"{times:4} {reason}")
    raise SystemExit(bool(total["wrong"]))


if __name__ == "__main__":
    main()
