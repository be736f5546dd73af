"""A picture of the functions that a network of KAN layers has learnt."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from zoo.blocks.kan.bases.base import wide
from zoo.blocks.kan.bases.spline import Spline
from zoo.blocks.kan.edges import edge_sizes
from zoo.blocks.kan.linear import KANLinear
from zoo.tools.kan.record import Record, evaluating, inputs_of, kan_layers

MOST, ABREAST = 64, 20  # functions between two levels, and nodes of a level, that can still be read
POINTS = 200  # of a curve
WIDTH, HEIGHT = 0.95, 0.75  # of a small plot, in inches, like all that follows
BESIDE, BELOW, GROUP = 0.45, 0.4, 0.3  # room beside and below a small plot, and more between the functions of two sums
PAGE = 14.0  # width beyond which the functions of a sum stand above each other
LEVEL, MARGIN = 1.5, 0.55  # room for the lines between two levels, and around the picture
ADVICE = "prune the model, or choose a part: nodes=[[0, 1], None, [0]] are the nodes of each level"
COLOURS = ("#1f4e79", "#b5482a", "#2e7d4f", "#7a4b94", "#8a6d1a", "#2c8a94", "#a63a68", "#4d4d4d")


Samples = Tensor | Record | None  # of a model's inputs, or the inputs of its layers
Names = Sequence[str] | None
Nodes = Sequence[Sequence[int] | None] | None  # of each level; None for all


@dataclass(frozen=True)
class _Edge:
    source: int
    target: int
    x: Tensor
    y: Tensor
    opacity: float


@dataclass(frozen=True)
class _Row:
    """The functions between two levels: places of small plots (from the left, and which from below) and of the sums."""

    boxes: list[tuple[_Edge, float, int]]
    sums: dict[int, float]
    width: float
    tiers: int

    @property
    def height(self) -> float:
        return LEVEL + HEIGHT + (self.tiers - 1) * (HEIGHT + BELOW)


def plot(
    model: nn.Module, x: Samples = None, *, input_names: Names = None, output_names: Names = None, nodes: Nodes = None
):
    """Draw a network of KAN layers: its nodes in levels, and on each living edge the function that it has learnt.

    Read it from the bottom: the number at a node goes into the functions of its colour, and a node above is the sum of
    the functions right below it. The numbers at a small plot are the range of the inputs, below, and of the function,
    at its left. An edge is the paler the smaller the mean absolute value of its function is beside the largest of its
    layer. Hidden nodes without a living edge are left out; the number in a node is its index.

    Args:
        model: A KANLinear, or a model of which each KANLinear feeds the next.
        x: Its input, or what `record_inputs` noted: functions are drawn over the range of their inputs. Without it they
            are drawn over their grids, if they are splines.
        input_names: Labels of all inputs; by default x0, x1, …
        output_names: Labels of all outputs; by default y0, y1, …
        nodes: For each level from the inputs to the outputs, the nodes to draw (None for all): a part of a network that
            is too large for one picture.

    Returns:
        A `matplotlib.figure.Figure`, outside of pyplot: ``plot(model, x).savefig("kan.png", dpi=150)``.

    Example:
        >>> model = nn.Sequential(KANLinear(2, 3), KANLinear(3, 1))
        >>> figure = plot(model, torch.rand(50, 2), output_names=["price"])
        >>> len(figure.axes)  # one for the nodes, and 9 functions
        10

    Source: the diagrams of Liu et al., "KAN" (arXiv 2404.19756), and plot of KindXiaoming/pykan.
    Differs: functions stand below the node that sums them, and have ranges and colours.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: The layers do not feed one another, a range is not known, or the picture would be too large to read.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            'plot needs matplotlib; install it: pip install matplotlib, or pip install ".[plot]"'
        ) from error
    with evaluating(model):
        layers = _layers(model, x)
        levels = _levels([layer for _, layer, _ in layers], nodes)
        edges = [
            _edges(name, layer, inputs, *ends)
            for (name, layer, inputs), *ends in zip(layers, levels, levels[1:], strict=False)
        ]
    for level in range(1, len(levels) - 1):
        used = {e.target for e in edges[level - 1]} | {e.source for e in edges[level]}
        levels[level] = [node for node in levels[level] if node in used]
    for number, level in enumerate(levels):
        if len(level) > ABREAST:
            raise ValueError(
                f"plot: level {number} has {len(level)} nodes to draw, and no more than {ABREAST} can be read side by "
                f"side; {ADVICE}"
            )
    labels = [[""] * len(level) for level in levels]
    labels[0] = _labels("input_names", input_names, layers[0][1].in_features, "x", levels[0])
    labels[-1] = _labels("output_names", output_names, layers[-1][1].out_features, "y", levels[-1])

    rows = [_row(functions, above) for functions, above in zip(edges, levels[1:], strict=True)]
    width = max(row.width for row in rows)
    size = (width + 2 * MARGIN, sum(row.height for row in rows) + 2 * MARGIN)
    figure = Figure(figsize=size)
    FigureCanvasAgg(figure)
    canvas = figure.add_axes((0, 0, 1, 1), xlim=(0, size[0]), ylim=(0, size[1]))
    canvas.axis("off")

    height, places = MARGIN, {n: MARGIN + (i + 0.5) * width / len(levels[0]) for i, n in enumerate(levels[0])}
    for row, names in zip(rows, labels, strict=False):
        _draw_nodes(canvas, places, names, height, -1)
        sums = {node: MARGIN + place * width / row.width for node, place in row.sums.items()}
        for edge, place, tier in row.boxes:
            bottom = height + LEVEL / 2 + tier * (HEIGHT + BELOW)
            centre = MARGIN + place * width / row.width
            faint = 0.4 if row.tiers > 1 else 1.0  # lines pass behind small plots, whose numbers tell the node too
            line = dict(color=_colour(edge), alpha=edge.opacity * faint, linewidth=1.1, zorder=1)
            canvas.plot((places[edge.source], centre), (height, bottom), **line)
            canvas.plot((centre, sums[edge.target]), (bottom + HEIGHT, height + row.height), **line)
            _draw_function(figure, canvas, edge, centre - WIDTH / 2, bottom, named=row.tiers > 1)
        height, places = height + row.height, sums
    _draw_nodes(canvas, places, labels[-1], height, 1)
    return figure


# --- What is drawn ----------------------------------------------------------------------------------------------------


def _layers(model: nn.Module, x: Samples) -> list[tuple[str, KANLinear, Tensor | None]]:
    """(name, layer, its inputs), one behind the other."""
    layers = [(name, layer, None) for name, layer in kan_layers(model).items()] if x is None else inputs_of(model, x)
    for (name, layer, _), (after_name, after, _) in zip(layers, layers[1:], strict=False):
        if layer.out_features != after.in_features:
            raise ValueError(
                f"plot: layer {name!r} has {layer.out_features} outputs and the next one, {after_name!r}, "
                f"{after.in_features} inputs; each must feed the next, so plot the layers of such a model one by one"
            )
    return layers


def _levels(layers: list[KANLinear], nodes: Nodes) -> list[list[int]]:
    """The nodes of each level that are to be drawn."""
    widths = [layers[0].in_features, *(layer.out_features for layer in layers)]
    nodes = [None] * len(widths) if nodes is None else nodes
    if len(nodes) != len(widths):
        raise ValueError(f"nodes has {len(nodes)} entries; the network has {len(widths)} levels of {widths} nodes")
    levels = [
        list(range(width) if some is None else dict.fromkeys(some)) for width, some in zip(widths, nodes, strict=True)
    ]
    for number, (level, width) in enumerate(zip(levels, widths, strict=True)):
        if not level or not set(level) <= set(range(width)):
            raise ValueError(f"nodes[{number}] is {level}; level {number} has the nodes 0 to {width - 1}")
    return levels


def _edges(name: str, layer: KANLinear, inputs: Tensor | None, sources: list[int], targets: list[int]) -> list[_Edge]:
    """The living edges between some nodes, by target and source."""
    alive = layer.alive.tolist()
    pairs = [(i, j) for j in targets for i in sources if alive[j][i]]
    if len(pairs) > MOST:
        raise ValueError(
            f"plot: layer {name!r} has {len(pairs)} living edges to draw, and no more than {MOST} can be read; {ADVICE}"
        )
    low, high = (end.to(wide(end.dtype)) for end in _range(name, layer, inputs))
    points = low + (high - low) * torch.linspace(0, 1, POINTS, device=low.device, dtype=low.dtype)[:, None]
    functions, weight = layer.functions(points)[..., sources], layer.edge_weight()[targets][..., sources]
    values = torch.einsum("nri,ori->oin", functions, weight.to(functions.dtype)).float().cpu()
    sizes = edge_sizes(layer, points if inputs is None else inputs).float().cpu()
    largest = sizes.max().clamp(min=torch.finfo(sizes.dtype).tiny)
    points = points.float().cpu()
    row, column = ({node: place for place, node in enumerate(some)} for some in (targets, sources))
    return [
        _Edge(i, j, points[:, i], values[row[j], column[i]], 0.12 + 0.88 * (sizes[j, i] / largest).sqrt().item())
        for i, j in pairs
    ]


def _range(name: str, layer: KANLinear, inputs: Tensor | None) -> tuple[Tensor, Tensor]:
    """Ends of what is drawn for each input."""
    if inputs is not None:
        if not len(inputs) or not inputs.isfinite().all():
            raise ValueError(f"plot: layer {name!r} got {len(inputs)} samples; there must be some, and all finite")
        return inputs.amin(0), inputs.amax(0)
    if not isinstance(layer.basis, Spline):
        raise ValueError(
            f"plot: layer {name!r} is made of {type(layer.basis).__name__}, which has no grid; give samples as x"
        )
    knots, order = layer.basis.knots, layer.basis.order
    return knots[:, order], knots[:, knots.shape[1] - 1 - order]


def _labels(argument: str, names: Names, count: int, letter: str, level: list[int]) -> list[str]:
    names = [f"{letter}{i}" for i in range(count)] if names is None else names
    if isinstance(names, str) or len(names) != count:
        raise ValueError(f"{argument} is {names!r}; it must be {count} names")
    return [names[node] for node in level]


# --- Where and how ----------------------------------------------------------------------------------------------------


def _row(edges: list[_Edge], targets: list[int]) -> _Row:
    """The functions grouped by the node that sums them: side by side, or in columns where that would be too wide."""
    groups = {target: [edge for edge in edges if edge.target == target] for target in targets}
    most = max(1, *(len(group) for group in groups.values())) if groups else 1
    for tiers in range(1, most + 1):
        columns = {target: max(1, -(-len(group) // tiers)) for target, group in groups.items()}
        width = sum(count * (WIDTH + BESIDE) + GROUP for count in columns.values())
        if width <= PAGE:
            break
    boxes, sums, left = [], {}, 0.0
    for target, group in groups.items():
        room = columns[target] * (WIDTH + BESIDE) + GROUP
        for number, edge in enumerate(group):
            tier, column = divmod(number, columns[target])
            boxes.append((edge, left + (column + 0.5) * room / columns[target], tier))
        sums[target] = left + room / 2
        left += room
    return _Row(boxes, sums, width, tiers)


def _colour(edge: _Edge) -> str:
    return COLOURS[edge.source % len(COLOURS)]


def _draw_function(figure, canvas, edge: _Edge, left: float, bottom: float, named: bool) -> None:
    """A small plot with the ends of its axes; where many lines meet, with the node that it starts from."""
    w, h = figure.get_size_inches()
    axes = figure.add_axes((left / w, bottom / h, WIDTH / w, HEIGHT / h), xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set(color="#9a9a9a", linewidth=0.6)
    axes.plot(edge.x.numpy(), edge.y.numpy(), color=_colour(edge), alpha=edge.opacity, linewidth=1.6)
    low, high = _ends(edge.y)
    room = 0.08 * (high - low)
    axes.set(xlim=_ends(edge.x), ylim=(low - room, high + room))

    back = dict(facecolor="white", edgecolor="none", pad=0.6, alpha=0.85)
    text = dict(fontsize=6, color="#444444", zorder=3, bbox=back)
    x_ends, y_ends = (edge.x[0].item(), edge.x[-1].item()), (edge.y.min().item(), edge.y.max().item())
    for value, place in _apart(x_ends, (left, left + WIDTH)):
        canvas.text(place, bottom - 0.05, _number(value), ha="center", va="top", **text)
    for value, place in _apart(y_ends, (bottom + 0.07, bottom + HEIGHT - 0.07)):
        canvas.text(left - 0.05, place, _number(value), ha="right", va="center", **text)
    if named:
        label = dict(text, fontsize=7, color=_colour(edge), weight="bold")
        canvas.text(left + WIDTH / 2, bottom - 0.05, str(edge.source), ha="center", va="top", **label)


def _ends(values: Tensor) -> tuple[float, float]:
    """Ends of an axis, which has a length even if all values are the same."""
    low, high = values.min().item(), values.max().item()
    room = 0.5 * max(1e-3, abs(low)) if high - low <= 1e-6 * abs(high) else 0.0
    return low - room, high + room


def _apart(values: tuple[float, float], places: tuple[float, float]) -> Iterator[tuple[float, float]]:
    """The labels of an axis: at both ends, or one in the middle if they say the same."""
    if _number(values[0]) == _number(values[1]):
        return iter([(values[0], sum(places) / 2)])
    return zip(values, places, strict=True)


def _number(value: float) -> str:
    return f"{value:.2g}".replace("-", "\N{MINUS SIGN}") if value else "0"


def _draw_nodes(canvas, places: dict[int, float], labels: list[str], height: float, side: int) -> None:
    """Circles with their index, and the labels below (side -1) or above (1) them."""
    circle = dict(s=190, color="white", edgecolor="#222222", zorder=4)
    canvas.scatter(list(places.values()), [height] * len(places), **circle)
    for (node, place), label in zip(places.items(), labels, strict=True):
        canvas.text(place, height, str(node), ha="center", va="center_baseline", fontsize=8, zorder=5)
        align = "top" if side < 0 else "bottom"
        canvas.text(place, height + 0.16 * side, label, ha="center", va=align, fontsize=11, zorder=5)
