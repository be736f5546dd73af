"""A class for every pixel."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.training.data.splits import Split
from zoo.training.tasks.base import Task, check_classes, check_per_pixel


@dataclass(frozen=True)
class Segment(Task):
    """A class for every pixel: cross entropy; `miou`, `pixel_accuracy` and `loss`.

    `miou`, in percent, is the mean over the classes of |labelled and predicted| / |labelled or predicted|, both counted
    over all pixels of the split. A class that is neither labelled nor predicted anywhere is left out of the mean.
    """

    name: ClassVar[str] = "segment"
    reports: ClassVar[tuple[str, ...]] = ("miou", "pixel_accuracy", "loss")
    higher_is_better: ClassVar[dict[str, bool]] = {"miou": True, "pixel_accuracy": True, "loss": False}

    def check(self, model: nn.Module, split: Split, head: str | None = None) -> None:
        check_per_pixel(model, split, split.num_classes, head)
        check_classes(model, split, f"{head or 'model.pyramid'}.num_classes")

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(outputs, targets)

    def metrics(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        batch, classes = outputs.shape[:2]
        image = torch.arange(batch, device=targets.device)[:, None, None]
        cells = (image * classes + targets) * classes + outputs.argmax(1)
        counts = torch.bincount(cells.flatten(), minlength=batch * classes**2)
        loss = F.cross_entropy(outputs, targets, reduction="none").mean((1, 2))
        return {"confusion": counts.view(batch, classes, classes), "loss": loss}  # rows: labelled, columns: predicted

    def summarise(self, sums: dict[str, Tensor], images: int) -> dict[str, float]:
        confusion = sums["confusion"]
        intersection = confusion.diag()
        union = confusion.sum(0) + confusion.sum(1) - intersection
        present = union > 0
        return {
            "miou": 100 * (intersection[present] / union[present]).mean().item(),
            "pixel_accuracy": 100 * (intersection.sum() / confusion.sum()).item(),
            "loss": sums["loss"].item() / images,
        }
