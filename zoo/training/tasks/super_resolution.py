"""Images with more detail than was recorded."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.checks import Interval
from zoo.training.data.splits import Split
from zoo.training.tasks.image_to_image import ImageToImage


@dataclass(frozen=True)
class SuperResolution(ImageToImage):
    """Image to image: restore what images in [0, 1] lose when their sides are made `scale` times smaller.

    The small image is made by a bicubic filter against aliasing, and enlarged again to the old size before a model gets
    it, by bicubic interpolation: input and output have the same shape.
    """

    name: ClassVar[str] = "super_resolution"
    scale: Annotated[int, Interval(2, 64)]  # by how much smaller; it divides the sides of the images

    def check(self, model: nn.Module, split: Split, head: str | None = None) -> None:
        super().check(model, split, head)
        height, width = split.fetch([0], None)[0].shape[2:]
        if height % self.scale or width % self.scale:
            raise ValueError(
                f"task.scale is {self.scale}, which does not divide {height} x {width} pixels: set it, or the size of "
                "the images, so that it does"
            )

    def example(self, images: Tensor, labels: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        height, width = images.shape[2:]
        small = F.interpolate(images, (height // self.scale, width // self.scale), mode="bicubic", antialias=True)
        return F.interpolate(small, (height, width), mode="bicubic"), images
