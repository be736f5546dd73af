"""``zoo compare``: models side by side, as a table and as a Pareto picture."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from zoo.cli.support.models import Models
from zoo.cli.support.parse import Json, Rounds, Threads

EXAMPLE = "zoo compare mixer_b16_224 vit_base_patch16_224 swin_tiny_patch4_window7_224 --plot pareto.png"
COLUMNS = ("name", "params (M)", "MACs (G)", "size", "top-1")
LABELS = {
    "macs": "G MACs of one image",
    "params": "M parameters",
    "top1": "top-1 on ImageNet-1K, published, %",
    "latency": "latency of one image, ms",
}
UNITS = {"macs": 1e-9, "params": 1e-6, "top1": 1, "latency": 1e3}


def run(
    models: Models,
    plot: Annotated[Path | None, typer.Option(metavar="PNG", help="Draw the Pareto picture.")] = None,
    x: Annotated[
        Literal["macs", "params"], typer.Option("--x", metavar="macs|params", help="What the picture has below.")
    ] = "macs",
    latency: Annotated[
        bool, typer.Option("--latency", help="Time them here, in turns; the picture then has that for the accuracy.")
    ] = False,
    threads: Threads = None,
    rounds: Rounds = 15,
    json: Json = False,
) -> None:
    """Compare models: parameters, MACs, published accuracy, and with --latency what one image takes on this machine.

    The picture has the Pareto front: the models than which none here is both cheaper and better.
    """
    from zoo.cli.support.models import resolve
    from zoo.cli.support.output import check_picture, print_json, print_table

    names = [resolve(name) for name in dict.fromkeys(models)]
    if plot is not None:
        check_picture("--plot", plot)
    rows = [_facts(name) for name in names]
    conditions = _time(rows, threads, rounds) if latency else None
    if plot is not None:
        _draw(plot, rows, x, "latency" if latency else "top1")
    if json:
        print_json({"models": rows, "conditions": conditions})
        return
    head = (*COLUMNS, "latency (ms)", "ratio") if latency else COLUMNS
    print_table(head, [_cells(row) for row in rows], right=range(1, len(head)))
    if conditions:
        print(f"\n{conditions}; ratio: how many times as fast as the first, with quartiles")
    if plot is not None:
        print(f"\nThe picture is in {plot}.")


def _facts(name: str) -> dict[str, Any]:
    """What is known of a model: from the index, or counted where that has nothing."""
    from zoo.cli.support.models import create, entry_of

    known = {} if ":" in name else entry_of(name)[2]
    if known.get("macs") is None:
        from zoo.cli.support.output import waiting

        model = create(name, **({} if name.startswith("timm:") else {"device": "meta", "pretrained": False}))
        with waiting(f"Counting {name}"):
            from zoo.bench.place import input_size_of
            from zoo.costs import count_flops

            report = count_flops(model)
        known = {**known, "params": report.params, "active_params": report.active_params, "macs": report.macs}
        known["input_size"] = list(input_size_of(name, model))
    keys = ("params", "active_params", "macs", "input_size", "top1", "licence")
    return {"name": name, **{key: known.get(key) for key in keys}}


def _time(rows: list[dict[str, Any]], threads: int | None, rounds: int) -> str:
    """Add what one image takes to each row; what is said of the conditions."""
    from zoo.cli.support.models import load
    from zoo.cli.support.output import progress

    load()
    from zoo.bench import compare

    with progress("Timing") as tell:
        report = compare([row["name"] for row in rows], threads=threads, rounds=rounds, progress=tell)
    for contender, reason in report.skipped.items():
        raise ValueError(f"{contender.candidate} cannot be timed: {reason}; leave it out, or compare without --latency")
    for row in rows:
        timing = report.fastest(row["name"], 1)
        row |= {"latency": timing.median, "ratio": str(report.ratio(timing, to=report.fastest(rows[0]["name"], 1)))}
    return report.conditions


def _draw(path: Path, rows: list[dict[str, Any]], x: str, y: str) -> None:
    from zoo.tools.pareto import draw_pareto

    points = [(row["name"], row[x] * UNITS[x], row[y] * UNITS[y]) for row in rows if row[y] is not None]
    missing = [row["name"] for row in rows if row[y] is None]
    if not points:
        raise ValueError(f"none of these models has a published top-1; --latency times them: {', '.join(missing)}")
    if missing:
        typer.echo(f"not in the picture, since no top-1 is published: {', '.join(missing)}", err=True)
    draw_pareto(path, points, (LABELS[x], LABELS[y]), less_is_better=y == "latency")


def _cells(row: dict[str, Any]) -> list[str]:
    from zoo.cli.support.models import figures

    cells = [row["name"], *figures(row)]
    return [*cells, f"{1e3 * row['latency']:.2f}", row["ratio"]] if "latency" in row else cells
