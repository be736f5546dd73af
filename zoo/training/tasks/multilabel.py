"""Any number of classes for an image."""

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.training.data.splits import Split
from zoo.training.tasks.base import Task, check_classes, check_labels
from zoo.training.tasks.meter import Meter, every, mean, value_of, values_of
from zoo.training.tasks.weights import Weights, check_weights, positive_weights, weights_on


@dataclass(frozen=True)
class Multilabel(Task):
    """Any number of classes for an image, each for itself by binary cross entropy: `auc`, `map` in percent, and `loss`.

    `auc` is the mean over the classes of the area under the receiver operating characteristic (as SwinCheX reports it
    of 14 findings, https://arxiv.org/abs/2206.04246), `map` that of the average precision. A label that is NaN is
    unknown: it is in no loss and in no metric. A class is left out of `auc` unless some image has it and some has it
    not, and of `map` if none has it.
    """

    name: ClassVar[str] = "multilabel"
    predicts_classes: ClassVar[bool] = True
    reports: ClassVar[tuple[str, ...]] = ("auc", "map", "loss")
    higher_is_better: ClassVar[dict[str, bool]] = {"auc": True, "map": True, "loss": False}
    # Weights in the loss of a label that is there, a number a class; balanced: as many as there are images without it
    # for one with it; null: the same as of one that is not.
    pos_weight: Weights | None = None

    def check(self, model: nn.Module, split: Split, head: str | None = None) -> None:
        check_labels(model, split, head, "labels")
        check_classes(model, split, f"{head or 'model.kwargs'}.num_classes")
        check_weights("pos_weight", self.pos_weight, split.num_classes)

    def fitted(self, split: Split) -> Task:
        return replace(self, pos_weight=positive_weights(split)) if self.pos_weight == "balanced" else self

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        if self.pos_weight == "balanced":
            raise ValueError("pos_weight is balanced, which the training data decide: take task.fitted(split)")
        weight = None if self.pos_weight is None else weights_on(outputs.device, self.pos_weight)
        known = targets.isfinite()
        losses = F.binary_cross_entropy_with_logits(outputs, targets.nan_to_num(), pos_weight=weight, reduction="none")
        return (losses * known).sum() / known.sum().clamp(min=1)

    def meter(self, num_classes: int) -> Meter:
        return MultilabelMeter()


class MultilabelMeter(Meter):
    """Of logits ``(B, num_classes)`` and labels of the same shape: 0, 1, or NaN where nobody knows."""

    def __init__(self):
        super().__init__(outputs=every(), targets=every(), loss=mean())

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        self.parts["outputs"].update(outputs)
        self.parts["targets"].update(targets)
        known = targets.isfinite()
        losses = F.binary_cross_entropy_with_logits(outputs[known], targets[known], reduction="none")
        self.parts["loss"].update(losses)

    def compute(self) -> dict[str, float]:
        tables = self.tables()
        return {
            "auc": tables["class_auc"].nanmean().item(),
            "map": tables["class_average_precision"].nanmean().item(),
            "loss": value_of(self.parts["loss"]),
        }

    def tables(self) -> dict[str, Tensor]:
        """`class_auc` and `class_average_precision` ``(num_classes,)`` in percent; NaN of a class that is left out."""
        from sklearn.metrics import average_precision_score, roc_auc_score

        # Of the logits, since probabilities near 1 are the same number in float32.
        outputs, targets = (values_of(self.parts[name]).numpy() for name in ("outputs", "targets"))
        auc, precision = np.full((2, targets.shape[1]), np.nan)
        for number, (scores, labels) in enumerate(zip(outputs.T, targets.T, strict=True)):
            known = np.isfinite(labels)
            scores, labels = scores[known], labels[known]
            if labels.any():
                precision[number] = average_precision_score(labels, scores)
                if not labels.all():
                    auc[number] = roc_auc_score(labels, scores)
        return {"class_auc": torch.from_numpy(100 * auc), "class_average_precision": torch.from_numpy(100 * precision)}
