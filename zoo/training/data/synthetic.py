"""Pictures of noise in memory, to try a recipe without its data."""

import io
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from PIL import Image

from zoo.checks import Interval
from zoo.training.data.picture_set import PictureSet
from zoo.training.data.picture_split import Part, PictureSource, PictureSplit
from zoo.training.recipe.schema import Count
from zoo.training.seeds import CANVAS, generator

PARTS = {"train": 1, "validation": 4}  # by what the number of pictures is divided


@dataclass(frozen=True)
class Synthetic(PictureSet):
    """Pictures of noise around a brightness of their class, read, augmented and normalised as those of files are.

    `--smoke` puts them into the place of the pictures of a recipe. The options are those of `PictureSet`.
    """

    name: ClassVar[str] = "synthetic"
    measured_on: ClassVar[tuple[str, ...]] = ("validation",)
    images: Count = 64  # pictures to train on; a quarter as many are for validation
    num_classes: Annotated[int, Interval(1, 100_000)] = 10  # which take turns
    several: bool = False  # whether a picture has several classes, of which any may be missing

    def load(self) -> dict[str, PictureSplit]:
        parts, first = {}, 0
        for part, share in PARTS.items():
            count = max(self.images // share, 1)
            numbers = torch.arange(first, first + count)
            labels = numbers % self.num_classes
            if self.several:
                bits = torch.randint(2, (count, self.num_classes), generator=generator(CANVAS, first))
                labels = bits.float()
            parts[part] = Part(Noise(self.side, self.num_classes), numbers.tolist(), labels)
            first += count
        return self.splits(parts, tuple(f"class {number}" for number in range(self.num_classes)), "pictures of noise")


class Noise(PictureSource):
    """Pictures by number, a little larger than what is cut out of them."""

    def __init__(self, side: int, num_classes: int):
        self.side, self.num_classes = side + side // 4, num_classes

    def open(self, location: int) -> bytes:
        rng = generator(location, self.side)
        brightness = 255 * (location % self.num_classes) // max(self.num_classes - 1, 1)
        noise = torch.randint(-40, 41, (self.side, self.side, 3), generator=rng)
        file = io.BytesIO()
        Image.fromarray((noise + brightness).clamp(0, 255).byte().numpy()).save(file, "PNG")
        return file.getvalue()

    def describe(self, location: int) -> str:
        return f"picture of noise {location}"
