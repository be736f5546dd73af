"""``zoo eval``: the metrics of a trained run."""

from typing import Annotated

import typer

from zoo.cli.support.parse import Changes, Device, Json, Part, Run

EXAMPLE = "zoo eval runs/mixer_digits --split validation"


def run(
    folder: Run,
    overrides: Changes = None,
    split: Part = None,
    best: Annotated[
        bool, typer.Option("--best", help="Measure the best model that the run kept, not the last.")
    ] = False,
    device: Device = "cpu",
    json: Json = False,
) -> None:
    """Measure the model of a run on its data, by its recipe's task, and compare it with what the recipe expects."""
    from zoo.cli.support.models import load
    from zoo.cli.support.output import print_json, progress, waiting

    load()
    with waiting("Loading the training"):
        from zoo.bench.place import device_of
        from zoo.training.evaluation import show
        from zoo.training.runs.measuring import evaluate_run

    place = str(device_of(device))
    with progress("Measuring") as tell:
        metrics, said = evaluate_run(folder, split, overrides or (), best=best, device=place, progress=tell)
    if json:
        print_json({"metrics": metrics, "expected": said})
    else:
        print(f"{show(metrics)}\n{said}")
