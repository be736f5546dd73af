"""What a family's file says, as data: its model, its variants, what was published of them and what was counted."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from zoo.skeletons.model import Model
from zoo.slots import copied
from zoo.weights import Rule

TIMM = "timm's tables of results, or its models as it builds them"


@dataclass(frozen=True)
class Published:
    """Figures that the authors of one ``architecture.tag`` published, or those who published its weights.

    A figure has as many digits as were printed. What nobody published is None; what was counted in its place is a
    `Counted`.

    Attributes:
        params: Parameters, in millions.
        macs: Multiply-accumulates of one image with 1000 classes, in billions.
        top1: Accuracy on ImageNet-1K's validation set, in percent, at the same size of images.
        classes: Number of classes that `params` was counted with.
        weights: Where the weights are: ``hf-hub:owner/name``, ``hf-hub:owner/name/file`` or a URL; None if none were
            released.
        img_size: Side of the images; None for the variant's own.
        cfg: Keys of the pretrained configuration that differ from the family's; for names that timm does not have.
        deploy_params: Parameters after `reparameterize`, in millions; `macs` are those of this form if it is given.
        source: Where the figures stand.
    """

    params: float | None = None
    macs: float | None = None
    top1: float | None = None
    classes: int = 1000
    weights: str | None = None
    img_size: int | None = None
    deploy_params: float | None = None
    cfg: Mapping[str, Any] = field(default_factory=dict)
    source: str = ""

    def __str__(self) -> str:
        figures = _figures(self)
        return f"{figures} ({self.source})" if figures and self.source else figures


@dataclass(frozen=True)
class Counted:
    """Figures of one ``architecture.tag`` that were counted, because nobody published them or only roughly.

    Attributes:
        params, macs, deploy_params: As in `Published`. MACs that zoo counted are those of the model as it is, with its
            own number of classes.
        by_zoo: Those of them that zoo counted on its own model: they say what zoo builds and prove nothing. The others
            were counted on the authors' code.
    """

    params: float | None = None
    macs: float | None = None
    deploy_params: float | None = None
    by_zoo: tuple[str, ...] = ()

    def __str__(self) -> str:
        parts = {
            "on the authors' code": [name for name in FIGURES if name not in self.by_zoo],
            "by zoo": [name for name in FIGURES if name in self.by_zoo],
        }
        told = {where: _figures(self, names) for where, names in parts.items()}
        return "; ".join(f"{text} {where}" for where, text in told.items() if text)


FIGURES = {"params": "M parameters", "deploy_params": "M parameters when merged", "macs": "G MACs"}


def _figures(row: Published | Counted, names: Any = (*FIGURES, "top1")) -> str:
    """Those of a row's figures that are known."""
    units = {**FIGURES, "top1": "% top-1"}
    values = {name: getattr(row, name) for name in names}
    return ", ".join(f"{value} {units[name]}" for name, value in values.items() if value is not None)


def from_source(source: str, rows: Mapping[str, Published]) -> dict[str, Published]:
    """The rows with where their figures stand."""
    return {name: replace(row, source=source) for name, row in rows.items()}


def on_timm_hub(rows: Mapping[str, Published]) -> dict[str, Published]:
    """The rows with the place of their weights, for those that timm publishes: ``hf-hub:timm/<architecture.tag>``."""
    rows = {name: replace(row, weights=f"hf-hub:timm/{name}") if "." in name else row for name, row in rows.items()}
    return from_source(TIMM, rows)


@dataclass(frozen=True)
class Family:
    """A family's file as data."""

    name: str
    module: str
    model: type[Model]
    defaults: Mapping[str, Any]
    variants: Mapping[str, Mapping[str, Any]]
    published: Mapping[str, Published]
    rules: tuple[Rule, ...]
    tasks: tuple[str, ...]
    about: str
    cfg: Mapping[str, Any]
    counted: Mapping[str, Counted] = field(default_factory=dict)

    def arguments(self, variant: str) -> dict[str, Any]:
        """The constructor's arguments of a variant, for the caller to keep: nothing in them is the family's own."""
        return copied({**self.defaults, **self.variants[variant]})
