"""The table of every model and every set of weights, which a reader sorts and filters: DataTables, by itables."""

from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

from zoo.registry import family_of
from zoo.registry.box import PLACE
from zoo.tools.overview import blocks_in

HUB = "https://huggingface.co/"
COLUMNS = (
    *("model", "family", "top-1, published (%)", "parameters (M)", "active (M)", "MACs (G)", "input", "classes"),
    *("token mixers", "channel mixers", "weights", "licence"),
)
NUMBERS = ("top-1, published (%)", "parameters (M)", "active (M)", "MACs (G)", "classes")


def rows(models: Mapping[str, Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """What the table says, a row for each configuration: an architecture, or one with weights.

    Args:
        models: Entries of `zoo.tools.index.known`, by architecture.
    """
    for arch, entry in models.items():
        arguments = family_of(arch).arguments(arch)
        mixers = {
            slot: escape(", ".join(dict.fromkeys(blocks_in(arguments[slot])))) if slot in arguments else ""
            for slot in ("token_mixer", "channel_mixer")
        }
        for each in entry["configurations"]:
            name = each["name"] if each["weights"] else arch
            figures = (each["top1"], *_scaled(each, 1e6, "params", "active_params"), *_scaled(each, 1e9, "macs"))
            values = (
                *(_link(f"families/{entry['family']}.html", name), escape(entry["family"]), *figures),
                *(" x ".join(map(str, each["input_size"])), each["classes"], *mixers.values()),
                *(weights_link(each["weights"]), escape(each["licence"] or "")),
            )
            yield dict(zip(COLUMNS, values, strict=True))


def _scaled(figures: Mapping[str, Any], unit: float, *names: str) -> list[float | None]:
    return [None if figures[name] is None else float(f"{figures[name] / unit:.4g}") for name in names]


def _link(target: str, text: str) -> str:
    return f'<a href="{escape(target)}">{escape(text)}</a>'


def weights_link(place: str | None) -> str:
    """A link to where weights lie; empty for none, and words for those that come with zoo."""
    if not place or place == PLACE:
        return place and "with zoo"
    hub = place.removeprefix("hf-hub:")
    return _link(HUB + hub.partition("@")[0], "Hub") if hub != place else _link(place, "file")


def table_html(models: Mapping[str, Mapping[str, Any]]) -> str:
    """The table as HTML that needs no other file: the script that sorts and filters it is within."""
    import itables
    import pandas
    from itables.javascript import generate_init_offline_itables_html

    frame = pandas.DataFrame(list(rows(models)), columns=list(COLUMNS))
    frame = frame.astype({name: "Int64" if name == "classes" else "Float64" for name in NUMBERS})  # None is no number
    script = generate_init_offline_itables_html(itables.options.dt_bundle)
    with pandas.option_context("display.float_format", "{:.5g}".format):
        return script + itables.to_html_datatable(
            frame,
            connected=False,
            allow_html=True,
            showIndex=False,
            table_id="models",
            classes="display compact nowrap",
            columnControl=[{"target": 0, "content": ["order"]}, {"target": 1, "content": ["search"]}],
            ordering={"indicators": False},
            columnDefs=[{"targets": "_all", "orderSequence": ["asc", "desc"]}],
            text_in_header_can_be_selected=False,
            lengthMenu=[25, 100, {"label": "all", "value": -1}],
            maxBytes=0,
            scrollX=True,
            order=[[COLUMNS.index("top-1, published (%)"), "desc"]],
        )
