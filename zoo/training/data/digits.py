"""scikit-learn's handwritten digits."""

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from zoo.checks import Interval
from zoo.training.data.base import DataSet
from zoo.training.data.splits import TensorSplit
from zoo.training.recipe.schema import Seed
from zoo.training.seeds import SPLIT, derive_seed

TRAINED = 1257  # images of the training part
Zoom = Annotated[float, Interval(0, 4)]


@dataclass(frozen=True)
class Digits(DataSet):
    """scikit-learn's handwritten digits: 1,797 real images of 8x8 pixels in [0, 1], shape (1, 8, 8), ten classes.

    70 % train, 10 % validation, 20 % test, each with the same share of every class, and so has a training part of fewer
    `images`. The same writers occur in all three: the data set does not say who wrote what.
    """

    name: ClassVar[str] = "digits"
    measured_on: ClassVar[tuple[str, ...]] = ("test",)
    split_seed: Seed = 0  # which images are in which part
    images: Annotated[int, Interval(10, TRAINED)] | None = None  # of the training part that are used; null: all of it
    size: Annotated[int, Interval(8, 256)] = 8  # pixels of the side, to which the images are enlarged
    shift: Annotated[float, Interval(0, 256)] = 0.0  # largest move of a training image in either direction, in pixels
    rotate: Annotated[float, Interval(0, 360)] = 0.0  # largest angle that it is turned by, in degrees
    zoom: Zoom = 0.0  # largest change of its width and of its height, by a factor of exp(zoom)

    def load(self) -> dict[str, TensorSplit]:
        from sklearn.datasets import load_digits  # takes a second to import, and only this data set needs it

        pixels, labels = load_digits(return_X_y=True)
        images = torch.from_numpy(pixels).float().div(16).reshape(-1, 1, 8, 8)
        if self.size != 8:
            images = F.interpolate(images, (self.size, self.size), mode="bilinear", align_corners=False)
        splits = in_parts(images, labels, self.split_seed, self.images)
        if self.shift or self.rotate or self.zoom:
            splits["train"].augment = {"shift": self.shift, "rotate": self.rotate, "zoom": self.zoom}
        return splits

    def preparation(self) -> dict[str, Any]:
        facts = {"input_size": (1, self.size, self.size), "interpolation": "bilinear", "crop_pct": 1.0}
        return facts | {"mean": (0.0,), "std": (1.0,)}


def in_parts(
    images: Tensor, labels: np.ndarray, split_seed: int, train_images: int | None = None
) -> dict[str, TensorSplit]:
    """Images of digits as 70 % train, 10 % validation and 20 % test, each with the same share of every class.

    Those to train on may be fewer.
    """
    from sklearn.model_selection import train_test_split

    seed = derive_seed(split_seed, SPLIT) % 2**32
    rest, test = train_test_split(np.arange(len(labels)), test_size=0.2, stratify=labels, random_state=seed)
    train, validation = train_test_split(rest, test_size=0.125, stratify=labels[rest], random_state=seed)
    if train_images is not None and train_images < len(train):
        train, _ = train_test_split(train, train_size=train_images, stratify=labels[train], random_state=seed)
    targets = torch.from_numpy(labels).long()
    return {
        part: TensorSplit(images[index], targets[index], num_classes=10, class_names=tuple("0123456789"))
        for part, index in {"train": train, "validation": validation, "test": test}.items()
    }
