"""What is published about a model, in one row."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """Published figures of one ``architecture.tag``, or of an architecture without released weights.

    Attributes:
        params: Parameters, in millions.
        macs: Multiply-accumulates of one image, in billions, attention's products included.
        top1: Accuracy on ImageNet-1K's validation set, in percent.
        classes: Number of classes that `params` was counted with.
        weights: Where the weights are: ``hf-hub:...`` or a URL; None if none were released.
    """

    params: float
    macs: float
    top1: float | None = None
    classes: int = 1000
    weights: str | None = None


def on_timm_hub(rows: dict[str, Published]) -> dict[str, Published]:
    """The rows with the place of their weights, for those that timm publishes: ``hf-hub:timm/<architecture.tag>``."""
    return {
        name: Published(row.params, row.macs, row.top1, row.classes, f"hf-hub:timm/{name}") if "." in name else row
        for name, row in rows.items()
    }
