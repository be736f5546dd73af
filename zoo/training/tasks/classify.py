"""Single-label classification."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from zoo.blocks.mixer import Part, trait
from zoo.checks import Interval
from zoo.training.data.splits import Split
from zoo.training.tasks.base import Task, check_classes, check_images


@dataclass(frozen=True)
class Classify(Task):
    """Single-label classification: cross entropy; `top1` in percent, and `loss`."""

    name: ClassVar[str] = "classify"
    reports: ClassVar[tuple[str, ...]] = ("top1", "loss")
    higher_is_better: ClassVar[dict[str, bool]] = {"top1": True, "loss": False}
    label_smoothing: Annotated[float, Interval(0, below=1)] = 0.0  # what a label gives away, to all classes alike

    def check(self, model: nn.Module, split: Split, head: str | None = None) -> None:
        check_images(model, split, head)
        if split.kind == "pixel":
            key = "task.name" if head is None else f"tasks.{head.rpartition('.')[2]}.task.name"
            raise ValueError(f"the data has a label for every pixel, not for every image: set {key}=segment")
        if trait(model, "per_pixel", Part):
            remedy = "remove model.pyramid" if head is None else f"set {head}.name=classifier"
            raise ValueError(f"the model gives logits for every pixel, not for every image: {remedy}")
        check_classes(model, split, f"{head or 'model.kwargs'}.num_classes")

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(outputs, targets, label_smoothing=self.label_smoothing)

    def metrics(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        correct = outputs.argmax(-1) == targets
        return {"top1": 100.0 * correct, "loss": F.cross_entropy(outputs, targets, reduction="none")}
