"""Train the recipes on digits, one for each family of vision models, and say what came of them.

    python recipes/run_digits.py                              all of them, three seeds each, into runs/digits
    python recipes/run_digits.py swin vit --seeds 0 1         some of them
    python recipes/run_digits.py --jobs 16 --device cpu       in so many processes, of a thread each
    python recipes/run_digits.py --table                      what is there already, and no more
    python recipes/run_digits.py --write                      the accuracies into `expect` of the recipes, and the table

A training that ended has its result in a file, `<family>-<seed>.json`, and its model in `<family>/seed-<seed>/model`.
Run again, the script trains what has none, and goes on with what was stopped. A result of a recipe that was changed
since does not count, and its run is in the way: name another folder as --output. Results of several machines are
brought together by copying these files into one folder.
"""

import argparse
import json
import multiprocessing
import os
import platform
import re
import statistics
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import redirect_stderr, redirect_stdout
from math import ceil
from pathlib import Path

from zoo.storage.files import replacing
from zoo.training import dump_recipe, load_recipe
from zoo.training.recipe.reading import compose
from zoo.training.recipe.recipe import Recipe, differences
from zoo.training.recipe.schema import build

FOLDER = Path(__file__).parent / "digits"
TABLE = FOLDER / "README.md"
SEEDS = (0, 1, 2)
IMAGES = 360  # of the test split
METRIC = "test/top1"


def recipes() -> dict[str, Path]:
    """The recipes by family."""
    return {path.stem: path for path in sorted(FOLDER.glob("*.yaml"))}


def is_of(result: dict, recipe: Recipe) -> bool:
    """Whether a result is of this recipe, whatever that expects."""
    return not differences(build(Recipe, compose(result["recipe"], "the recipe of a result")), recipe)


def processor() -> str:
    """The name of this machine's processor."""
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text("utf-8"), re.M)
    except OSError:  # not Linux
        found = None
    return found[1] if found else platform.processor() or platform.machine()


def train(family: str, seed: int, output: Path) -> dict:
    """Train one recipe with one seed, unless its result is there; the result."""
    recipe = load_recipe(recipes()[family], [f"train.seed={seed}", "watch.report=false"])
    file = output / f"{family}-{seed}.json"
    if file.exists() and is_of(result := json.loads(file.read_text("utf-8")), recipe):
        return result
    from zoo.training import Trainer

    folder = output / family / f"seed-{seed}"
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        trainer = Trainer(recipe, folder)
        begun = time.perf_counter(), trainer.step
        metrics = trainer.run()
    device, model = trainer.accelerator.device, trainer.plain_model
    result = {
        "family": family,
        "seed": seed,
        "metrics": metrics,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        # Of a training that was gone on with, as much as the part of it that was timed comes to.
        "seconds": (time.perf_counter() - begun[0]) * trainer.total / max(trainer.total - begun[1], 1),
        "hardware": "one GPU" if device.type == "cuda" else f"one core of {processor()}",
        "recipe": dump_recipe(recipe),
    }
    with replacing(file) as new:
        new.write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    return result


def train_all(families: Sequence[str], seeds: Sequence[int], output: Path, jobs: int) -> list[str]:
    """Train in so many processes, the recipes seed by seed; what went wrong, a line each."""
    output.mkdir(parents=True, exist_ok=True)
    failed = []
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
        runs = {pool.submit(train, family, seed, output): (family, seed) for seed in seeds for family in families}
        for run in as_completed(runs):
            family, seed = runs[run]
            try:
                result = run.result()
                said = f"{result['metrics'][METRIC]:.2f} %  in {result['seconds']:.0f} s"
            except Exception as error:  # the others are trained all the same
                failed.append(f"{family}, seed {seed}: {type(error).__name__}: {error}")
                said = failed[-1]
            print(f"{family:12} seed {seed}  {said}", flush=True)
    return failed


def results(output: Path) -> dict[str, dict[int, dict]]:
    """The results that there are, by family and seed, of the recipes as they are now."""
    found: dict[str, dict[int, dict]] = {}
    for family, path in recipes().items():
        for file in sorted(output.glob(f"{family}-*.json")):
            result = json.loads(file.read_text("utf-8"))
            if is_of(result, load_recipe(path, [f"train.seed={result['seed']}"])):
                found.setdefault(family, {})[result["seed"]] = result
    return {family: dict(sorted(by_seed.items())) for family, by_seed in found.items()}


def accuracies(by_seed: dict[int, dict]) -> list[float]:
    """The test accuracy of each seed in percent."""
    return [result["metrics"][METRIC] for result in by_seed.values()]


def least_seconds(by_seed: dict[int, dict]) -> float:
    """The time of the seed that was disturbed the least by what else its machine did."""
    return min(result["seconds"] for result in by_seed.values())


def table(found: dict[str, dict[int, dict]]) -> str:
    """The results in Markdown."""
    seeds = sorted({seed for by_seed in found.values() for seed in by_seed})
    lines = ["| family | model | parameters | " + " | ".join(f"seed {seed}" for seed in seeds) + " | mean | time |"]
    lines.append("|---|---|---|" + "---|" * (len(seeds) + 2))
    for family, by_seed in found.items():
        model = load_recipe(recipes()[family]).model.name
        each = [f"{by_seed[seed]['metrics'][METRIC]:.2f}" if seed in by_seed else "" for seed in seeds]
        first = next(iter(by_seed.values()))
        mean, seconds = statistics.mean(accuracies(by_seed)), least_seconds(by_seed)
        cells = [f"[{family}]({family}.yaml)", f"`{model}`", f"{first['parameters']:,}", *each]
        lines.append("| " + " | ".join([*cells, f"{mean:.2f}", f"{seconds:.0f} s"]) + " |")
    return "\n".join(lines)


def expectation(by_seed: dict[int, dict]) -> str:
    """The section `expect` of a recipe; a run agrees with it if it is no farther off than these and two images."""
    each = accuracies(by_seed)
    mean = statistics.mean(each)
    tolerance = ceil(10 * (max(abs(value - mean) for value in each) + 200 / IMAGES)) / 10
    seconds = least_seconds(by_seed)
    said = ", ".join(f"{value:.2f}" for value in each)
    return (
        f"expect:\n  metric: {METRIC}\n  status: reproduced\n  value: {mean:.2f}\n  tolerance: {tolerance:.1f}\n"
        f"  hardware: {next(iter(by_seed.values()))['hardware']}, fp32\n  time: {seconds:.0f} s\n"
        f"  note: mean of seeds {', '.join(map(str, by_seed))}, which gave {said}. One image in {IMAGES} is 0.28.\n"
    )


def write(found: dict[str, dict[int, dict]], seeds: Sequence[int]) -> None:
    """Put the results into the recipes, and the table beside them.

    Raises:
        ValueError: A recipe has not been run with each of the seeds.
    """
    if missing := [family for family in recipes() if not set(seeds) <= set(found.get(family, {}))]:
        raise ValueError(f"not every seed of {list(seeds)} was run of {missing}: run them, then write")
    for family, path in recipes().items():
        text = path.read_text("utf-8")
        section = expectation({seed: found[family][seed] for seed in seeds})
        changed, count = re.subn(r"^expect:\n(?: .*\n|\n(?= ))*", lambda _, section=section: section, text, flags=re.M)
        if count != 1:
            raise ValueError(f"{path} has not one section `expect:` of lines that are indented: write it so")
        with replacing(path) as new:
            new.write_text(changed, "utf-8")
    with replacing(TABLE) as new:
        new.write_text(HEADER + table(found) + "\n", "utf-8")


HEADER = """\
# Every family of vision models on scikit-learn's digits

Written by `python recipes/run_digits.py --write`; do not edit it by hand. Accuracy on the 360 test images in percent,
after a training from scratch on 1,257 images of 8 x 8 pixels (one image in 360 is 0.28). The settings were chosen on
the validation split, but for some of M3ViT's (see its recipe). The table shows that each family trains, not which is
the best: the differences are small, and the models of unlike cost. Where a place is empty, that seed was not run. The
time is that of the fastest of the seeds, on one core that had other work beside. A model of seed 0 comes with zoo:
`zoo.create_model("<family>_digits", pretrained=True)`. What its own file measures, `zoo.model_info` says; on another
machine the same training comes out a little different.

"""


def main(argv: Sequence[str] | None = None) -> None:
    """Command line entry; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("families", nargs="*", help="those to train; default: all")
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS), help="default: 0 1 2")
    parser.add_argument("--jobs", type=int, default=1, help="trainings at a time, each of one process; default: 1")
    parser.add_argument("--device", choices=("auto", "cpu"), default="auto", help="auto: a GPU if there is one")
    parser.add_argument("--output", type=Path, default=Path("runs") / "digits", help="folder of the runs")
    parser.add_argument("--table", action="store_true", help="train nothing, print the table")
    parser.add_argument("--write", action="store_true", help="train nothing, write the recipes and the table")
    args = parser.parse_args(argv)
    if unknown := sorted(set(args.families) - set(recipes())):
        sys.exit(f"error: no recipe for {', '.join(unknown)}; there are {', '.join(recipes())}")
    failed = []
    if not (args.table or args.write):
        if args.device == "cpu":
            os.environ["ACCELERATE_USE_CPU"] = "true"  # accelerate reads it in the processes that are started below
        os.environ["OMP_NUM_THREADS"] = "1"
        failed = train_all(args.families or list(recipes()), args.seeds, args.output, args.jobs)
    found = results(args.output)
    if args.write:
        try:
            write(found, args.seeds)
        except ValueError as error:
            sys.exit(f"error: {error}")
    print(table(found))
    if failed:
        sys.exit("error: " + "\n".join(failed))


if __name__ == "__main__":
    main()
