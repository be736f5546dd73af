"""Outlines, for every pixel."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.training.data.splits import Split
from zoo.training.recipe.schema import Positive
from zoo.training.tasks.base import Task, check_per_pixel
from zoo.training.tasks.meter import Meter, mean, value_of


@dataclass(frozen=True)
class Edges(Task):
    """The outlines of what is labelled, for every pixel: one logit each, and binary cross entropy.

    A pixel is on an edge if one of the four beside it has another label. `f1`, in percent, is the harmonic mean of
    `precision` and `recall` of the pixels whose logit is above 0, all of them counted over all pixels of the split, and
    an edge that is one pixel off counts as missed; and `loss`.
    """

    name: ClassVar[str] = "edges"
    reports: ClassVar[tuple[str, ...]] = ("f1", "precision", "recall", "loss")
    higher_is_better: ClassVar[dict[str, bool]] = {"f1": True, "precision": True, "recall": True, "loss": False}
    edge_weight: Positive = 1.0  # of a pixel on an edge in the loss; one off it has 1

    def check(self, model: nn.Module, split: Split, head: str | None = None) -> None:
        check_per_pixel(model, split, 1, head)
        if model.num_classes != 1:
            key = f"{head or 'model.pyramid'}.num_classes"
            raise ValueError(f"the model has {model.num_classes} logits a pixel, and an edge takes one: set {key}=1")

    def example(self, images: Tensor, labels: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        edges = torch.zeros_like(labels, dtype=torch.bool)
        for axis in (1, 2):
            count = labels.shape[axis] - 1
            differ = labels.narrow(axis, 0, count) != labels.narrow(axis, 1, count)
            edges.narrow(axis, 0, count).logical_or_(differ)
            edges.narrow(axis, 1, count).logical_or_(differ)
        return images, edges.float()

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return self._loss(outputs, targets).mean()

    def _loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        weight = outputs.new_tensor(self.edge_weight)
        return F.binary_cross_entropy_with_logits(outputs[:, 0], targets, pos_weight=weight, reduction="none")

    def meter(self, num_classes: int) -> Meter:
        return EdgesMeter(self._loss)


class EdgesMeter(Meter):
    """Of logits ``(B, 1, H, W)`` and edges of 0 and 1 ``(B, H, W)``; `losses` gives the loss of every pixel."""

    def __init__(self, losses: Callable[[Tensor, Tensor], Tensor]):
        from torchmetrics.classification import BinaryConfusionMatrix

        super().__init__(confusion=BinaryConfusionMatrix(validate_args=False), loss=mean())
        self.losses = losses

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        self.parts["confusion"].update((outputs[:, 0] > 0).long(), targets.long())
        self.parts["loss"].update(self.losses(outputs, targets).mean((1, 2)))

    def compute(self) -> dict[str, float]:
        from sklearn.metrics import precision_recall_fscore_support

        labelled, predicted = [0, 0, 1, 1], [0, 1, 0, 1]
        counts = self.tables()["confusion"].flatten().tolist()
        precision, recall, f1, _ = precision_recall_fscore_support(
            labelled, predicted, sample_weight=counts, average="binary", zero_division=0
        )
        shares = {"f1": f1, "precision": precision, "recall": recall}
        return {name: 100 * float(share) for name, share in shares.items()} | {"loss": value_of(self.parts["loss"])}

    def tables(self) -> dict[str, Tensor]:
        """`confusion` of pixels, the first class being that of no edge."""
        return {"confusion": self.parts["confusion"].confmat.cpu()}
