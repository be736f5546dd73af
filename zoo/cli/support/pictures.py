"""What `zoo predict` draws, with matplotlib."""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image


def draw_predictions(path: Path, images: Sequence["Image"], answers: Sequence[Sequence[tuple[str, float]]]) -> None:
    """Draw each image beside bars of its labels with their probabilities."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 2.4 * len(images)), layout="constrained")
    for (left, right), image, labels in zip(
        figure.subplots(len(images), 2, squeeze=False), images, answers, strict=True
    ):
        left.imshow(image, cmap="gray" if image.mode == "L" else None)
        left.set_axis_off()
        rows = range(len(labels))[::-1]
        right.barh(rows, [share for _, share in labels], color="C0")
        right.set(xlim=(0, 1), yticks=rows, xlabel="probability")
        right.set_yticklabels([textwrap.shorten(label, 36, placeholder=" ...") for label, _ in labels])
        for side in ("top", "right"):
            right.spines[side].set_visible(False)
    figure.savefig(path, dpi=150)
