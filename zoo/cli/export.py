"""``zoo export``: a model as a file for another runtime, run and compared with the model before it is kept."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zoo.cli.support.models import NameOrFolder
from zoo.cli.support.parse import Json, Threads

if TYPE_CHECKING:
    from torch import nn

    from zoo.cli.support.trained import Images
    from zoo.export import Exported

EXAMPLE = "zoo export poolformer_s12 --to onnx openvino --untrained --time --threads 2"


def run(
    name: NameOrFolder,
    to: Annotated[list[str], typer.Option(metavar="FORMAT...", help="Formats; see zoo.export.formats.")] = ["onnx"],  # noqa: B006
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Where the files go, called after the model.")] = Path(),
    dynamic_size: Annotated[bool, typer.Option("--dynamic-size", help="Take images of other sizes too.")] = False,
    one_sample: Annotated[bool, typer.Option("--one-sample", help="Take one sample at a time.")] = False,
    int8: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Products in 8 bits, fitted to and measured on images, a folder a class."),
    ] = None,
    untrained: Annotated[bool, typer.Option("--untrained", help="New weights, to measure the speed.")] = False,
    time: Annotated[bool, typer.Option("--time", help="Time the files in turns: which is the fastest here.")] = False,
    threads: Threads = None,
    json: Json = False,
) -> None:
    """Export a model: merged for inference, recorded, written, run, and kept if it computes what the model computes.

    What images have to be made into, labels and licence travel in the file.
    """
    from zoo.cli.support.output import print_json, print_table, waiting
    from zoo.cli.support.trained import image_batches, with_weights

    if name.startswith("timm:"):
        raise ValueError(f"{name}: zoo export takes zoo's own models; zoo.export_model takes any module, timm's too")
    if threads is not None and threads < 1:
        raise ValueError(f"--threads is {threads}; give 1 or more")
    model = with_weights(name, untrained=untrained)
    from zoo.bench.place import with_threads
    from zoo.export import export_model
    from zoo.export.formats import format_of

    base = out / Path(name.rstrip("/\\")).name
    images = None if int8 is None else image_batches(int8, model)
    options: dict[str, Any] = {"dynamic_size": dynamic_size, "dynamic_batch": False if one_sample else None}
    done = []
    for form in to:
        mark = "_aoti" if form == "aoti" and "exported" in to else ""  # both are .pt2
        file = base.with_name(f"{base.name}{mark}{format_of(form).suffix}")
        with waiting(f"Exporting to {form}"):
            calibration = None if images is None else (x for x, _ in images[0])
            done.append(export_model(model, file, form, calibration=calibration, **options))
    rows: list[dict[str, Any]] = [
        {"format": one.format, "file": str(one.path), "difference": one.difference} for one in done
    ]
    if images is not None:
        with waiting("Measuring the accuracy"), with_threads(threads):
            _measure(rows, model, done, images[1])
    if time:
        with with_threads(threads):
            _time(rows, model, done)
    if json:
        print_json(rows)
        return
    heads = [*rows[0]]
    print_table(heads, [[_cell(row[head]) for head in heads] for row in rows], right=range(2, len(heads)))
    if time:
        print(f"The fastest here is {min(rows, key=lambda row: row['milliseconds'])['format']}.")


def _cell(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _measure(rows: list[dict], model: "nn.Module", done: "list[Exported]", samples: "Images") -> None:
    """Add the accuracy of the model, and of each file, to the rows."""
    from zoo.export import accuracy

    before = accuracy(model, samples)
    for row, one in zip(rows, done, strict=True):
        row |= {"accuracy before": before, "accuracy after": accuracy(one.load(), samples)}


def _time(rows: list[dict], model: "nn.Module", done: "list[Exported]") -> None:
    """Add the milliseconds of one sample to the rows."""
    import statistics
    from functools import partial

    import torch

    from zoo.bench.compare import SETTLE
    from zoo.bench.timing import take_turns

    x = torch.randn(1, *model.input_size)
    calls = {number: partial(one.load(), x) for number, one in enumerate(done)}
    times = take_turns(calls, 15, torch.device("cpu"), settle=SETTLE)
    for number, row in enumerate(rows):
        row["milliseconds"] = 1e3 * statistics.median(times[number])
