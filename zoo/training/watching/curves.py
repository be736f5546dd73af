"""The curves of a run as pictures: SVG, drawn by matplotlib."""

import base64
import io
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from zoo.training.watching.trackers import PARTS, scalars

COLOURS = ("#4269d0", "#efb118", "#ff725c", "#3ca951", "#a463f2", "#9c6b4e", "#6cc5b0", "#444444")
POINTS = 300  # of a curve that is drawn: more records are averaged
SMOOTH = 40  # from so many on, the average of neighbours is drawn over the records
WIDE = 50.0  # largest value over smallest from which on the axis is logarithmic
FIRST, LAST = ("loss",), ("lr", "grad_norm")  # panels at the beginning, and before those of auxiliary outputs
STYLE = {
    "svg.fonttype": "none",  # texts as texts: smaller, and found by a search
    "svg.hashsalt": "zoo",  # the same picture each time
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#8a8f98",
    "axes.grid": True,
    "grid.color": "#eceef1",
    "xtick.color": "#5b616b",
    "ytick.color": "#5b616b",
    "legend.frameon": False,
}


@dataclass
class Panel:
    """The curves on one axis: ``(steps, values)`` by label, and of a statistic with an entry a layer its range."""

    title: str
    curves: dict[str, tuple[list[int], list[float]]] = field(default_factory=dict)
    ranges: dict[str, list[tuple[float, float]]] = field(default_factory=dict)


def panels(records: Iterable[Mapping[str, Any]], tasks: Sequence[str] = ()) -> list[Panel]:
    """The panels of a run's records, one a number that is reported: the loss first, statistics of layers last.

    Example:
        >>> records = [{"step": 1, "loss": 2.0, "lr": 0.1}]
        >>> records += [{"step": 2, "validation/loss": 1.5, "validation/top1": 50.0}]
        >>> [(panel.title, panel.curves) for panel in panels(records)]  # doctest: +NORMALIZE_WHITESPACE
        [('loss', {'train': ([1], [2.0]), 'validation': ([2], [1.5])}), ('top1', {'validation': ([2], [50.0])}),
         ('lr', {'train': ([1], [0.1])})]
    """
    found: dict[str, Panel] = {}
    for record in records:
        layers: dict[tuple[str, str], list[float]] = {}
        for name, value in scalars(record).items():
            label, title = _place(name, tasks)
            layers.setdefault((label, title), []).append(value)
        for (label, title), values in layers.items():
            panel = found.setdefault(title, Panel(title))
            steps, means = panel.curves.setdefault(label, ([], []))
            steps.append(record["step"])
            means.append(sum(values) / len(values))
            panel.ranges.setdefault(label, []).append((min(values), max(values)))
    rank = {title: number for number, title in enumerate(FIRST, -len(FIRST))}
    rank |= {title: number for number, title in enumerate(LAST, 1)}
    auxiliary = {"loss": 8, "stat": 9}
    return sorted(found.values(), key=lambda panel: rank.get(panel.title, auxiliary.get(panel.title.split("/")[0], 0)))


def _place(name: str, tasks: Sequence[str]) -> tuple[str, str]:
    """The label of a curve, and the title of its panel: what is left when part, task and layer are taken off."""
    words = name.split("/")
    part = [words.pop(0)] if words[0] in PARTS else []
    task = [words.pop(0)] if words[0] in tasks and len(words) > 1 else []
    while len(words) > 1 and re.fullmatch("[0-9]+", words[-1]):
        words.pop()
    return " ".join(part + task), "/".join(words)


def draw(panel: Panel) -> str:
    """The picture of a panel as a data URI, in which it keeps its own fonts and identifiers."""
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    with matplotlib.rc_context(STYLE):  # of the process, for as long as it draws: matplotlib has no other way
        figure = Figure(figsize=(5.6, 2.9), layout="constrained")
        axes = figure.subplots()
        for (label, (steps, values)), colour in zip(panel.curves.items(), _colours(panel), strict=True):
            _curve(axes, label, np.array(steps), np.array(values), colour, smooth=panel.title != "lr")
            low, high = (_thinned(np.array(each)) for each in zip(*panel.ranges[label], strict=True))
            if (high > low).any():
                axes.fill_between(_thinned(np.array(steps)), low, high, color=colour, alpha=0.12, linewidth=0)
        every = np.array([value for _, values in panel.curves.values() for value in values])
        if panel.title != "lr" and len(every) and every.min() > 0 and every.max() / every.min() > WIDE:
            axes.set_yscale("log")
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.set_xlabel("step", color="#5b616b")
        axes.set_axisbelow(True)
        if len(panel.curves) > 1 or not any(label == "train" for label in panel.curves):
            axes.legend(fontsize=8)
        return svg_of(figure)


def svg_of(figure: Any) -> str:
    """A figure of matplotlib's as the data URI of an SVG."""
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # of scripts that matplotlib's font lacks, and the browser's has
        figure.savefig(file, format="svg", metadata={"Date": None})
    return f"data:image/svg+xml;base64,{base64.b64encode(file.getvalue()).decode()}"


def _colours(panel: Panel) -> list[str]:
    """Of a part the same in every panel; of several tasks one after the other."""
    fixed = dict(zip(PARTS, COLOURS, strict=False))
    if panel.curves.keys() <= fixed.keys():
        return [fixed[label] for label in panel.curves]
    return [COLOURS[number % len(COLOURS)] for number in range(len(panel.curves))]


def _curve(axes: Any, label: str, steps: np.ndarray, values: np.ndarray, colour: str, smooth: bool) -> None:
    if len(steps) <= SMOOTH or not smooth:
        marker = {"marker": "o", "markersize": 3.5} if len(steps) <= 12 else {}
        axes.plot(_thinned(steps), _thinned(values), color=colour, label=label, linewidth=1.6, **marker)
        return
    axes.plot(_thinned(steps), _thinned(values), color=colour, linewidth=0.8, alpha=0.35)
    window = max(len(values) // 20, 3) | 1
    padded = np.pad(values, window // 2, mode="edge")
    average = np.convolve(padded, np.full(window, 1 / window), mode="valid")
    axes.plot(_thinned(steps), _thinned(average), color=colour, label=label, linewidth=1.8)


def _thinned(values: np.ndarray) -> np.ndarray:
    """At most `POINTS` values, each the mean of its neighbours."""
    if len(values) <= POINTS:
        return values
    return np.array([part.mean() for part in np.array_split(values, POINTS)])
