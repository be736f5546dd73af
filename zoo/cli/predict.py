"""``zoo predict``: what a model sees in images."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from zoo.cli.support.models import complete
from zoo.cli.support.parse import Json

if TYPE_CHECKING:
    from torch import nn

EXAMPLE = "zoo predict cat.jpg --model mixer_b16_224 --plot cat.png"


def run(
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE", help="Files of pictures.")],
    model: Annotated[
        str,
        typer.Option(metavar="NAME|FOLDER", help="One with released weights, or a folder.", autocompletion=complete),
    ],
    top: Annotated[int, typer.Option(metavar="N", help="How many classes are shown.", min=1)] = 5,
    plot: Annotated[Path | None, typer.Option(metavar="PNG", help="Draw the images with their classes.")] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Weights in a file, in place of the released ones.")
    ] = None,
    json: Json = False,
) -> None:
    """Classify images: the most probable classes of each, prepared as the weights want it."""
    from zoo.cli.support.output import check_picture, print_json, print_table

    if plot is not None:
        check_picture("--plot", plot)
    network = _open(model, checkpoint)
    from zoo.training.data.pictures import read_picture

    chans = network.input_size[0]
    pictures = [read_picture(str(path), chans if chans in (1, 3) else 3, deep=False) for path in images]
    answers = [_classes(network, picture, top) for picture in pictures]
    if plot is not None:
        from zoo.cli.support.pictures import draw_predictions

        draw_predictions(plot, pictures, [[(label, share) for _, label, share in answer] for answer in answers])
    if json:
        keys = ("class", "label", "probability")
        found = [[dict(zip(keys, row, strict=True)) for row in answer] for answer in answers]
        print_json([{"image": str(path), "top": rows} for path, rows in zip(images, found, strict=True)])
        return
    for path, answer in zip(images, answers, strict=True):
        rows = [[str(number), label, f"{share:.1%}"] for number, label, share in answer]
        print_table((str(path), "label", "probability"), rows, right=(2,))
    if plot is not None:
        print(f"The picture is in {plot}.")


def _open(name: str, checkpoint: Path | None) -> "nn.Module":
    """The model with its weights, ready to be asked.

    Raises:
        ValueError: No weights of it are released, or it takes no images or gives no classes.
    """
    from zoo.cli.support.trained import with_weights

    if name.startswith("timm:"):
        raise ValueError(f"{name}: predict runs zoo's own models; zoo list --pretrained shows those with weights")
    model = with_weights(name, checkpoint=checkpoint)
    if len(getattr(model, "input_size", ())) != 3 or not getattr(model, "num_classes", 0):
        raise ValueError(f"{name} gives no classes of images; choose a model of zoo list --task classification")
    return model


def _classes(model: "nn.Module", picture, top: int) -> list[tuple[int, str, float]]:
    """The most probable classes of a picture: number, label, probability."""
    import torch

    from zoo.create import create_transform
    from zoo.export.facts import labels_of

    x = create_transform(model)(picture)[None]
    with torch.inference_mode():
        shares = model(x).float().softmax(-1)[0]
    values, numbers = shares.topk(min(top, len(shares)))
    labels = dict(enumerate(labels_of(model) or ()))
    return [(n, labels.get(n, f"class {n}"), v) for n, v in zip(numbers.tolist(), values.tolist(), strict=True)]
