"""MODEL_CARD.md from the registry: `python -m zoo.tools.card > MODEL_CARD.md`. No table is typed by hand."""

import functools

import timm.models

from zoo.costs import FlopReport, count_flops
from zoo.create import create_model
from zoo.registry import Family, families, list_models, model_info

HEADER = """\
# Models of zoo

Written by `make card` from the registry; do not edit it by hand.

Parameters and MACs are counted by `zoo.count_flops` on each model as it is built, for one input of the stated size and
the stated number of outputs; a MAC is one multiply-accumulate, FLOPs are twice the MACs. Active parameters and MACs
are those that one input uses; in dense models they are all. Top-1 is what is published for the weights on
ImageNet-1K's validation set with images of the stated size; zoo has not measured it again. That zoo computes what timm
computes is tested with random weights, to a relative 1e-4 of the logits.
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
    "licence of the weights",
)


def card() -> str:
    """The whole text of MODEL_CARD.md."""
    return HEADER + "".join(section(family) for _, family in sorted(families().items()))


def section(family: Family) -> str:
    """What the card says of one family."""
    lines = ["", f"## {family.name}", "", family.about, ""]
    lines += ["| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
    for name in list_models(family=family.name, include_tags=True):
        lines.append(row(family, name))
    return "\n".join(lines) + "\n"


def row(family: Family, name: str) -> str:
    """The line of one model."""
    return "| " + " | ".join(cells(family, name)) + " |"


def cells(family: Family, name: str) -> tuple[str, ...]:
    """What the card says of one model, in the order of its columns."""
    arch = name.split(".")[0]
    cfg = timm.models.PretrainedCfg(**model_info(name).pretrained_cfg)
    size, classes, report = costs_of(arch, cfg.num_classes, tuple(cfg.input_size))
    published = family.published.get(name)
    weights = f"hf-hub:{cfg.hf_hub_id}" if cfg.hf_hub_id else cfg.url if cfg.has_weights else "none released"
    return (
        f"`{name if cfg.has_weights else arch}`",
        _millions(report.params),
        _millions(report.active_params),
        f"{report.macs / 1e9:.3g}",
        " x ".join(map(str, size)),
        str(classes),
        "" if published is None or published.top1 is None else str(published.top1),
        weights,
        (cfg.license or "not stated") if cfg.has_weights else "",
    )


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
