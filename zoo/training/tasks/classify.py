"""Single-label classification."""

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from timm.data import Mixup
from timm.loss import BinaryCrossEntropy
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.checks import Interval
from zoo.training.data.splits import Split
from zoo.training.recipe.schema import Share
from zoo.training.recipe.section import Misfit
from zoo.training.seeds import seeded_globals
from zoo.training.tasks.base import Task, check_classes, check_labels
from zoo.training.tasks.meter import Meter, alone, every, mean, percent_of, value_of, values_of
from zoo.training.tasks.weights import Weights, check_weights, class_weights, weights_on

Alpha = Annotated[float, Interval(0, 1000)]
TOP = 5


@dataclass(frozen=True)
class Classify(Task):
    """Single-label classification by cross entropy: `top1`, `top5`, `balanced_accuracy`, `ece` in percent, and `loss`.

    `top5` is left out where there are no more than 5 classes. `balanced_accuracy` is the mean over the classes of the
    share of their images that is right. `ece` is the expected calibration error: how far confidence and accuracy lie
    apart, over 15 bins of equal width. The `loss` that is measured is the plain cross entropy, whatever was trained on.

    Mixup and CutMix are timm's, on the finished batch, and give soft targets; data may have such too, one number a
    class. `label_smoothing` of soft targets is carried out by the cross entropy; with `bce` those of the data stay.
    """

    name: ClassVar[str] = "classify"
    predicts_classes: ClassVar[bool] = True
    reports: ClassVar[tuple[str, ...]] = ("top1", "top5", "balanced_accuracy", "ece", "loss")
    higher_is_better: ClassVar[dict[str, bool]] = {
        "top1": True,
        "top5": True,
        "balanced_accuracy": True,
        "ece": False,
        "loss": False,
    }
    label_smoothing: Annotated[float, Interval(0, below=1)] = 0.0  # what a label gives away, to all classes alike
    criterion: Literal["cross_entropy", "bce"] = "cross_entropy"  # the loss; bce: binary, each class for itself
    sum_classes: bool = False  # whether bce sums over the classes; otherwise it takes their mean
    target_threshold: Share | None = None  # targets of bce above it become 1, the others 0; null: they stay
    # Weights of the classes in the loss, a number each; balanced: each class weighs as much as any other, by the
    # training data; null: each image does.
    class_weights: Weights | None = None
    mixup: Alpha = 0.0  # alpha of Mixup, by which two images and their labels are blended; 0: none
    cutmix: Alpha = 0.0  # alpha of CutMix, by which a part of an image is put into another; 0: none
    mix_prob: Share = 1.0  # probability of either to be carried out
    mix_switch_prob: Share = 0.5  # of CutMix in the place of Mixup, where both are set
    mix_mode: Literal["batch", "pair", "elem"] = "batch"  # for what it is drawn anew: a batch, two images, each image

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, unset in (("sum_classes", False), ("target_threshold", None)):
            if self.criterion != "bce" and getattr(self, name) != unset:
                raise Misfit(f"{name} is of bce alone: set criterion=bce, or leave it out", name)
        needed = {"mix_prob": self.pairs_images, "mix_mode": self.pairs_images}
        needed["mix_switch_prob"] = bool(self.mixup and self.cutmix)
        for name, is_used in needed.items():
            if not is_used and getattr(self, name) != getattr(type(self), name):
                both = "mixup and cutmix" if name == "mix_switch_prob" else "mixup or cutmix"
                raise Misfit(f"{name} has no effect without {both}: set that, or leave it out", name)

    @property
    def pairs_images(self) -> bool:
        return self.mixup > 0 or self.cutmix > 0

    def check(self, model: nn.Module, split: Split, head: str | None = None) -> None:
        check_labels(model, split, head, "image")
        check_classes(model, split, f"{head or 'model.kwargs'}.num_classes")
        check_weights("class_weights", self.class_weights, split.num_classes)

    def fitted(self, split: Split) -> Task:
        return replace(self, class_weights=class_weights(split)) if self.class_weights == "balanced" else self

    def mix(self, inputs: Tensor, targets: Tensor, num_classes: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        if not self.pairs_images:
            return inputs, targets
        is_soft, count = targets.ndim == 2, len(inputs)
        mixup = Mixup(
            mixup_alpha=self.mixup,
            cutmix_alpha=self.cutmix,
            prob=self.mix_prob,
            switch_prob=self.mix_switch_prob,
            mode=self.mix_mode,
            label_smoothing=self.label_smoothing if self.criterion == "bce" and not is_soft else 0.0,
            num_classes=num_classes,
            multi_label=is_soft,
        )
        rows = torch.arange(count)
        if count % 2:  # one of the pictures could not be read: the last one stands for it
            rows = torch.cat((rows, rows[-1:]))
        with seeded_globals(int(torch.randint(2**63 - 1, (), generator=rng))):
            mixed, soft = mixup(inputs[rows], targets[rows])  # mixed in place, which is in a copy
        return mixed[:count], soft[:count]

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        if self.class_weights == "balanced":
            raise ValueError("class_weights is balanced, which the training data decide: take task.fitted(split)")
        weight = None if self.class_weights is None else weights_on(outputs.device, self.class_weights)
        if self.criterion == "cross_entropy":
            return F.cross_entropy(outputs, targets, weight, label_smoothing=self.label_smoothing)
        return BinaryCrossEntropy(self.label_smoothing, self.target_threshold, weight, sum_classes=self.sum_classes)(
            outputs, targets
        )

    def reported(self, num_classes: int) -> tuple[str, ...]:
        return tuple(name for name in self.reports if name != "top5" or num_classes > TOP)

    def meter(self, num_classes: int) -> Meter:
        return ClassifyMeter(num_classes)


class ClassifyMeter(Meter):
    """Of logits ``(B, num_classes)`` and classes ``(B,)``, or soft targets, of which the largest counts as the class.

    What has a number a class is computed at the end, of the predicted and the labelled classes: with every batch it
    would be num_classes² numbers.
    """

    def __init__(self, num_classes: int):
        from torchmetrics.classification import BinaryCalibrationError, MulticlassAccuracy

        top1 = MulticlassAccuracy(num_classes, average="micro", validate_args=False).set_dtype(torch.float64)
        self.top5 = {"top5": mean()} if num_classes > TOP else {}
        ece = BinaryCalibrationError(validate_args=False)  # of being right; the one of many classes rounds to float32
        super().__init__(top1=top1, **self.top5, ece=ece, loss=mean(), predicted=every(), labelled=every())
        self.num_classes = num_classes

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        labels = targets if targets.ndim == 1 else targets.argmax(1)
        predicted = outputs.argmax(1)
        self.parts["top1"].update(predicted, labels)
        for part in self.top5.values():  # torchmetrics' own takes twelve times as long of 1,000 classes
            part.update((outputs.topk(TOP).indices == labels[:, None]).any(1))
        self.parts["ece"].update(outputs.softmax(1).amax(1).double(), predicted == labels)
        self.parts["loss"].update(F.cross_entropy(outputs, targets, reduction="none"))
        self.parts["predicted"].update(predicted)
        self.parts["labelled"].update(labels)

    def compute(self) -> dict[str, float]:
        return {
            "top1": percent_of(self.parts["top1"]),
            **{name: percent_of(part) for name, part in self.top5.items()},
            "balanced_accuracy": self._balanced_accuracy(),
            "ece": percent_of(self.parts["ece"]),
            "loss": value_of(self.parts["loss"]),
        }

    def tables(self) -> dict[str, Tensor]:
        """`class_accuracy` ``(num_classes,)`` in percent, NaN of a class without images, and `confusion`."""
        from sklearn.metrics import recall_score
        from torchmetrics.functional.classification import multiclass_confusion_matrix

        labels, predicted = self._classes()
        confusion = multiclass_confusion_matrix(predicted, labels, self.num_classes, validate_args=False)
        every_class = np.arange(self.num_classes)
        accuracy = recall_score(labels, predicted, labels=every_class, average=None, zero_division=np.nan)
        return {"class_accuracy": 100 * torch.from_numpy(accuracy), "confusion": confusion}

    def _classes(self) -> tuple[Tensor, Tensor]:
        return tuple(values_of(self.parts[name]).long() for name in ("labelled", "predicted"))

    def _balanced_accuracy(self) -> float:
        """In percent: the mean over the images, of which those of a class weigh as much as those of any other."""
        from torchmetrics import MeanMetric

        labels, predicted = self._classes()
        both = (2 * labels + (predicted == labels)).sort().values  # in an order that is the same for several processes
        labels, is_right = both // 2, both % 2
        share = alone(MeanMetric().set_dtype(torch.float64))
        share.update(is_right.double(), 1 / labels.bincount().double()[labels])
        return percent_of(share)
