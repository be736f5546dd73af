"""A class for every pixel."""

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.training.data.splits import Split
from zoo.training.tasks.base import Task, check_classes, check_per_pixel
from zoo.training.tasks.meter import Meter, mean, value_of


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

    def meter(self, num_classes: int) -> Meter:
        return SegmentMeter(num_classes)


class SegmentMeter(Meter):
    """Of logits ``(B, num_classes, H, W)`` and classes ``(B, H, W)``."""

    def __init__(self, num_classes: int):
        from torchmetrics.classification import MulticlassConfusionMatrix

        super().__init__(confusion=MulticlassConfusionMatrix(num_classes, validate_args=False), loss=mean())

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        self.parts["confusion"].update(outputs.argmax(1), targets)
        self.parts["loss"].update(F.cross_entropy(outputs, targets, reduction="none").mean((1, 2)))

    def compute(self) -> dict[str, float]:
        from sklearn.metrics import accuracy_score

        tables = self.tables()
        labelled, predicted, pixels = _cells(tables["confusion"])
        return {
            "miou": tables["class_iou"].nanmean().item(),
            "pixel_accuracy": 100 * float(accuracy_score(labelled, predicted, sample_weight=pixels)),
            "loss": value_of(self.parts["loss"]),
        }

    def tables(self) -> dict[str, Tensor]:
        """`class_iou` ``(num_classes,)`` in percent, NaN of a class that is nowhere, and `confusion` of pixels."""
        from sklearn.metrics import jaccard_score

        confusion = self.parts["confusion"].confmat.cpu()
        labelled, predicted, pixels = _cells(confusion)
        iou = jaccard_score(labelled, predicted, sample_weight=pixels, average=None, zero_division=0)
        is_nowhere = confusion.sum(0) + confusion.sum(1) == 0
        return {"class_iou": torch.from_numpy(100 * iou).masked_fill(is_nowhere, math.nan), "confusion": confusion}


def _cells(confusion: Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each pair of classes which is labelled, which predicted, and of how many pixels: what scikit-learn takes."""
    labelled, predicted = np.indices(confusion.shape)
    return labelled.ravel(), predicted.ravel(), confusion.flatten().numpy()
