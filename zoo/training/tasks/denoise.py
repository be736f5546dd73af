"""Image to image."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.checks import Interval
from zoo.training.data.splits import Split
from zoo.training.tasks.base import Task, check_images
from zoo.training.tasks.meter import Meter, mean, value_of

MOST = 100.0  # dB, of an image that is restored exactly


@dataclass(frozen=True)
class Denoise(Task):
    """Image to image: remove Gaussian noise of standard deviation `sigma` from images in [0, 1].

    Trained on the mean squared error; measured by `psnr`, in dB, the mean over the images of that of the output clamped
    to [0, 1], of each at most 100.
    The noisy input itself is not clamped: the noise stays Gaussian.
    """

    name: ClassVar[str] = "denoise"
    reports: ClassVar[tuple[str, ...]] = ("psnr",)
    higher_is_better: ClassVar[dict[str, bool]] = {"psnr": True}
    sigma: Annotated[float, Interval(above=0, most=100)]  # standard deviation of the noise; images are in [0, 1]

    def check(self, model: nn.Module, split: Split, head: str | None = None) -> None:
        check_images(model, split)
        if head is not None:
            raise ValueError(f"{head} gives logits, not images: denoise is no task among several")
        if model.num_classes != 0:
            raise ValueError(f"the model gives {model.num_classes} logits, not images: set model.kwargs.head=image")

    def example(self, images: Tensor, labels: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        return images + self.sigma * torch.randn(images.shape, generator=rng), images

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return F.mse_loss(outputs, targets)

    def meter(self, num_classes: int) -> Meter:
        return DenoiseMeter()


class DenoiseMeter(Meter):
    """Of images and those that were wanted, both ``(B, C, H, W)`` in [0, 1]."""

    def __init__(self):
        super().__init__(psnr=mean())

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        from torchmetrics.functional.image import peak_signal_noise_ratio

        pixels = tuple(range(1, outputs.ndim))
        options = {"data_range": 1.0, "dim": pixels, "reduction": "none"}
        self.parts["psnr"].update(peak_signal_noise_ratio(outputs.clamp(0, 1), targets, **options).clamp(max=MOST))

    def compute(self) -> dict[str, float]:
        return {"psnr": value_of(self.parts["psnr"])}
