"""What scripts that compare recipes have in common: their command line, and processes that share the work."""

import argparse
import json
import multiprocessing
import sys
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from zoo.storage.files import replacing
from zoo.training.data.batches import EvaluationBatches
from zoo.training.data.splits import Split
from zoo.training.recipe.reading import RecipeError
from zoo.training.tasks.base import Task

Unit = TypeVar("Unit")
Result = TypeVar("Result")


def command(
    about: str,
    compare: Callable[..., list[dict]],
    table: Callable[[list[dict]], str],
    output: str,
    argv: list[str] | None = None,
    **arguments: Mapping[str, Any],
) -> None:
    """Run a comparison from the command line: print its table, and write its rows if a file is named.

    Args:
        about: The script's docstring.
        compare: Makes the rows of the values of `arguments`, the overrides and the folder of the runs.
        table: Makes Markdown of the rows.
        output: Default folder of the runs.
        argv: Arguments in place of the command line's.
        arguments: Arguments before the overrides, or with ``--`` options: what argparse's `add_argument` takes, by
            name.
    """
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, options in arguments.items():
        parser.add_argument(name, **options)
    parser.add_argument("overrides", nargs="*", metavar="key.sub=value", help="change all recipes")
    parser.add_argument("--output", type=Path, default=Path(output), help="folder of the runs")
    parser.add_argument("--json", type=Path, help="write the rows into this file")
    args = parser.parse_intermixed_args(argv)
    try:
        rows = compare(*(vars(args)[name.lstrip("-")] for name in arguments), args.overrides, args.output)
    except RecipeError as error:
        sys.exit(f"error: {error}")
    print(table(rows))
    if args.json:
        with replacing(args.json) as file:
            file.write_text(json.dumps(rows, indent=1) + "\n", "utf-8")


def in_processes(work: Callable[[Unit], Result], units: Iterable[Unit], jobs: int) -> list[Result]:
    """The results of all units of work, in their order; with one job, made in this process.

    Args:
        work: What makes one; for several jobs it must be one that `pickle` takes, and so must its results.
        units: What to make them of; they are begun in their order.
        jobs: How many processes work at a time.
    """
    if jobs == 1:
        return [work(unit) for unit in units]
    # Fresh processes: CUDA does not outlive a fork.
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        return list(pool.map(work, units))


def psnr_of_inputs(split: Split, task: Task, seed: int) -> float:
    """PSNR of the inputs of an image-to-image task themselves, in dB: the score of a model that does nothing."""
    inputs, targets, _ = EvaluationBatches(split, task, batch_size=len(split), seed=seed)[0]
    meter = task.meter(split.num_classes)
    meter.update(inputs, targets)
    return meter.compute()["psnr"]
