"""Images without noise."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from zoo.checks import Interval
from zoo.training.tasks.image_to_image import ImageToImage


@dataclass(frozen=True)
class Denoise(ImageToImage):
    """Image to image: remove Gaussian noise of standard deviation `sigma` from images in [0, 1].

    The noisy input is not clamped: the noise stays Gaussian.
    """

    name: ClassVar[str] = "denoise"
    sigma: Annotated[float, Interval(above=0, most=100)]  # standard deviation of the noise; images are in [0, 1]

    def example(self, images: Tensor, labels: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        return images + self.sigma * torch.randn(images.shape, generator=rng, device=images.device), images
