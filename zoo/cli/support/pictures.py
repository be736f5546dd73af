"""Pictures that commands draw, with matplotlib."""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image

Point = tuple[str, float, float]  # a name, what it costs, and how good it is


def front(points: Sequence[Point], less_is_better: bool) -> list[Point]:
    """The Pareto front: the points that no other is at least as cheap and as good as, from the cheapest on.

    Example:
        >>> front([("a", 1, 70), ("b", 2, 60), ("c", 3, 80)], less_is_better=False)
        [('a', 1, 70), ('c', 3, 80)]
    """
    sign = 1 if less_is_better else -1
    best: list[Point] = []
    for point in sorted(points, key=lambda point: (point[1], sign * point[2])):
        if not best or sign * point[2] < sign * best[-1][2]:
            best.append(point)
    return best


def draw_pareto(path: Path, points: Sequence[Point], labels: tuple[str, str], less_is_better: bool) -> None:
    """Draw the points with their names, and the Pareto front among them as a line of steps."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullLocator

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    best = front(points, less_is_better)
    axes.step([x for _, x, _ in best], [y for *_, y in best], where="post", color="C0", alpha=0.5, label="Pareto front")
    names = {name for name, *_ in best}
    for name, x, y in points:
        axes.plot(x, y, "o", color="C0" if name in names else "0.6")
        axes.annotate(name, (x, y), xytext=(5, 4), textcoords="offset points", fontsize="small")
    axes.set(xlabel=labels[0], ylabel=labels[1], xscale="log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.margins(x=0.1, y=0.1)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, loc="upper right" if less_is_better else "lower right")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.savefig(path, dpi=150)


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
