"""Models with weights, and the images that they are fitted to and measured on."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor, nn

CALIBRATION = 128  # images that activations get their ranges from; the others measure the accuracy
BATCH = 16


def with_weights(name: str, *, checkpoint: Path | None = None, untrained: bool = False) -> "nn.Module":
    """A model of zoo, in eval mode, with the weights of its folder, of a file, or those that are released.

    Args:
        name: As a user typed it.
        checkpoint: A file of weights, in place of the released ones.
        untrained: New weights will do.

    Raises:
        ValueError: There are no weights.
    """
    from zoo.cli.support.models import create, entry_of, resolve
    from zoo.cli.support.output import waiting

    resolved = resolve(name)
    arguments: dict[str, Any] = {} if checkpoint is None else {"checkpoint_path": checkpoint}
    if ":" not in resolved and checkpoint is None and not untrained:
        if not entry_of(name)[2]["weights"]:
            raise ValueError(
                f"no weights of {name} are released; choose one of zoo list --pretrained, or a folder; or, where the "
                "command has it, --checkpoint FILE, or --untrained for new weights"
            )
        arguments["pretrained"] = True
    with waiting("Loading the weights"):
        return create(resolved, **arguments).eval()


class Images:
    """Some images of a folder with one a class, prepared for a model, in batches; read anew each time.

    Args:
        data: timm's data set of them.
        numbers: Which.
    """

    def __init__(self, data: Any, numbers: list[int]):
        self.data, self.numbers = data, numbers

    def __iter__(self) -> "Iterator[tuple[Tensor, Tensor]]":
        import torch

        for at in range(0, len(self.numbers), BATCH):
            part = [self.data[i] for i in self.numbers[at : at + BATCH]]
            yield torch.stack([x for x, _ in part]), torch.tensor([y for _, y in part])


def image_batches(folder: Path, model: "nn.Module") -> tuple[Images, Images]:
    """Images and classes, prepared for the model: those to fit to, and all others.

    Raises:
        ValueError: There are too few, or the folder has other classes than the model.
        FileNotFoundError: There is no such folder.
    """
    import torch
    from timm.data import create_dataset

    from zoo.checks import printable
    from zoo.create import create_transform

    where = printable(folder, 500)
    if not folder.is_dir():
        raise FileNotFoundError(f"{where} is no folder; give one with a folder of images a class")
    transform = create_transform(model)
    mode = "L" if model.input_size[0] == 1 else "RGB"
    try:
        data = create_dataset("", root=str(folder), transform=transform, input_img_mode=mode)
    except RuntimeError:  # timm's word for no image at all
        raise ValueError(f"{where} has no images in folders; give {2 * BATCH} or more, a folder a class") from None
    classes, wanted = len(data.reader.class_to_idx), getattr(model, "num_classes", 0)
    if len(data) < 2 * BATCH or classes != wanted:  # a class is the place of its folder among all
        raise ValueError(
            f"{where} has {len(data)} images of {classes} classes; give {2 * BATCH} or more, of the model's {wanted} "
            "classes, a folder each in their order"
        )
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(0)).tolist()
    first = min(CALIBRATION, len(data) // 2)
    return Images(data, order[:first]), Images(data, order[first:])
