"""The page of a family: what it is, its block, costs by stage, weights, how to use, train and cite it."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from torch import nn

from zoo.blocks.base import MetaBlock
from zoo.checks import printable
from zoo.costs import CostReport, Work, count_costs
from zoo.create import create_model
from zoo.registry import family_of
from zoo.registry.box import PLACE
from zoo.slots import Slot
from zoo.tools.atlas.about import FIELDS, citations, inert, linked, parse
from zoo.tools.atlas.drawing import draw
from zoo.tools.atlas.recipe import recipe_of
from zoo.tools.atlas.structure import structure_of
from zoo.tools.atlas.table import weights_link

STAGE_COLUMNS = ("part", "parameters", "MACs", "share", "other FLOPs", "traffic (MB)", "kept in training (MB)")


@dataclass(frozen=True)
class Page:
    """Markdown, and the drawings that it shows, by the architecture."""

    text: str
    drawings: dict[str, str]


def family_page(name: str, models: Mapping[str, Mapping[str, Any]], recipes: Mapping[str, Sequence]) -> Page:
    """The page of a family.

    Args:
        name: The family.
        models: What `zoo.tools.index.known` has of its models, by architecture.
        recipes: File and title of the recipes there are, by the architecture that they train.
    """
    about = parse(family_of(next(iter(models))).about)
    tasks = next(iter(models.values()))["tasks"]
    models = dict(sorted(models.items(), key=_order))
    archs = [arch for arch in models if not arch.endswith("_test")] or list(models)
    built = {arch: create_model(arch, device="meta") for arch in archs}
    reports = {arch: count_costs(model) for arch, model in built.items()}
    drawn = {_mixers(model): arch for arch, model in reversed(built.items())}  # the smallest of each mixture
    drawn = sorted(drawn.values(), key=archs.index)
    shown = archs[0]
    lines = [f"# {name}", "", inert(about.summary), ""]
    lines += [
        f"- **{field}:** {linked(field, inert(about.fields[field]))}" for field in FIELDS if field in about.fields
    ]
    lines += ["", inert(about.notes), "", "## Blocks", ""]
    lines += ["Drawn from the settled slots: a text in a colour is what the argument of that slot takes.", ""]
    for arch in drawn:
        lines += [f"[![The parts of {arch}, and its blocks]({arch}.svg)]({arch}.svg)", ""]
    lines += ["## Models", "", *_variants(models, built, reports), ""]
    lines += ["## Costs by stage", "", "Of one sample; traffic is what every operator reads and writes as if alone."]
    for arch, model in built.items():
        lines += ["", f'=== "{arch}"', "", *(f"    {line}" for line in _stages(model, reports[arch]))]
    lines += ["", "## Weights", "", *_weights(models), "", "## Use", "", *_use(shown, built[shown], models[shown])]
    lines += ["", "## Train", "", *_train(shown, recipe_of(shown, built[shown], tasks), models, recipes)]
    cited = list(citations(name, about))
    if cited:
        lines += ["", "## Cite", "", "Authors are in short form; arXiv has them all.", "", "```bibtex", *cited, "```"]
    return Page("\n".join(lines) + "\n", {arch: draw(structure_of(built[arch]), arch) for arch in drawn})


def _mixers(model: nn.Module) -> frozenset[tuple[str, ...]]:
    """Which mixers stand in the blocks of a model, whatever their options."""
    slots = [model.config.get(name, ()) for name in ("token_mixer", "channel_mixer", "layer")]
    return frozenset(tuple(str(slot.name) for slot in block) for block in zip_longest(*slots, fillvalue=Slot("none")))


def _order(item: tuple[str, Mapping[str, Any]]) -> tuple[bool, bool, int]:
    """By size, and the toys last: those that come with zoo, and the test variants."""
    arch, entry = item
    first = entry["configurations"][0]
    return arch.endswith("_test"), first["weights"] == PLACE, first["params"] or 0


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """The lines of a Markdown table; what is not in the first column is aligned to the right."""
    lines = ["| " + " | ".join(columns) + " |", "|---|" + "---:|" * (len(columns) - 1)]
    return [*lines, *("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows)]


def _variants(models: Mapping[str, Mapping], built: Mapping[str, nn.Module], reports: Mapping[str, Any]) -> list[str]:
    """A table of the models, counted now, and for the tiny ones as they were counted for the index."""
    rows = []
    for arch, entry in models.items():
        first, report, model = entry["configurations"][0], reports.get(arch), built.get(arch)
        figures = (getattr(report, key) if report else first[key] for key in ("params", "active_params", "macs"))
        size = model.input_size if model else first["input_size"]
        outputs = getattr(model, "num_classes", "") if model else first["classes"]
        rows.append((f"`{arch}`", *map(_short, figures), " x ".join(map(str, size)), str(outputs)))
    return _table(("model", "parameters", "active", "MACs", "input", "outputs"), rows)


def _stages(model: nn.Module, report: CostReport) -> list[str]:
    """A table of the parts of a model: its own, and those of a chain of stages one by one."""
    rows = [
        _stage(name, report) for name in _parts(model) if report.params_by_module[name] or _work(name, report).bytes
    ]
    return _table(STAGE_COLUMNS, [*rows, _stage("", report)])


def _work(name: str, report: CostReport) -> Work:
    return report.forward_by_module.get(name, Work())


def _parts(model: nn.Module) -> Iterator[str]:
    for name, part in model.named_children():
        if isinstance(part, nn.Sequential) and not any(isinstance(each, MetaBlock) for each in part):
            yield from (f"{name}.{number}" for number, _ in part.named_children())
        else:
            yield name


def _stage(name: str, report: CostReport) -> tuple[str, ...]:
    macs = report.by_module.get(name, 0)
    work = _work(name, report)
    return (
        f"`{name}`" if name else "**all**",
        _short(report.params_by_module[name] if name else report.params),
        _short(macs),
        f"{macs / report.macs:.1%}" if report.macs else "",
        _short(work.other_flops),
        f"{work.bytes / 1e6:.3g}",
        f"{report.activations_by_module.get(name, 0) / 1e6:.3g}",
    )


def _short(number: float | None) -> str:
    """A number in three or four digits, with the letter of its unit."""
    if number is None:
        return ""
    unit, letter = next(((u, c) for u, c in ((1e9, "G"), (1e6, "M"), (1e3, "k")) if number >= u), (1, ""))
    return f"{number / unit:.4g} {letter}".rstrip()


def _weights(models: Mapping[str, Mapping[str, Any]]) -> list[str]:
    rows = [
        (f"`{each['name']}`", str(each["top1"] or ""), size, str(each["classes"]), each["licence"], link)
        for entry in models.values()
        for each in entry["configurations"]
        if (link := weights_link(each["weights"])) and (size := " x ".join(map(str, each["input_size"])))
    ]
    columns = ("name", "top-1, published (%)", "input", "outputs", "licence", "from")
    return _table(columns, rows) if rows else ["None are released."]


def _use(arch: str, model: nn.Module, entry: Mapping[str, Any]) -> list[str]:
    first = entry["configurations"][0]
    released = first["weights"] is not None
    size = ", ".join(map(str, first["input_size"] if released else model.input_size))
    load = f'zoo.create_model("{first["name"] if released else arch}"{", pretrained=True" if released else ""}).eval()'
    code = ["import torch, zoo", "", f"model = {load}", f"output = model(torch.randn(1, {size}))"]
    export = f"zoo export {arch} --to onnx" + ("" if released else " --untrained")
    shell = [f"zoo info {arch}", f"zoo bench {arch}", export]
    return ["```python", *code, "```", "", "```bash", *shell, "```"]


def _train(arch: str, recipe: str | None, models: Mapping[str, Mapping], recipes: Mapping[str, Sequence]) -> list[str]:
    there = [f"- `{file}`: {inert(printable(title))}" for name in models for file, title in recipes.get(name, ())]
    listed = ["Recipes of zoo for these models:", "", *there, ""] if there else []
    if recipe is None:
        return [*listed, "zoo has no data of its own for such a model yet; the guide to recipes says how to add some."]
    pictures = "image_folder" in recipe
    on = "pictures of your own, in `pictures/train/<class>/`, `validation` and `test`" if pictures else "a formula"
    begin = f"To begin with, on {on}; its settings are zoo's and were not measured for this family. Save it as"
    code = ["```yaml", recipe.rstrip(), "```", "", "```bash", f"zoo train {arch}.yaml", "```"]
    return [*listed, f"{begin} `{arch}.yaml`:", "", *code]
