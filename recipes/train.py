"""Train a recipe:

    python recipes/train.py recipes/mixer_digits.yaml                          into runs/mixer_digits
    python recipes/train.py recipes/mixer_digits.yaml train.duration=5ep --output runs/short
    python recipes/train.py recipes/mixer_digits.yaml optim.lr=1e-3 --print    show the resolved recipe, do nothing
    python recipes/train.py recipes/mixer_digits.yaml optim.lr=1e-4 --from runs/mixer_digits --output runs/slower
    accelerate launch recipes/train.py recipes/mixer_digits.yaml               on several devices

Run again, it goes on from the last checkpoint. With --from, a new run begins at the last checkpoint of another, by a
recipe that may be another. Two trainings at once cannot write into one folder.
"""

import argparse
import sys
import time
from pathlib import Path

from zoo.training import RecipeError, Trainer, dump_recipe, load_recipe
from zoo.training.evaluation import show


def main(argv: list[str] | None = None) -> None:
    """Command line entry; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path, help="a YAML file of recipes/")
    parser.add_argument("overrides", nargs="*", metavar="key.sub=value", help="change the recipe for this run")
    parser.add_argument("--output", type=Path, help="folder of the run (default: runs/<name of the recipe>)")
    parser.add_argument("--from", type=Path, dest="source", help="a run, or a checkpoint, to begin at")
    parser.add_argument("--print", action="store_true", help="print the resolved recipe and stop")
    args = parser.parse_intermixed_args(argv)
    try:
        recipe = load_recipe(args.recipe, args.overrides)
    except (RecipeError, FileNotFoundError) as error:
        sys.exit(f"error: {error}")
    if args.print:
        print(dump_recipe(recipe), end="")
        return
    try:
        trainer = Trainer(recipe, args.output or Path("runs") / args.recipe.stem, args.source)
        if args.overrides and trainer.accelerator.is_main_process:
            print(f"changed for this run: {' '.join(args.overrides)} (so what the recipe expects need not hold)")
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    start = time.perf_counter()
    try:
        metrics = trainer.run()
    except (FloatingPointError, OSError) as error:  # a ValueError from within a training may be a bug: all of it shows
        sys.exit(f"error: {error}")
    if trainer.accelerator.is_main_process:
        print(f"{show(metrics)}  in {time.perf_counter() - start:.0f} s; the model is in {trainer.folder.model}")
        print(recipe.expect.compare(metrics))


if __name__ == "__main__":
    main()
