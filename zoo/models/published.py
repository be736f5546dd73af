"""What is published about a model, in one row."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any


@dataclass(frozen=True)
class Published:
    """Published figures of one ``architecture.tag``, or of an architecture without released weights.

    Attributes:
        params: Parameters, in millions.
        macs: Multiply-accumulates of one image, in billions, attention's products included.
        top1: Accuracy on ImageNet-1K's validation set, in percent.
        classes: Number of classes that `params` was counted with.
        weights: Where the weights are: ``hf-hub:owner/name``, ``hf-hub:owner/name/file`` or a URL; None if none were
            released.
        img_size: Side of the images; None for the variant's own.
        cfg: Keys of the pretrained configuration that differ from the family's; for names that timm does not have.
        deploy_params: Parameters after `reparameterize`, in millions; where this is given, `macs` is counted then too.
    """

    params: float
    macs: float
    top1: float | None = None
    classes: int = 1000
    weights: str | None = None
    img_size: int | None = None
    deploy_params: float | None = None
    cfg: Mapping[str, Any] = field(default_factory=dict)


def on_timm_hub(rows: dict[str, Published]) -> dict[str, Published]:
    """The rows with the place of their weights, for those that timm publishes: ``hf-hub:timm/<architecture.tag>``."""
    return {name: replace(row, weights=f"hf-hub:timm/{name}") if "." in name else row for name, row in rows.items()}
