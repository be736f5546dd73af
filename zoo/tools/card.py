"""MODEL_CARD.md from the registry: `python -m zoo.tools.card > MODEL_CARD.md`. No table is typed by hand."""

import functools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import timm.models
import yaml

from zoo.costs import FlopReport, count_flops
from zoo.create import create_model
from zoo.registry import Family, boxed, families, list_models, model_info
from zoo.tools.atlas.about import citations, facts_of, parse
from zoo.weights.fetch import is_fetched

HEADER = """\
# Models of zoo

Written by `make card` from the registry; do not edit it by hand.

Parameters and MACs are counted by `zoo.count_flops` on each model as it is built, for one input of the stated size and
the stated number of outputs; a MAC is one multiply-accumulate, FLOPs are twice the MACs. Active parameters and MACs
are those that one input uses; in dense models they are all. That zoo computes what timm computes is tested with random
weights, to a relative 1e-4 of the logits.

Published and measured figures are kept apart. Top-1 is what is published for the weights on ImageNet-1K's validation
set with images of the stated size; zoo has not measured it again. What zoo measured stands below each family: of
weights that come with zoo, the one figure of their file; and what runs of its own recipes gave, their mean where there
are several, so that the two differ a little. The data is small: these numbers say that a family trains, not which
family is the best.

Weights come by `pretrained=True`, which downloads them; or, where they are no single file, by `zoo convert`: download
them, and `zoo convert FILE… --as NAME --output FOLDER` makes a folder that `zoo.create_model` opens. Small ones come
with zoo, in the box, and learnt the data of the recipe that stands with them: they show that a thing works, and are for
nothing else. The licence of weights is the one that timm or the authors state for them, apart from that of the code;
the data has terms of its own. Entries for citing have their authors in short form; arXiv has them all.
"""

COLUMNS = (
    "model",
    "parameters (M)",
    "active (M)",
    "MACs (G)",
    "input",
    "classes",
    "top-1, published (%)",
    "weights",
    "come by",
    "licence of the weights",
)
RECIPES = Path(__file__).parents[2] / "recipes"  # they are not installed, and a card of an installed zoo lacks them


def card() -> str:
    """The whole text of MODEL_CARD.md."""
    return HEADER + "".join(section(family) for _, family in sorted(families().items()))


def section(family: Family) -> str:
    """What the card says of one family."""
    lines = [preface(family), "| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
    for name in list_models(family=family.name, include_tags=True):
        lines.append(row(family, name))
    return "\n".join(lines) + "\n"


def preface(family: Family) -> str:
    """What the card says of a family above the table of its models: all that is not counted."""
    lines = ["", f"## {family.name}", "", family.about, ""]
    facts = list(facts_of(family))
    lines += [*facts, ""] if facts else []
    boxes = {arch: box for arch in family.variants if (box := boxed(arch))}
    runs = [
        f"- {box.metric} {box.value:.4g}{_on(RECIPES / box.recipe)}, `{arch}` as it comes with zoo: "
        f"`recipes/{box.recipe}`, seed {box.seed}"
        for arch, box in boxes.items()
    ]
    runs += [run for arch in family.variants for run in measured().get(arch, ())]
    lines += ["Measured by zoo:", "", *runs, ""] if runs else []
    cited = list(citations(family.name, parse(family.about)))
    lines += ["To cite:", "", "```bibtex", *cited, "```", ""] if cited else []
    return "\n".join(lines)


@functools.cache
def measured() -> Mapping[str, list[str]]:
    """What runs of zoo's own recipes gave, by the architecture that they train, a line each."""
    found: dict[str, list[str]] = {}
    for path in sorted(RECIPES.rglob("*.yaml")):
        expect = _read(path).get("expect") or {}
        name = _said(path, "model", "name")
        if expect.get("status") == "reproduced" and isinstance(name, str):
            line = f"- {expect['metric']} {expect['value']:g}"
            line += f"{_on(path)}, a changed `{name}`" if _said(path, "model", "kwargs") else f"{_on(path)}, `{name}`"
            place = path.relative_to(RECIPES).as_posix()
            found.setdefault(name.partition(".")[0], []).append(f"{line}: `recipes/{place}`")
    return found


def _on(path: Path) -> str:
    """The data of a recipe, with a word before it; nothing of one that names none or is not there."""
    data = _said(path, "data", "name") if path.exists() else None
    return f" on {data}" if data else ""


def _said(path: Path, part: str, key: str) -> Any:
    """A value of a recipe, or of the one that it stands on."""
    for settings in _chain(path):
        if key in (settings.get(part) or {}):
            return settings[part][key]
    return None


def _chain(path: Path) -> Iterator[dict[str, Any]]:
    """What a recipe says, then what those say that it stands on."""
    settings = _read(path)
    yield settings
    if "base" in settings:
        yield from _chain(path.parent / settings["base"])


@functools.cache
def _read(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text("utf-8"))


def row(family: Family, name: str) -> str:
    """The line of one model."""
    line = dict(zip(COLUMNS, cells(family, name), strict=True))
    line["weights"] = linked(line["weights"])
    return "| " + " | ".join(line.values()) + " |"


def linked(place: str) -> str:
    """The place of weights as a link, short enough for a table; what no browser opens stays as it is.

    Example:
        >>> linked("hf-hub:timm/mixer_b16_224.goog_in21k")
        '[timm on the Hub](https://huggingface.co/timm/mixer_b16_224.goog_in21k)'
    """
    if place.startswith("hf-hub:"):
        repository = place.removeprefix("hf-hub:").partition("@")[0]
        return f"[{repository.partition('/')[0]} on the Hub](https://huggingface.co/{repository})"
    return f"[{'/'.join(place.split('/')[2:4])}]({place})" if place.startswith("https://") else place


def cells(family: Family, name: str) -> tuple[str, ...]:
    """What the card says of one model, in the order of its columns."""
    arch = name.split(".")[0]
    cfg = timm.models.PretrainedCfg(**model_info(name).pretrained_cfg)
    size, classes, report = costs_of(arch, cfg.num_classes, tuple(cfg.input_size))
    published = family.published.get(name)
    return (
        f"`{name if cfg.has_weights else arch}`",
        _millions(report.params),
        _millions(report.active_params),
        f"{report.macs / 1e9:.3g}",
        " x ".join(map(str, size)),
        str(classes),
        "" if published is None or published.top1 is None else str(published.top1),
        *weights_of(cfg),
    )


def weights_of(cfg: timm.models.PretrainedCfg) -> tuple[str, str, str]:
    """Where the weights of a configuration are, how they come from there, and their licence."""
    if not cfg.has_weights:
        return "none released", "", ""
    if cfg.file:  # of a configuration in the registry, it is one that comes with zoo
        return "in the box", "`pretrained=True`, without a network", cfg.license or "not stated"
    place = f"hf-hub:{cfg.hf_hub_id}" if cfg.hf_hub_id else cfg.url
    way = "`pretrained=True`" if is_fetched(place) else "`zoo convert`"
    return place, way, cfg.license or "not stated"


def _millions(number: int) -> str:
    return f"{number / 1e6:.2f}" if number >= 1e5 else f"{number / 1e6:.3g}"


@functools.cache
def costs_of(arch: str, num_classes: int, input_size: tuple[int, ...]) -> tuple[tuple[int, ...], int, FlopReport]:
    """Input size, number of classes and costs; tags that differ in their weights alone are counted once."""
    size = {"img_size": input_size[-2:]} if len(input_size) == 3 else {}  # a vector's length is the variant's own
    model = create_model(arch, num_classes=num_classes, device="meta", **size)
    return model.input_size, model.num_classes, count_flops(model)


if __name__ == "__main__":
    print(card(), end="")
