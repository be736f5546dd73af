"""Numbers from numbers."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.blocks.mixer import Part, trait
from zoo.training.data.splits import Split
from zoo.training.tasks.base import Task
from zoo.training.tasks.meter import Meter, value_of


@dataclass(frozen=True)
class Regress(Task):
    """Numbers from numbers: mean squared error; `rmse`, the root of its mean over all points and outputs."""

    name: ClassVar[str] = "regress"
    reports: ClassVar[tuple[str, ...]] = ("rmse",)
    higher_is_better: ClassVar[dict[str, bool]] = {"rmse": False}

    def check(self, model: nn.Module, split: Split, head: str | None = None) -> None:
        if split.kind != "vector":
            raise ValueError("the data has images, not vectors with numbers to fit: set data.name=formulas")
        inputs = split.fetch([0], None)[0].shape[1]
        if trait(model, "input_size", Part) != (inputs,):
            raise ValueError(
                f"the data has vectors of {inputs} numbers, which the model does not take: "
                f"set model.kwargs.in_chans={inputs}, of a model for vectors such as kan_function"
            )
        if model.num_classes != split.num_classes:
            raise ValueError(
                f"the model gives {model.num_classes} numbers, the data has {split.num_classes}: "
                f"set model.kwargs.num_classes={split.num_classes}"
            )

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return F.mse_loss(outputs, targets)

    def meter(self, num_classes: int) -> Meter:
        return RegressMeter()


class RegressMeter(Meter):
    """Of numbers and those that were wanted, both ``(B, num_classes)``."""

    def __init__(self):
        from torchmetrics import MeanSquaredError

        super().__init__(rmse=MeanSquaredError(squared=False).set_dtype(torch.float64))

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        self.parts["rmse"].update(outputs.double().flatten(), targets.double().flatten())

    def compute(self) -> dict[str, float]:
        return {"rmse": value_of(self.parts["rmse"])}
