"""Which models none is both cheaper and better than, and a picture of that with matplotlib."""

from collections.abc import Mapping, Sequence
from pathlib import Path

# Of groups in turn: the numbers of the two have no common factor, so that their pairs come again late.
MARKERS = "osD^X"
COLOURS = ("#4269d0", "#efb118", "#ff725c", "#6cc5b0", "#3ca951", "#a463f2", "#9c6b4e", "#444444")
Point = tuple[str, float, float]  # a name, what it costs, and how good it is


def front(points: Sequence[Point], less_is_better: bool = False) -> list[Point]:
    """The Pareto front: the points that no other is at least as cheap and as good as, from the cheapest on.

    Example:
        >>> front([("a", 1, 70), ("b", 2, 60), ("c", 3, 80)])
        [('a', 1, 70), ('c', 3, 80)]
    """
    sign = 1 if less_is_better else -1
    best: list[Point] = []
    for point in sorted(points, key=lambda point: (point[1], sign * point[2])):
        if not best or sign * point[2] < sign * best[-1][2]:
            best.append(point)
    return best


def draw_pareto(
    path: Path,
    points: Sequence[Point],
    labels: tuple[str, str],
    less_is_better: bool = False,
    groups: Mapping[str, str] | None = None,
) -> None:
    """Draw the points, and the Pareto front among them as a line of steps.

    Args:
        path: Where the picture goes; its suffix says in which format.
        points: A name, a cost and a merit each.
        labels: What the two are, with units.
        less_is_better: Of the merit.
        groups: The group of each name. Then these have colours and a legend, and the points no names: it is for
            many of them.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullLocator

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    best = front(points, less_is_better)
    axes.step([x for _, x, _ in best], [y for *_, y in best], where="post", color="C0", alpha=0.5, label="Pareto front")
    names = {name for name, *_ in best}
    for name, x, y in points if groups is None else ():
        axes.plot(x, y, "o", color="C0" if name in names else "0.6")
        axes.annotate(name, (x, y), xytext=(5, 4), textcoords="offset points", fontsize="small")
    for number, group in enumerate(sorted(set((groups or {}).values()))):
        here = [(x, y) for name, x, y in points if groups[name] == group]
        looks = {"marker": MARKERS[number % len(MARKERS)], "color": COLOURS[number % len(COLOURS)]}
        axes.plot(*zip(*here, strict=True), linestyle="none", markersize=5, label=group, **looks)
    axes.set(xlabel=labels[0], ylabel=labels[1], xscale="log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.margins(x=0.1, y=0.1)
    axes.grid(alpha=0.3)
    if groups is None:
        axes.legend(frameon=False, loc="upper right" if less_is_better else "lower right")
    else:
        figure.legend(frameon=False, loc="outside right center")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    # The same points give the same file: no date, no random names; and an SVG keeps its words as words.
    with rc_context({"svg.hashsalt": "zoo", "svg.fonttype": "none"}):
        figure.savefig(path, dpi=150, metadata={"Date": None} if path.suffix == ".svg" else None)
