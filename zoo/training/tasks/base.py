"""What a model is trained for: the base of the tasks, and what they check.

A task says how an example is made, what the loss is, what is measured. It is a dataclass: its `name` and fields are
what a recipe's `task:` section may say. To add one, write the class into a file of this folder, or into a package of
your own that the entry-point group ``zoo`` names; nothing else is edited.
"""

from abc import abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from zoo.blocks.mixer import Part, trait
from zoo.skeletons.image import ImageModel
from zoo.training.data.splits import Split
from zoo.training.recipe.section import OpenSection
from zoo.training.tasks.meter import Meter, SumMeter


class Task(OpenSection, folder="zoo.training.tasks"):
    """Base of the tasks. Where the data are vectors, "image" stands for a vector, and "label" for its numbers.

    What is measured is said by `meter`; or, where it is sums over the images, by `metrics` and `summarise`. Of a class
    and its base, what the class says holds.

    Attributes:
        reports: Names of the numbers that are measured.
        higher_is_better: By the name of such a number, whether of two models the one with the higher is the better.
        predicts_classes: Whether the model has an output a class for each image.
        pairs_images: Whether `mix` takes images in pairs, so that a batch must have an even number of them.
    """

    reports: ClassVar[tuple[str, ...]]
    higher_is_better: ClassVar[Mapping[str, bool]] = {}
    predicts_classes: ClassVar[bool] = False
    pairs_images: ClassVar[bool] = False

    def __init_subclass__(cls, **options):
        super().__init_subclass__(**options)
        if {"metrics", "summarise"} & vars(cls).keys() and "meter" not in vars(cls):
            cls.meter = Task.meter

    def __post_init__(self) -> None:
        super().__post_init__()
        if type(self).meter is Task.meter and type(self).metrics is Task.metrics:
            raise TypeError(f"the task {self.name} measures nothing: define metrics(outputs, targets), or meter")

    @abstractmethod
    def check(self, model: nn.Module, split: Split, head: str | None = None) -> None:
        """Refuse a model, or data, that does not fit the task.

        Among several tasks it gets the task's head for the model, and as `head` the key of the recipe that says what
        this is.
        """

    def example(self, images: Tensor, labels: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """(inputs, targets) of a clean batch, by default the batch itself; what is random comes from `rng` alone."""
        return images, labels

    def mix(self, inputs: Tensor, targets: Tensor, num_classes: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """What is trained on in the place of a finished batch, by default itself; `rng` gives all that is random."""
        return inputs, targets

    def fitted(self, split: Split) -> "Task":
        """The task with what it takes from the training data, such as weights of the classes; by default itself."""
        return self

    def reported(self, num_classes: int) -> tuple[str, ...]:
        """Those of `reports` that data of so many classes have, by default all."""
        return self.reports

    @abstractmethod
    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The scalar to minimise."""

    def meter(self, num_classes: int) -> Meter:
        """What measures a split of so many classes; by default it adds up `metrics`."""
        return SumMeter(self)

    def metrics(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Under each name what an image adds to a sum over the split, (B, ...)."""
        raise TypeError(f"the task {self.name} does not measure by sums: ask meter(num_classes)")

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


def check_labels(model: nn.Module, split: Split, head: str | None, kind: str) -> None:
    """Check that model and data have something for an image as a whole: a class, or of kind "labels" any number."""
    check_images(model, split, head)
    if split.kind != kind:
        key = "task.name" if head is None else f"tasks.{head.rpartition('.')[2]}.task.name"
        has, remedy = {
            "pixel": ("a label for every pixel, not for every image", "segment"),
            "labels": ("several labels for an image, not one", "multilabel"),
            "image": ("one label for an image, not several", "classify"),
        }[split.kind]
        raise ValueError(f"the data has {has}: set {key}={remedy}")
    if trait(model, "per_pixel", Part):
        remedy = "remove model.pyramid" if head is None else f"set {head}.name=classifier"
        raise ValueError(f"the model gives logits for every pixel, not for every image: {remedy}")


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
