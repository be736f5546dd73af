"""What a model is trained for: the base of the tasks, and what they check.

A task says how an example is made, what the loss is, what is measured. It is a dataclass: its `name` and fields are
what a recipe's `task:` section may say. To add one, write the class into a file of this folder, or into a package of
your own that the entry-point group ``zoo`` names; nothing else is edited.
"""

from abc import abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn

from zoo.blocks.mixer import Part, trait
from zoo.skeletons.image import ImageModel
from zoo.training.data.splits import Split
from zoo.training.recipe.section import OpenSection


class Task(OpenSection, folder="zoo.training.tasks"):
    """Base of the tasks. Where the data are vectors, "image" stands for a vector, and "label" for its numbers.

    Attributes:
        reports: Names of the numbers that `summarise` gives.
        higher_is_better: Of these, whether a higher one is the better; what is not said cannot tell the best model.
    """

    reports: ClassVar[tuple[str, ...]]
    higher_is_better: ClassVar[dict[str, bool]] = {}

    @abstractmethod
    def check(self, model: nn.Module, split: Split, head: str | None = None) -> None:
        """Refuse a model, or data, that does not fit the task.

        Among several tasks it gets the task's head for the model, and as `head` the key of the recipe that says what
        this is.
        """

    def example(self, images: Tensor, labels: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """(inputs, targets) of a clean batch, by default the batch itself; what is random comes from `rng` alone."""
        return images, labels

    @abstractmethod
    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The scalar to minimise."""

    @abstractmethod
    def metrics(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Under each name what an image adds to a sum over the split, (B, ...)."""

    def summarise(self, sums: dict[str, Tensor], images: int) -> dict[str, float]:
        """The numbers to report, of these sums and the number of images: by default the means over the images."""
        return {name: total.item() / images for name, total in sums.items()}


def check_images(model: nn.Module, split: Split, head: str | None = None) -> None:
    """Check that the data are images, of as many channels as the model takes."""
    if split.kind == "vector":
        raise ValueError("the data has vectors with numbers to fit, not images: set task.name=regress")
    channels = split.fetch([0], 0)[0].shape[1]
    in_chans = next((module.in_chans for module in model.modules() if isinstance(module, ImageModel)), None)
    if in_chans not in (None, channels):
        key = "data.in_chans" if head is None else f"tasks.{head.rpartition('.')[2]}.data.in_chans"
        raise ValueError(
            f"the model takes images of {in_chans} channels, those of the data have {channels}: "
            f"set model.kwargs.in_chans={channels}, or {key}={in_chans} of an image_folder"
        )


def check_classes(model: nn.Module, split: Split, key: str) -> None:
    """Check that model and data have the same classes; `key` of the recipe would change the model's."""
    if model.num_classes != split.num_classes:
        raise ValueError(
            f"the model has {model.num_classes} classes, the data {split.num_classes}: set {key}={split.num_classes}"
        )


def check_per_pixel(model: nn.Module, split: Split, outputs: int, head: str | None) -> None:
    """Check that data and model have something for every pixel, of which there should be so many outputs."""
    check_images(model, split, head)
    if split.kind != "pixel":
        key = "data.name" if head is None else f"tasks.{head.rpartition('.')[2]}.data.name"
        raise ValueError(f"the data has one label an image, not one a pixel: set {key}=digit_canvas")
    if not trait(model, "per_pixel", Part):
        setting = f"{{num_classes: {outputs}}}" if head is None else f"{{name: dense, num_classes: {outputs}}}"
        raise ValueError(
            f"the model gives logits for an image, not for every pixel: set {head or 'model.pyramid'}={setting}"
        )
