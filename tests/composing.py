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
import re
import tempfile
import time
import traceback
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from drawing import Draw, draw
from fuzzing import LENGTH

import zoo
from zoo.export import export_model, formats
from zoo.export.export import TOLERANCE
from zoo.export.program import deployed, relative_difference
from zoo.registry import family_of
from zoo.slots import Slot, options_of, parse_slot
from zoo.slots.table import KINDS, blocks_of

FORMATS = [name for name in ("exported", "onnx") if not formats()[name].missing()]  # those that need nothing large


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
