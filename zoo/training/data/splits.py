"""What a part of a data set is, and the one that is held in memory."""

import math
from dataclasses import KW_ONLY, dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from zoo.training.seeds import generator


class Split(Protocol):
    """One part of a data set: `len()` images, fetched by index; or vectors, which the same words stand for.

    Of the kinds, ``image`` has a class for an image, ``labels`` any number of them, ``pixel`` one for every pixel of
    it, and ``vector`` has numbers for a vector of numbers. A class that inherits from this one takes over what has a
    default.
    """

    num_classes: int  # of kind "vector": how many numbers
    kind: Literal["image", "labels", "pixel", "vector"]
    class_names: tuple[str, ...] = ()  # in the order of the labels; empty where the data have none
    workers: int = 0  # processes that fetch
    repeats: int = 1  # how often an image comes in training at a time
    skip: bool = False  # whether what cannot be read is left out; otherwise it is an error

    def __len__(self) -> int: ...

    def fetch(self, indices: list[int], seed: int | None) -> tuple[Tensor, Tensor]:
        """Images in float32 and labels; augmented from `seed`, plain if it is None.

        Shape: ``(B, C, H, W)`` and ``(B,)`` or ``(B, H, W)``; of kind ``labels`` ``(B, num_classes)`` of 0, 1 and,
        where nobody knows, NaN; vectors ``(B, inputs)`` and ``(B, num_classes)``.
        """
        ...

    def describe(self, index: int) -> str:
        """Which example that is, for people: the path of a picture, the member of a shard."""
        return f"image {index}"

    def fetch_readable(self, indices: list[int], seed: int | None) -> tuple[Tensor, Tensor, Tensor]:
        """As `fetch`, and which of the images could be read, ``(B,)``: all, unless `skip` is set."""
        return *self.fetch(indices, seed), torch.ones(len(indices), dtype=torch.bool)


@dataclass(eq=False)
class TensorSplit(Split):
    """Images or vectors held in memory; `augment` has the options of `random_affine`, or is None for none."""

    images: Tensor
    labels: Tensor
    _: KW_ONLY
    num_classes: int
    kind: Literal["image", "labels", "vector"] = "image"
    class_names: tuple[str, ...] = ()
    augment: dict[str, float] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def fetch(self, indices: list[int], seed: int | None) -> tuple[Tensor, Tensor]:
        images, labels = self.images[indices], self.labels[indices]
        if seed is not None and self.augment:
            images = random_affine(images, generator(seed), **self.augment)
        return images, labels


def random_affine(images: Tensor, rng: torch.Generator, *, shift: float, rotate: float, zoom: float) -> Tensor:
    """Move, turn and stretch each image (B, C, H, W) on its own; bilinear, with zeros from outside.

    Args:
        shift: largest move in either direction, in pixels.
        rotate: largest angle, in degrees.
        zoom: largest change of width and of height, by a factor of exp(zoom) up or down.
    """
    batch, _, height, width = images.shape
    angle, stretch_x, stretch_y, move_x, move_y = torch.rand(5, batch, generator=rng) * 2 - 1
    angle = angle * math.radians(rotate)
    rows = [
        (angle.cos() * (stretch_x * zoom).exp(), -angle.sin(), move_x * 2 * shift / width),
        (angle.sin(), angle.cos() * (stretch_y * zoom).exp(), move_y * 2 * shift / height),
    ]
    maps = torch.stack([torch.stack(row, -1) for row in rows], 1)  # (B, 2, 3): from the new image into the old one
    grid = F.affine_grid(maps, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False)
