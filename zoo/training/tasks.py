"""What a model is trained for: how an example is made, what the loss is, what is measured.

A task is a dataclass: its `name` and fields are what a recipe's `task:` section may say. To add one, write the class
with the methods below and put it into the union `Task` at the end; nothing else is edited.

- `check(model, split, head)` refuses a model, or data, that does not fit the task. Among several tasks it gets the
  task's head for the model, and as `head` the key of the recipe that says what this is.
- `example(images, labels, rng)` makes (inputs, targets) of a clean batch; what is random comes from `rng` alone.
- `loss(outputs, targets)` is the scalar to minimise.
- `metrics(outputs, targets)` has under each name what an image adds to a sum over the split, (B, ...).
- `summarise(sums, images)` makes the numbers to report of these sums and the number of images: by `Means`, their means.
- `reports` has the names of these numbers.

Where the data are vectors, these words stand for a vector and the numbers that belong to it.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.checks import Interval
from zoo.training.schema import Positive, Section
from zoo.training.splits import Split


class Means:
    """A task whose metrics are means over the images."""

    def summarise(self, sums: dict[str, Tensor], images: int) -> dict[str, float]:
        return {name: total.item() / images for name, total in sums.items()}


def check_images(model: nn.Module, split: Split, head: str | None = None) -> None:
    """Check that the data are images, of as many channels as the model takes."""
    if split.kind == "vector":
        raise ValueError("the data has vectors with numbers to fit, not images: set task.name=regress")
    found = split.fetch([0], 0)[0].shape[1]
    wanted = next((module.in_chans for module in model.modules() if hasattr(module, "in_chans")), None)
    if wanted not in (None, found):
        key = "data.in_chans" if head is None else f"tasks.{head.rpartition('.')[2]}.data.in_chans"
        raise ValueError(
            f"the model takes images of {wanted} channels, those of the data have {found}: "
            f"set model.kwargs.in_chans={found}, or {key}={wanted} of an image_folder"
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
    if not getattr(model, "per_pixel", False):
        wanted = f"{{num_classes: {outputs}}}" if head is None else f"{{name: dense, num_classes: {outputs}}}"
        raise ValueError(
            f"the model gives logits for an image, not for every pixel: set {head or 'model.pyramid'}={wanted}"
        )


@dataclass(frozen=True)
class Classify(Section, Means):
    """Single-label classification: cross entropy; `top1` in percent, and `loss`."""

    name: ClassVar[str] = "classify"
    reports: ClassVar[tuple[str, ...]] = ("top1", "loss")
    label_smoothing: Annotated[float, Interval(0, below=1)] = 0.0  # what a label gives away, to all classes alike

    def check(self, model: nn.Module, split: Split, head: str | None = None) -> None:
        check_images(model, split, head)
        if split.kind == "pixel":
            key = "task.name" if head is None else f"tasks.{head.rpartition('.')[2]}.task.name"
            raise ValueError(f"the data has a label for every pixel, not for every image: set {key}=segment")
        if getattr(model, "per_pixel", False):
            remedy = "remove model.pyramid" if head is None else f"set {head}.name=classifier"
            raise ValueError(f"the model gives logits for every pixel, not for every image: {remedy}")
        check_classes(model, split, f"{head or 'model.kwargs'}.num_classes")

    def example(self, images: Tensor, labels: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        return images, labels

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(outputs, targets, label_smoothing=self.label_smoothing)

    def metrics(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        correct = outputs.argmax(-1) == targets
        return {"top1": 100.0 * correct, "loss": F.cross_entropy(outputs, targets, reduction="none")}


@dataclass(frozen=True)
class Denoise(Section, Means):
    """Image to image: remove Gaussian noise of standard deviation `sigma` from images in [0, 1].

    Trained on the mean squared error; measured by `psnr`, in dB, of the output clamped to [0, 1].
    The noisy input itself is not clamped: the noise stays Gaussian.
    """

    name: ClassVar[str] = "denoise"
    reports: ClassVar[tuple[str, ...]] = ("psnr",)
    sigma: Annotated[float, Interval(above=0, most=100)]  # standard deviation of the noise; images are in [0, 1]

    def check(self, model: nn.Module, split: Split, head: str | None = None) -> None:
        check_images(model, split)
        if head is not None:
            raise ValueError(f"{head} gives logits, not images: denoise is no task among several")
        if model.num_classes != 0:
            raise ValueError(f"the model gives {model.num_classes} logits, not images: set model.kwargs.head=image")

    def example(self, images: Tensor, labels: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        return images + self.sigma * torch.randn(images.shape, generator=rng), images

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return F.mse_loss(outputs, targets)

    def metrics(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        error = (outputs.clamp(0, 1) - targets).square().flatten(1).mean(1)
        return {"psnr": -10 * error.clamp(min=1e-10).log10()}  # at most 100 dB, for an image restored exactly


@dataclass(frozen=True)
class Segment(Section):
    """A class for every pixel: cross entropy; `miou`, `pixel_accuracy` and `loss`.

    `miou`, in percent, is the mean over the classes of |labelled and predicted| / |labelled or predicted|, both counted
    over all pixels of the split. A class that is neither labelled nor predicted anywhere is left out of the mean.
    """

    name: ClassVar[str] = "segment"
    reports: ClassVar[tuple[str, ...]] = ("miou", "pixel_accuracy", "loss")

    def check(self, model: nn.Module, split: Split, head: str | None = None) -> None:
        check_per_pixel(model, split, split.num_classes, head)
        check_classes(model, split, f"{head or 'model.pyramid'}.num_classes")

    def example(self, images: Tensor, labels: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        return images, labels

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(outputs, targets)

    def metrics(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        batch, classes = outputs.shape[:2]
        image = torch.arange(batch, device=targets.device)[:, None, None]
        cells = (image * classes + targets) * classes + outputs.argmax(1)
        counts = torch.bincount(cells.flatten(), minlength=batch * classes**2)
        loss = F.cross_entropy(outputs, targets, reduction="none").mean((1, 2))
        return {"confusion": counts.view(batch, classes, classes), "loss": loss}  # rows: labelled, columns: predicted

    def summarise(self, sums: dict[str, Tensor], images: int) -> dict[str, float]:
        confusion = sums["confusion"]
        both = confusion.diag()
        either = confusion.sum(0) + confusion.sum(1) - both
        found = either > 0
        return {
            "miou": 100 * (both[found] / either[found]).mean().item(),
            "pixel_accuracy": 100 * (both.sum() / confusion.sum()).item(),
            "loss": sums["loss"].item() / images,
        }


@dataclass(frozen=True)
class Edges(Section):
    """The outlines of what is labelled, for every pixel: one logit each, and binary cross entropy.

    A pixel is on an edge if one of the four beside it has another label. `f1`, in percent, is the harmonic mean of
    `precision` and `recall` of the pixels whose logit is above 0, all of them counted over all pixels of the split, and
    an edge that is one pixel off counts as missed; and `loss`.
    """

    name: ClassVar[str] = "edges"
    reports: ClassVar[tuple[str, ...]] = ("f1", "precision", "recall", "loss")
    edge_weight: Positive = 1.0  # of a pixel on an edge in the loss; one off it has 1

    def check(self, model: nn.Module, split: Split, head: str | None = None) -> None:
        check_per_pixel(model, split, 1, head)
        if model.num_classes != 1:
            key = f"{head or 'model.pyramid'}.num_classes"
            raise ValueError(f"the model has {model.num_classes} logits a pixel, and an edge takes one: set {key}=1")

    def example(self, images: Tensor, labels: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        edges = torch.zeros_like(labels, dtype=torch.bool)
        for axis in (1, 2):
            count = labels.shape[axis] - 1
            differ = labels.narrow(axis, 0, count) != labels.narrow(axis, 1, count)
            edges.narrow(axis, 0, count).logical_or_(differ)
            edges.narrow(axis, 1, count).logical_or_(differ)
        return images, edges.float()

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return self._loss(outputs, targets).mean()

    def _loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        weight = outputs.new_tensor(self.edge_weight)
        return F.binary_cross_entropy_with_logits(outputs[:, 0], targets, pos_weight=weight, reduction="none")

    def metrics(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        found, edge = outputs[:, 0] > 0, targets > 0
        counts = {"found": found, "edges": edge, "hits": found & edge, "loss": self._loss(outputs, targets)}
        means = {"loss": counts.pop("loss").mean((1, 2))}
        return {name: pixels.sum((1, 2)) for name, pixels in counts.items()} | means

    def summarise(self, sums: dict[str, Tensor], images: int) -> dict[str, float]:
        hits, found, edges = (sums[name].item() for name in ("hits", "found", "edges"))
        return {
            "f1": 100 * 2 * hits / max(found + edges, 1),
            "precision": 100 * hits / max(found, 1),
            "recall": 100 * hits / max(edges, 1),
            "loss": sums["loss"].item() / images,
        }


@dataclass(frozen=True)
class Regress(Section):
    """Numbers from numbers: mean squared error; `rmse`, the root of its mean over all points and outputs."""

    name: ClassVar[str] = "regress"
    reports: ClassVar[tuple[str, ...]] = ("rmse",)

    def check(self, model: nn.Module, split: Split, head: str | None = None) -> None:
        if split.kind != "vector":
            raise ValueError("the data has images, not vectors with numbers to fit: set data.name=formulas")
        inputs = split.fetch([0], None)[0].shape[1]
        if getattr(model, "input_size", None) != (inputs,):
            raise ValueError(
                f"the data has vectors of {inputs} numbers, which the model does not take: "
                f"set model.kwargs.in_chans={inputs}, of a model for vectors such as kan_function"
            )
        if model.num_classes != split.num_classes:
            raise ValueError(
                f"the model gives {model.num_classes} numbers, the data has {split.num_classes}: "
                f"set model.kwargs.num_classes={split.num_classes}"
            )

    def example(self, images: Tensor, labels: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        return images, labels

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return F.mse_loss(outputs, targets)

    def metrics(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        return {"mse": (outputs - targets).square().mean(1)}

    def summarise(self, sums: dict[str, Tensor], images: int) -> dict[str, float]:
        return {"rmse": (sums["mse"].item() / images) ** 0.5}


Task = Classify | Denoise | Segment | Edges | Regress
