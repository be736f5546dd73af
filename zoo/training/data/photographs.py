"""Patches of scikit-image's photographs."""

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from zoo.checks import Interval
from zoo.training.data.base import DataSet
from zoo.training.data.splits import TensorSplit
from zoo.training.recipe.schema import Seed
from zoo.training.recipe.section import Misfit
from zoo.training.seeds import SPLIT, generator

# What a camera took, of all that lies within the package itself: none is downloaded.
NAMES = (
    *("astronaut", "brick", "camera", "cell", "chelsea", "clock", "coffee", "coins", "grass", "gravel"),
    *("hubble_deep_field", "immunohistochemistry", "moon", "page", "retina", "rocket", "stereo_motorcycle", "text"),
)
HELD_OUT = 4  # photographs for validation, and as many for the test
SMALLEST = 172  # pixels of the shortest side of any: `text`
PIXELS = 30_000_000  # of all patches of a photograph, of which those of ten take a bit over a gigabyte


@dataclass(frozen=True)
class Photographs(DataSet):
    """Grey patches of the 18 photographs in the package scikit-image, in [0, 1], shape (1, size, size).

    A patch belongs to the part of its photograph: 10 of them are train, 4 validation, 4 test. The label is the number
    of the photograph. Each gives as many patches as any other, at places that are drawn once.
    """

    name: ClassVar[str] = "photographs"
    split_seed: Seed = 0  # which photographs are in which part, and where the patches are
    size: Annotated[int, Interval(4, SMALLEST)] = 16  # pixels of the side of a patch
    train: Annotated[int, Interval(1, 100_000)] = 2000  # patches of each photograph
    held_out: Annotated[int, Interval(1, 100_000)] = 500  # patches of each photograph of validation and test

    def __post_init__(self) -> None:
        super().__post_init__()
        for part in ("train", "held_out"):
            if (count := getattr(self, part)) * self.size**2 > PIXELS:
                raise Misfit(
                    f"{part} is {count}, size {self.size}: the patches are held in memory, so of each photograph there "
                    f"may be {PIXELS // self.size**2} of this size",
                    part,
                )

    def load(self) -> dict[str, TensorSplit]:
        order = torch.randperm(len(NAMES), generator=generator(self.split_seed, SPLIT)).tolist()
        numbers = {
            "test": order[:HELD_OUT],
            "validation": order[HELD_OUT : 2 * HELD_OUT],
            "train": order[2 * HELD_OUT :],
        }
        photographs, splits = _photographs(), {}
        for part in ("train", "validation", "test"):
            members, count = sorted(numbers[part]), self.train if part == "train" else self.held_out
            patches = torch.cat([self._patches(photographs[number], number, count) for number in members])
            labels = torch.tensor(members).repeat_interleave(count)
            splits[part] = TensorSplit(patches, labels, num_classes=len(NAMES), class_names=NAMES)
        return splits

    def _patches(self, photograph: Tensor, number: int, count: int) -> Tensor:
        rng, patches = generator(self.split_seed, SPLIT, number), photograph.unfold(0, self.size, 1)
        patches = patches.unfold(1, self.size, 1)  # every one that there is, without a copy
        rows, columns = (torch.randint(most, (count,), generator=rng) for most in patches.shape[:2])
        return patches[rows, columns][:, None].float() / 255

    def preparation(self) -> dict[str, Any]:
        facts = {"input_size": (1, self.size, self.size), "interpolation": "bicubic", "crop_pct": 1.0}
        return facts | {"mean": (0.0,), "std": (1.0,)}


def _photographs() -> list[Tensor]:
    """The photographs in grey of 8 bits, (H, W)."""
    try:
        from skimage import data

        pictures = [getattr(data, name)() for name in NAMES]
    except ImportError as error:  # also of pooch, where a version of the package leaves a photograph to download
        raise ValueError(
            f"the data set {Photographs.name} is in the package scikit-image, which cannot be imported or lacks a "
            f"photograph ({error}): pip install 'scikit-image>=0.26'"
        ) from error
    # A stereo pair comes with a map of the distances; its two pictures show the same, so the left one is enough.
    pictures = [picture[0] if isinstance(picture, tuple) else picture for picture in pictures]
    return [torch.from_numpy(np.array(Image.fromarray(picture).convert("L"))) for picture in pictures]
