"""The interactive plot of accuracy against cost: all weights with a published accuracy, and the front of them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from zoo.tools.pareto import COLOURS, Point, draw_pareto, front

AXES = {
    "macs": ("G MACs of one image", 1e-9),
    "params": ("M parameters", 1e-6),
    "active_params": ("M parameters that one token uses", 1e-6),
}
TOP1 = "top-1 on ImageNet-1K, published, %"
SCRIPT = "zoo-plotly.min.js"  # in the site's folder of assets
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "x")  # as `zoo.tools.pareto.MARKERS`
# A click on a point opens the page of its family.
ON_CLICK = """
const plot = document.getElementById("{plot_id}");
plot.on("plotly_click", event => {
  const family = event.points[0].data.meta;
  if (family) window.location.href = "families/" + family + ".html";
});
"""


def published(models: Mapping[str, Mapping[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """The configurations that have a published top-1, by family."""
    found: dict[str, list[dict[str, Any]]] = {}
    for entry in models.values():
        for each in entry["configurations"]:
            if None not in (each["top1"], *(each[axis] for axis in AXES)):  # of models from outside some are not known
                found.setdefault(entry["family"], []).append(each)
    return found


def points(configurations: Sequence[Mapping[str, Any]], axis: str = "macs") -> list[Point]:
    """Name, cost and accuracy of each, as a Pareto front takes them."""
    return [(each["name"], each[axis] * AXES[axis][1], each["top1"]) for each in configurations]


def draw_front(path: Path, models: Mapping[str, Mapping[str, Any]]) -> None:
    """The same as a picture, without what moves: the README's."""
    by_family = published(models)
    groups = {each["name"]: family for family, rows in by_family.items() for each in rows}
    everything = points([each for rows in by_family.values() for each in rows])
    draw_pareto(path, everything, (AXES["macs"][0], TOP1), groups=groups)


def plot_html(models: Mapping[str, Mapping[str, Any]]) -> str:
    """The plot as HTML, which wants its script as ``assets/`` + `SCRIPT` beside the page."""
    import plotly.graph_objects as go

    figure, by_family = go.Figure(), dict(sorted(published(models).items()))
    everything = [each for rows in by_family.values() for each in rows]
    places = {}  # by axis, those of every family's points, and of the front last
    for axis in AXES:
        traces = [*(points(rows, axis) for rows in by_family.values()), front(points(everything, axis))]
        places[axis] = {
            "x": [[x for _, x, _ in each] for each in traces],
            "y": [[y for *_, y in each] for each in traces],
        }
    for number, (family, rows) in enumerate(by_family.items()):
        marker = {"symbol": SYMBOLS[number % len(SYMBOLS)], "color": COLOURS[number % len(COLOURS)], "size": 8}
        text = [f"{row['name']}<br>{' x '.join(map(str, row['input_size']))}, {row['licence']}" for row in rows]
        hover = "%{text}<br>%{x:.3g}, %{y:.2f} %<extra></extra>"
        figure.add_scatter(text=text, name=family, meta=family, mode="markers", marker=marker, hovertemplate=hover)
    line = {"shape": "hv", "color": "#888", "width": 1}
    figure.add_scatter(mode="lines", name="Pareto front", line=line, hoverinfo="skip")
    for trace, x, y in zip(figure.data, *places["macs"].values(), strict=True):
        trace.update(x=x, y=y)
    buttons = [
        {"label": label, "method": "update", "args": [places[axis], {"xaxis.title.text": label}]}
        for axis, (label, _) in AXES.items()
    ]
    menu = {"buttons": buttons, "x": 0, "xanchor": "left", "y": 1.02, "yanchor": "bottom", "direction": "right"}
    figure.update_layout(
        template="plotly_white",
        height=560,
        margin={"l": 60, "r": 10, "t": 50, "b": 60},
        xaxis={"title": {"text": AXES["macs"][0]}, "type": "log", "dtick": "D2"},
        yaxis={"title": {"text": TOP1}},
        updatemenus=[{**menu, "type": "buttons", "showactive": True}],
    )
    return figure.to_html(
        full_html=False,
        include_plotlyjs=f"assets/{SCRIPT}",
        div_id="pareto",
        post_script=ON_CLICK,
        config={"displaylogo": False, "responsive": True},
    )
