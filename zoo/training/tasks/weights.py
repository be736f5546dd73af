"""Weights of classes in a loss, against data that have more of some than of others."""

import functools
from typing import Annotated, Literal

import torch
from torch import Tensor

from zoo.checks import Interval, some
from zoo.training.data.splits import Split

# One number a class; or "balanced", for what the training data give.
Weights = Literal["balanced"] | tuple[Annotated[float, Interval(above=0, most=1_000_000)], ...]


def check_weights(key: str, weights: Weights | None, num_classes: int) -> None:
    """Check that there is a weight a class."""
    if isinstance(weights, tuple) and len(weights) != num_classes:
        raise ValueError(
            f"{key} has {len(weights)} numbers, the data {num_classes} classes: give one a class, or {key}=balanced"
        )


def class_weights(split: Split) -> tuple[float, ...]:
    """Of each class, its images to weigh as much together as those of any other; the mean over the images is 1.

    Raises:
        ValueError: A class has no image, or the split does not know its labels.
    """
    from sklearn.utils.class_weight import compute_class_weight

    labels = labels_of("class_weights", split)
    if missing := sorted(set(range(split.num_classes)) - set(labels.tolist())):
        raise _one_sided("class_weights", "image", split, missing)
    classes = torch.arange(split.num_classes).numpy()
    return tuple(compute_class_weight("balanced", classes=classes, y=labels.numpy()).tolist())


def positive_weights(split: Split) -> tuple[float, ...]:
    """Of each class, how many images are known not to have it for one that has it.

    Raises:
        ValueError: A class is in no image or in all, or the split does not know its labels.
    """
    labels = labels_of("pos_weight", split)
    positive, negative = (labels == 1).sum(0), (labels == 0).sum(0)
    for count, what in ((positive, "image"), (negative, "image without it")):
        if missing := (count == 0).nonzero().flatten().tolist():
            raise _one_sided("pos_weight", what, split, missing)
    return tuple((negative / positive).tolist())


def labels_of(key: str, split: Split) -> Tensor:
    """The labels of a split, without a look at its images.

    Raises:
        ValueError: It does not say them.
    """
    labels = getattr(split, "labels", None)
    if labels is None and hasattr(split, "samples"):
        labels = torch.as_tensor([label for _, label in split.samples])
    if labels is None:
        raise ValueError(f"{key} is balanced, but the data do not say their labels beforehand: give a number a class")
    return labels


@functools.lru_cache(maxsize=16)
def weights_on(device: torch.device, weights: tuple[float, ...]) -> Tensor:
    """The weights as a tensor, which is copied to a device once and not with every step."""
    with torch.inference_mode(False):
        return torch.tensor(weights, device=device)


def _one_sided(key: str, what: str, split: Split, classes: list[int]) -> ValueError:
    names = getattr(split, "class_names", ()) or range(split.num_classes)
    return ValueError(
        f"{key} is balanced, but these classes have no training {what}: {some([names[number] for number in classes])}; "
        "give a number a class"
    )
