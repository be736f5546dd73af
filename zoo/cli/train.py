"""``zoo train``: a recipe into a run; ``recipes/train.py`` is the same."""

import contextlib
import sys
import tempfile
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
    smoke: Annotated[
        bool, typer.Option("--smoke", help="Try it in seconds: least model, pictures of noise, three steps.")
    ] = False,
    json: Json = False,
) -> None:
    """Train a recipe, save the model and measure it. Run again, it goes on from the last checkpoint.

    With --from, a new run begins at the last checkpoint of another, by a recipe that may be another. On several
    devices: accelerate launch recipes/train.py RECIPE.

    With --smoke the family's test variant stands for the model and pictures of noise for the data, in a folder that is
    removed again unless --output names one: all that the recipe says is tried, and nothing is learnt.
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
        if smoke:
            from zoo.training.recipe.smoke import smoke_of

            loaded = smoke_of(loaded)
    if resolved:
        if json:
            print_json(plain(loaded))
        else:
            print(dump_recipe(loaded), end="")
        return
    kept = output  # what is not wanted for good goes where it is removed
    # What a training tells of itself goes to stdout, unless that is for JSON alone.
    with contextlib.ExitStack() as stack:
        if json:
            stack.enter_context(contextlib.redirect_stdout(sys.stderr))
        if smoke and kept is None:
            output = Path(stack.enter_context(tempfile.TemporaryDirectory())) / recipe.stem
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
    if smoke:
        said = "the recipe works; three steps teach nothing"
        model = None if kept is None else model
    if json:
        files = {"model": model and str(model), "report": report and str(report)}
        print_json({"metrics": metrics, "seconds": seconds, **files, "expected": said})
    else:
        where = f"the model is in {model}" if model else "nothing is kept"
        where += f", the report is {report}" if report else ""
        print(f"{show(metrics)}  in {seconds:.0f} s; {where}\n{said}")
