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

from torch import Tensor, nn

from zoo.training.data.splits import Split


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
