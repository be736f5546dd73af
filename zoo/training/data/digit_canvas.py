"""Canvases with many digits, and a label for every pixel."""

import functools
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from zoo.checks import Interval
from zoo.training.data.base import DataSet
from zoo.training.data.digits import Digits, Zoom
from zoo.training.data.splits import Split, TensorSplit, random_affine
from zoo.training.recipe.schema import Count, Seed
from zoo.training.recipe.section import Misfit
from zoo.training.seeds import CANVAS, generator

Above = Annotated[float, Interval(0, 100)]  # of values, beside images whose own are in [0, 1]

MARGIN = 1  # pixels around an enlarged digit, for turning and stretching it
TILE = 2 * (8 + MARGIN)  # side of what a digit takes on a canvas
PIXELS = 30_000_000  # of all canvases of a part that is held in memory, which takes half a gigabyte
INK, SHARPNESS = 0.4, 4.0  # where a stroke ends; enlarging has blurred its edge, so it is made this much steeper


@dataclass(frozen=True)
class DigitCanvas(DataSet):
    """Digits scattered over larger canvases, shape (1, size, size), with a label for every pixel, eleven classes.

    Label 0 is the background, label 1 + d the ink of a digit d. Each digit is twice its size, a little turned and
    stretched, and of its own contrast; none overlaps another; the background is uneven, and there is noise over all.
    Each part has the digits of that part of `Digits`: those on a test canvas are on no training canvas. Training
    canvases are drawn anew for every batch; those of validation and test are always the same.
    """

    name: ClassVar[str] = "digit_canvas"
    measured_on: ClassVar[tuple[str, ...]] = ("test",)
    split_seed: Seed = 0  # which digits are in which part
    size: Annotated[int, Interval(TILE, 4096)] = 64  # pixels of the side; a digit takes 18
    tries: Annotated[int, Interval(1, 1000)] = 24  # places tried for a digit on each canvas: those free get one
    rotate: Annotated[float, Interval(0, 360)] = 10.0  # largest angle that a digit is turned by, in degrees
    zoom: Zoom = 0.1  # largest change of its width and of its height, by a factor of exp(zoom)
    contrast: Annotated[float, Interval(above=0, most=1)] = 0.5  # least contrast, of at most 1
    background: Above = 0.3  # most that the background has at one place more than at another
    noise: Above = 0.05  # standard deviation
    train: Count = 1024  # canvases of an epoch
    validation: Count = 200  # canvases of the split
    test: Count = 400  # canvases of the split

    def __post_init__(self) -> None:
        super().__post_init__()
        for part in ("validation", "test"):
            if (count := getattr(self, part)) * self.size**2 > PIXELS:
                raise Misfit(
                    f"{part} is {count}, size {self.size}: the canvases are held in memory, so there may be "
                    f"{PIXELS // self.size**2} of this size",
                    part,
                )

    def load(self) -> dict[str, "CanvasSplit"]:
        parts = Digits(self.split_seed).load()
        return {part: CanvasSplit(self, part, split) for part, split in parts.items()}


class CanvasSplit(Split):
    """The canvases of one part, with the digits of that part."""

    num_classes = 11
    kind = "pixel"
    class_names = ("background", *"0123456789")

    def __init__(self, canvas: DigitCanvas, part: str, digits: TensorSplit):
        self.canvas, self.part, self.labels = canvas, part, digits.labels
        large = F.interpolate(digits.images, scale_factor=2, mode="bilinear", align_corners=False)
        self.tiles = F.pad(large, [MARGIN] * 4)

    def __len__(self) -> int:
        return getattr(self.canvas, self.part)

    def fetch(self, indices: list[int], seed: int | None) -> tuple[Tensor, Tensor]:
        """The canvases of these numbers; from a seed new ones, whatever the numbers."""
        if seed is not None:
            return self.draw(len(indices), generator(seed))
        images, labels = self._fixed
        return images[indices], labels[indices]

    @functools.cached_property
    def _fixed(self) -> tuple[Tensor, Tensor]:
        part = ("train", "validation", "test").index(self.part)
        return self.draw(len(self), generator(self.canvas.split_seed, CANVAS, part))

    def draw(self, count: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """New canvases (count, 1, size, size) and their labels (count, size, size)."""
        canvas, size = self.canvas, self.canvas.size
        number, top, left = self._places(count, rng)
        which = torch.randint(len(self.tiles), number.shape, generator=rng)
        ink = random_affine(self.tiles[which], rng, shift=0, rotate=canvas.rotate, zoom=canvas.zoom).squeeze(1)
        ink = (0.5 + SHARPNESS * (ink - INK)).clamp(0, 1)
        contrast = 1 - (1 - canvas.contrast) * torch.rand(len(number), 1, 1, generator=rng)
        axis, span = torch.linspace(0, 1, size), torch.arange(TILE)
        level, down, across = canvas.background / 2 * torch.rand(3, count, 1, 1, generator=rng)
        images = level + down * axis[:, None] + across * axis
        labels = torch.zeros(count, size, size, dtype=torch.long)
        here = number[:, None, None], (top[:, None] + span)[:, :, None], (left[:, None] + span)[:, None, :]
        images[here] += contrast * ink  # no two tiles overlap, so every pixel is written once
        labels[here] = torch.where(ink > 0.5, self.labels[which][:, None, None] + 1, 0)
        images += canvas.noise * torch.randn(images.shape, generator=rng)
        return images[:, None], labels

    def _places(self, count: int, rng: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Canvas, top and left of each tile: of the places tried in turn, those that overlap none before."""
        corners = torch.randint(self.canvas.size - TILE + 1, (count, self.canvas.tries, 2), generator=rng)
        taken = torch.zeros(count, self.canvas.tries, dtype=torch.bool)
        for i in range(self.canvas.tries):
            overlap = ((corners[:, :i] - corners[:, i : i + 1]).abs() < TILE).all(-1)
            taken[:, i] = ~(overlap & taken[:, :i]).any(1)
        number, i = taken.nonzero(as_tuple=True)
        return number, *corners[number, i].unbind(1)
