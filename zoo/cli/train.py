"""``zoo train``: a recipe into a run; ``recipes/train.py`` is the same."""

import contextlib
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from zoo.cli.support.parse import Json

EXAMPLE = "zoo train recipes/mixer_digits.yaml train.duration=5ep --output runs/short"


def run(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="A YAML file of recipes/.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Change the recipe for this run.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Folder of the run; default: runs/<name of the recipe>.")
    ] = None,
    source: Annotated[
        Path | None, typer.Option("--from", metavar="FOLDER", help="A run, or a checkpoint, to begin at.")
    ] = None,
    resolved: Annotated[
        bool, typer.Option("--print", help="Print the recipe with every default, and do nothing.")
    ] = False,
    json: Json = False,
) -> None:
    """Train a recipe, save the model and measure it. Run again, it goes on from the last checkpoint.

    With --from, a new run begins at the last checkpoint of another, by a recipe that may be another. On several
    devices: accelerate launch recipes/train.py RECIPE.
    """
    from zoo.cli.support.models import load
    from zoo.cli.support.output import print_json, waiting

    load()
    with waiting("Loading the recipe"):
        from zoo.training import Trainer, dump_recipe, load_recipe
        from zoo.training.evaluation import show
        from zoo.training.recipe.schema import plain
        from zoo.training.watching.report import report_of_training

        loaded = load_recipe(recipe, overrides or ())
    if resolved:
        if json:
            print_json(plain(loaded))
        else:
            print(dump_recipe(loaded), end="")
        return
    # What a training tells of itself goes to stdout, unless that is for JSON alone.
    with contextlib.redirect_stdout(sys.stderr) if json else contextlib.nullcontext():
        trainer = Trainer(loaded, output or Path("runs") / recipe.stem, source)
        is_main = trainer.accelerator.is_main_process
        if overrides and is_main:
            print(f"changed for this run: {' '.join(overrides)} (so what the recipe expects need not hold)")
        start = time.perf_counter()
        metrics = trainer.run()
    if not is_main:
        return
    seconds, model, said = time.perf_counter() - start, trainer.folder.model, loaded.expect.compare(metrics)
    report = report_of_training(trainer.folder, loaded, trainer.data, trainer.accelerator.device)
    if json:
        files = {"model": str(model), "report": report and str(report)}
        print_json({"metrics": metrics, "seconds": seconds, **files, "expected": said})
    else:
        where = f"the model is in {model}" + (f", the report is {report}" if report else "")
        print(f"{show(metrics)}  in {seconds:.0f} s; {where}\n{said}")
