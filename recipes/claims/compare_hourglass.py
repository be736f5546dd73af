"""The Hourglass MLP against the conventional MLP at three budgets: denoising and super-resolution of two data sets.

    python -m recipes.claims.compare_hourglass                         all of it, by PROTOCOL.md: days on a CPU
    python -m recipes.claims.compare_hourglass --jobs 3 --minutes 9    on a GPU, by three processes, for nine minutes
    python -m recipes.claims.compare_hourglass --only 'photographs/denoise/*' --search train.duration=50st

`--only` names units of the comparison, data/task/budget, by a pattern, and `--search` leaves the test part alone.
Run again, it trains only what is not finished: what a unit has measured lies in a file of its own in the folder of the
runs.
"""

import fnmatch
import functools
import math
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch

from recipes.claims.stacked import OutOfTime, Stack, train
from zoo.training import Recipe, load_recipe
from zoo.training.evaluation import load_data
from zoo.training.runs.comparing import command, in_processes, psnr_of_inputs
from zoo.training.runs.records import append_record, read_records

HERE = Path(__file__).parent
TASKS = ("denoise", "super_resolution")
BUDGETS = {"photographs": (500_000, 1_000_000, 2_000_000), "mnist": (2_000_000, 4_000_000, 8_000_000)}
PIXELS = {"photographs": 16 * 16, "mnist": 28 * 28}
RATES = {"photographs": (1e-3, 3e-3, 1e-2), "mnist": (5e-4, 1.5e-3, 5e-3)}
SEARCH_SEED, SEEDS = 100, range(5)
QUANTILE = 2.776  # of Student's distribution, 4 degrees of freedom, for an interval of 95 %
# Tried at each budget: of the Hourglass the width of the skip over the number of pixels and the depth, of its rival,
# whose skip is as wide as the image, the depth. What is left of the budget is the hidden width.
SHAPES = {
    "hourglass": (((1.5, 4), (2, 3)), ((2, 3), (3, 4)), ((3, 6), (4, 6))),
    "conventional": (((1, 1), (1, 2)), ((1, 1), (1, 2)), ((1, 2), (1, 3))),
}


# The second round, on splits that the first has not seen: data, task and number of the budget, the splits, and of each
# model the shape and the rate, by PROTOCOL.md.
SECOND = {
    ("photographs", "denoise", 1): (range(1, 5), {"hourglass": ((3, 4), 3e-3), "conventional": ((1, 2), 3e-3)}),
    ("photographs", "super_resolution", 1): (
        range(1, 5),
        {"hourglass": ((3, 4), 1e-3), "conventional": ((1, 1), 3e-3)},
    ),
    ("mnist", "denoise", 0): (range(1, 2), {"hourglass": ((1.5, 4), 1.5e-3), "conventional": ((1, 1), 5e-3)}),
    ("mnist", "denoise", 1): (range(1, 2), {"hourglass": ((2, 3), 1.5e-3), "conventional": ((1, 2), 5e-3)}),
}


class Unit(NamedTuple):
    """A part of the comparison that is worked on as one: both models, their search and what is then measured.

    Of another split than 0 there is no search: the settings are those of the second round.
    """

    data: str
    task: str
    budget: int  # its number
    split: int = 0

    @property
    def name(self) -> str:
        return "/".join(map(str, self if self.split else self[:-1]))


def units() -> Iterator[Unit]:
    """All parts of the comparison."""
    for data in BUDGETS:
        yield from (Unit(data, task, budget) for task in TASKS for budget in range(3))
    for place, (splits, _) in SECOND.items():
        yield from (Unit(*place, split) for split in splits)


def architecture(model: str, unit: Unit, shape: tuple[float, int]) -> dict[str, Any]:
    """Depth, width of the skip and the channel mixer, whose hidden width makes the most of the budget."""
    pixels, (factor, depth) = PIXELS[unit.data], shape
    dim = int(factor * pixels)
    head = dim * pixels + pixels
    # Of a block: the two products, the biases of both, and the scale and the shift of the norm.
    hidden = int((BUDGETS[unit.data][unit.budget] - head - depth * 3 * dim) / (depth * (2 * dim + 1)))
    mixer = {"hourglass": "hourglass", "conventional": "mlp"}[model]
    return {"depth": depth, "dim": dim, "channel_mixer": f"{mixer}(hidden={hidden})"}


def recipe_of(model: str, unit: Unit, shape: tuple[float, int], rate: float, seed: int, overrides: list[str]) -> Recipe:
    """The recipe of the comparison in a setting."""
    own = [f"model.kwargs.{key}={value}" for key, value in architecture(model, unit, shape).items()]
    own += [f"optim.lr={rate}", f"train.seed={seed}", f"data.split_seed={unit.split}"]
    return load_recipe(HERE / f"{model}_{unit.task}_{unit.data}.yaml", [*own, *overrides])


def work(
    unit: Unit, overrides: list[str], output: Path, deadline: float, *, search: bool, graphs: bool
) -> list[dict[str, Any]]:
    """Search and final runs of a unit, as far as time allows, or the search alone: a record of each run."""
    path = output / f"{unit.name.replace('/', '-')}.jsonl"
    done = read_records(path) if path.exists() else []
    try:
        if not done and not unit.split:
            shapes = {model: shapes[unit.budget] for model, shapes in SHAPES.items()}
            done = _runs(unit, overrides, shapes, deadline, graphs)
            _write(path, done)
        if not search and not any(record["stage"] == "final" for record in done):
            final = _runs(unit, overrides, chosen(unit, done), deadline, graphs)
            _write(path, final)
            done += final
    except OutOfTime:
        print(f"{unit.name}: no time was left", flush=True)
    return done


def chosen(unit: Unit, records: list[dict[str, Any]]) -> dict[str, tuple[tuple[float, int], float]]:
    """Of each model the shape and the rate that the validation part chooses; one that diverged is none."""
    if unit.split:
        return SECOND[unit[:-1]][1]

    def score(record: dict[str, Any]) -> float:
        return -math.inf if record["validation"] is None else record["validation"]

    best = {model: max((r for r in records if r["model"] == model), key=score) for model in SHAPES}
    return {model: (tuple(record["shape"]), record["rate"]) for model, record in best.items()}


def _runs(
    unit: Unit, overrides: list[str], settings: dict[str, Any], deadline: float, graphs: bool
) -> list[dict[str, Any]]:
    """Train side by side: of each model the shapes that are searched, or all seeds of the setting that was chosen."""
    device, searched = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu"), []
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")  # products of numbers that are rounded to TF32
    for model, setting in settings.items():
        if isinstance(setting[-1], float):
            searched.append((model, setting[0], [(setting[1], seed) for seed in SEEDS]))
        else:
            searched += [(model, shape, [(rate, SEARCH_SEED) for rate in RATES[unit.data]]) for shape in setting]
    begun, stacks, data = time.time(), [], None
    for model, shape, runs in searched:
        recipes = [recipe_of(model, unit, shape, *run, overrides) for run in runs]
        data = data or load_data(recipes[0])[""]
        stacks.append(Stack(recipes, data, device))
    created = time.time()
    train(stacks, deadline, graphs=graphs)
    trained = time.time() - created
    records = []
    for (model, shape, runs), stack in zip(searched, stacks, strict=True):
        is_final = len(runs) == len(SEEDS) and runs[0][1] != SEARCH_SEED
        parts = ("validation", "test") if is_final else ("validation",)
        measured = {part: [metrics["psnr"] for metrics in stack.measure(part)] for part in parts}
        for number, (rate, seed) in enumerate(runs):
            record = {"step": stack.steps, "stage": "final" if is_final else "search", "unit": unit.name}
            record |= {"model": model, "shape": shape, "rate": rate, "seed": seed}
            record |= {"parameters": sum(p.numel() for p in stack.models[number].parameters())}
            record |= {"input": psnr_of_inputs(data["test"], stack.recipes[0].task, seed)} if is_final else {}
            records.append(record | {part: values[number] for part, values in measured.items()})
    took = time.time() - begun
    print(f"{unit.name}: {len(records)} runs of {stacks[0].steps} steps on {device} in {took:.0f} s", end=", ")
    print(f"of which {trained:.0f} s were training", flush=True)
    return [record | {"seconds": round(took, 1)} for record in records]


def _write(path: Path, records: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    for record in records:
        append_record(path, record)


def compare(
    only: str, jobs: int, minutes: float, search: bool, eager: bool, overrides: list[str], output: Path
) -> list[dict[str, Any]]:
    """Run what is not finished of all units, or of those that the pattern means: the records of all runs."""
    deadline = time.time() + 60 * minutes
    how = {"overrides": overrides, "output": output, "deadline": deadline, "search": search, "graphs": not eager}
    one = functools.partial(work, **how)
    wanted = [unit for unit in units() if fnmatch.fnmatchcase(unit.name, only)]
    return [record for records in in_processes(one, wanted, jobs) for record in records]


def table(records: list[dict[str, Any]]) -> str:
    """In Markdown the units that are finished, a row a model, and the difference of the two with its interval."""
    lines = ["| data/task/budget/split | model | skip x depth | rate | parameters | validation | test PSNR, dB | std |"]
    lines.append("|---" * 8 + "|")
    for unit in units():
        final = [record for record in records if record["unit"] == unit.name and record["stage"] == "final"]
        if not final:
            continue
        lines.append(f"| {unit.name} | input | | | 0 | | {statistics.mean(run['input'] for run in final):.3f} | |")
        scores = {}
        for model in SHAPES:
            runs = [record for record in final if record["model"] == model]
            scores[model] = [math.nan if run["test"] is None else run["test"] for run in runs]
            (factor, depth), run = runs[0]["shape"], runs[0]
            validation = statistics.mean(math.nan if r["validation"] is None else r["validation"] for r in runs)
            lines.append(
                f"| {unit.name} | {model} | {factor:g} x {depth} | {run['rate']:g} | {run['parameters']:,} | "
                f"{validation:.3f} | {statistics.mean(scores[model]):.3f} | {statistics.stdev(scores[model]):.3f} |"
            )
        gains = [ours - theirs for ours, theirs in zip(*scores.values(), strict=True)]
        mean, half = statistics.mean(gains), QUANTILE * statistics.stdev(gains) / len(gains) ** 0.5
        lines.append(f"| {unit.name} | difference | | | | | {mean:+.3f} | {mean - half:+.3f} to {mean + half:+.3f} |")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    """Command line entry; see the module's docstring."""
    options = {
        "--only": {"default": "*", "help": "work on these units alone"},
        "--jobs": {"type": int, "default": 1, "help": "processes that work at a time"},
        "--minutes": {"type": float, "default": 1e6, "help": "stop then, and say what is done"},
        "--search": {"action": "store_true", "help": "search alone, on the validation part"},
        "--eager": {"action": "store_true", "help": "record no CUDA graphs"},
    }
    command(__doc__, compare, table, "runs/compare_hourglass", argv, **options)


if __name__ == "__main__":
    main()
