"""What a model is trained for: how an example is made, what the loss is, what is measured.

A task is a dataclass: its `name` and fields are what a recipe's `task:` section may say. To add one, write the class
with the four methods below and put it into the union `Task` at the end; nothing else is edited.

- `check(model, num_classes)` refuses a model that does not fit the task or the data.
- `example(images, labels, rng)` makes (inputs, targets) of a clean batch; what is random comes from `rng` alone.
- `loss(outputs, targets)` is the scalar to minimise.
- `metrics(outputs, targets)` has one value an image under each name, (B,); an evaluation reports their means.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class Classify:
    """Single-label classification: cross entropy; `top1` in percent, and `loss`."""

    name: ClassVar[str] = "classify"
    label_smoothing: float = 0.0

    def check(self, model: nn.Module, num_classes: int) -> None:
        if model.num_classes != num_classes:
            raise ValueError(
                f"the model has {model.num_classes} classes, the data {num_classes}: "
                f"set model.kwargs.num_classes={num_classes}"
            )

    def example(self, images: Tensor, labels: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        return images, labels

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(outputs, targets, label_smoothing=self.label_smoothing)

    def metrics(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        correct = outputs.argmax(-1) == targets
        return {"top1": 100.0 * correct, "loss": F.cross_entropy(outputs, targets, reduction="none")}


@dataclass(frozen=True)
class Denoise:
    """Image to image: remove Gaussian noise of standard deviation `sigma` from images in [0, 1].

    Trained on the mean squared error; measured by `psnr`, in dB, of the output clamped to [0, 1].
    The noisy input itself is not clamped: the noise stays Gaussian.
    """

    name: ClassVar[str] = "denoise"
    sigma: float

    def __post_init__(self) -> None:
        if self.sigma <= 0:
            raise ValueError(f"sigma is {self.sigma}, it must be above 0 (images are in [0, 1])")

    def check(self, model: nn.Module, num_classes: int) -> None:
        if model.num_classes != 0:
            raise ValueError(f"the model gives {model.num_classes} logits, not images: set model.kwargs.head=image")

    def example(self, images: Tensor, labels: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        return images + self.sigma * torch.randn(images.shape, generator=rng), images

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return F.mse_loss(outputs, targets)

    def metrics(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        error = (outputs.clamp(0, 1) - targets).square().flatten(1).mean(1)
        return {"psnr": -10 * error.clamp(min=1e-10).log10()}  # at most 100 dB, for an image restored exactly


Task = Classify | Denoise
