"""S-KAN's selection against each of its spaces alone, with the penalty on undecided nodes, and everybody tuned alike.

    python -m recipes.claims.compare_select                          all of it, by PROTOCOL.md: two hours on one core
    python -m recipes.claims.compare_select --jobs 12 --minutes 9    by twelve processes, for nine minutes at most
    python -m recipes.claims.compare_select --only 'bump/*' --search train.duration=4st train.phases.select=2st

`--only` names units of the comparison, formula/model, by a pattern, and `--search` leaves the test points alone.
Run again, it trains only what is not finished: what a unit has measured lies in a file of its own in the folder of the
runs.
"""

import contextlib
import fnmatch
import functools
import io
import math
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import zoo
from recipes.compare_fit import SEVEN, parameters_in_use
from zoo.blocks.kan.select import SelectKANLinear
from zoo.training import Trainer, load_recipe
from zoo.training.data.formulas import FORMULAS
from zoo.training.runs.comparing import command, in_processes
from zoo.training.runs.records import append_record, read_records

RECIPE = Path(__file__).parent / "select_penalty.yaml"
# Each by its number of functions, or what that follows from.
SPACES = {
    "spline": "spline(grid_size={})",
    "rbf": "rbf(num={}, grid_range=(-1, 1))",
    "chebyshev": "chebyshev(degree={})",
    "fourier": "fourier(num_frequencies={})",
    "wavelet": "wavelet(num={}, grid_range=(-1, 1))",
}
BUDGETS = {1: 100, 2: 150}  # parameters, by the number of inputs
SEARCH_SEEDS, SEEDS = (100, 101), range(5)
# Nine settings each: a hidden width, and the weight of S-KAN's penalty.
SETTINGS = {space: [(hidden, None) for hidden in range(2, 11)] for space in SPACES}
SETTINGS["S-KAN"] = [(hidden, penalty) for hidden in (3, 5, 8) for penalty in (1e-4, 1e-3, 1e-2)]


@functools.cache
def layer(space: str, inputs: int, hidden: int) -> str:
    """The layer of a space whose size brings a network of that width nearest to the budget."""

    def count(size: int) -> int:
        options = {"in_chans": inputs, "hidden": [hidden], "num_classes": 1, "layer": SPACES[space].format(size)}
        return sum(p.numel() for p in zoo.create_model("kan_function", **options, device="meta").parameters())

    each = count(3) - count(2)  # as much as any other function or degree adds
    nearest = math.ceil(2 + (BUDGETS[inputs] - count(2)) / each - 0.5)  # of two that are as near, the smaller
    return SPACES[space].format(max(2, nearest))


def setting_overrides(formula: str, model: str, hidden: int, penalty: float | None) -> list[str]:
    """What the recipe says otherwise."""
    inputs = len(FORMULAS[formula].box)
    layers = [layer(space, inputs, hidden) for space in (SPACES if model == "S-KAN" else [model])]
    own = [f"data.formula={formula}", f"model.kwargs.in_chans={inputs}", f"model.kwargs.hidden=[{hidden}]"]
    if model == "S-KAN":
        listed = ", ".join(f'"{each}"' for each in layers)
        return [*own, f"model.kwargs.layer={{name: select, bases: [{listed}]}}", f"aux_losses.selection={penalty}"]
    return [*own, f"model.kwargs.layer={layers[0]}", "train.phases={}", "aux_losses={}"]  # nothing to choose


def units() -> Iterator[str]:
    """All parts of the comparison; those that take longest come first."""
    return (f"{formula}/{model}" for model in reversed(SETTINGS) for formula in reversed(SEVEN))


def work(unit: str, overrides: list[str], output: Path, deadline: float, *, search: bool) -> list[dict[str, Any]]:
    """Search and final runs of a unit, as far as time allows, or the search alone: a record of each run."""
    formula, model = unit.split("/")
    path = output / f"{formula}-{model}.jsonl"
    done = read_records(path) if path.exists() else []
    have = {(record["stage"], record["hidden"], record["penalty"], record["seed"]) for record in done}

    def run(stage: str, hidden: int, penalty: float | None, seed: int) -> None:
        if (stage, hidden, penalty, seed) in have or time.time() > deadline:
            return
        own = [*setting_overrides(formula, model, hidden, penalty), f"train.seed={seed}", *overrides]
        record = {"unit": unit, "stage": stage, "hidden": hidden, "penalty": penalty, "seed": seed}
        done.append(record | measured(own, ["validation"] + (["test"] if stage == "final" else [])))
        path.parent.mkdir(parents=True, exist_ok=True)
        append_record(path, done[-1])

    for hidden, penalty in SETTINGS[model]:
        for seed in SEARCH_SEEDS:
            run("search", hidden, penalty, seed)
    if not search and (chosen := best(done, model)) is not None:
        for seed in SEEDS:
            run("final", *chosen, seed)
    print(f"{unit}: {len(done)} runs are done", flush=True)
    return done


def best(records: list[dict[str, Any]], model: str) -> tuple[int, float | None] | None:
    """The setting with the lowest mean error on the validation points; None before all are searched."""
    errors: dict[tuple[int, float | None], list[float]] = {}
    for record in records:
        if record["stage"] == "search":
            error = math.inf if record["validation"] is None else record["validation"]
            errors.setdefault((record["hidden"], record["penalty"]), []).append(error)
    if sum(map(len, errors.values())) < len(SETTINGS[model]) * len(SEARCH_SEEDS):
        return None
    return min(errors, key=lambda setting: statistics.mean(errors[setting]))


def measured(overrides: list[str], parts: list[str]) -> dict[str, Any]:
    """Train once; the errors on these parts, None if the training diverged, and what it took and chose."""
    begun, quiet = time.process_time(), io.StringIO()
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet):
        trainer = Trainer(load_recipe(RECIPE, overrides), Path(folder) / "run")
        try:
            trainer.fit()
            errors = {part: trainer.evaluate(part)[f"{part}/rmse"] for part in parts}
        except FloatingPointError:
            errors = dict.fromkeys(parts)
    chosen = Counter()
    for each in filter(lambda module: isinstance(module, SelectKANLinear), trainer.model.modules()):
        chosen.update(space.partition("(")[0] for space in each.selection().chosen)
    facts = {"step": trainer.step, "parameters": parameters_in_use(trainer.model), "chosen": dict(chosen)}
    return errors | facts | {"seconds": round(time.process_time() - begun, 1)}


def compare(
    only: str, jobs: int, minutes: float, search: bool, overrides: list[str], output: Path
) -> list[dict[str, Any]]:
    """Run what is not finished of all units, or of those that the pattern means: the records of all runs."""
    how = {"overrides": overrides, "output": output, "deadline": time.time() + 60 * minutes, "search": search}
    chosen = [unit for unit in units() if fnmatch.fnmatchcase(unit, only)]
    return [record for records in in_processes(functools.partial(work, **how), chosen, jobs) for record in records]


def table(records: list[dict[str, Any]]) -> str:
    """In Markdown the units that are finished, a row each; the best mean of each formula is bold."""
    lines = ["| formula | model | hidden | penalty | parameters, at most | validation | test RMSE | std | chosen |"]
    lines.append("|---" * 9 + "|")
    finished = {}
    for unit in sorted(units(), key=lambda unit: SEVEN.index(unit.split("/")[0])):
        runs = [record for record in records if record["unit"] == unit and record["stage"] == "final"]
        if len(runs) == len(SEEDS):
            finished[unit] = runs
    means = {unit: statistics.mean(_errors(runs, "test")) for unit, runs in finished.items()}
    for unit, runs in finished.items():
        formula, model = unit.split("/")
        is_best = means[unit] == min(mean for other, mean in means.items() if other.startswith(f"{formula}/"))
        mean, chosen = f"{means[unit]:.5f}", sum((Counter(run["chosen"]) for run in runs), Counter())
        cells = [formula, model, runs[0]["hidden"], runs[0]["penalty"] or "", max(run["parameters"] for run in runs)]
        cells += [f"{statistics.mean(_errors(runs, 'validation')):.5f}", f"**{mean}**" if is_best else mean]
        cells += [f"{statistics.stdev(_errors(runs, 'test')):.5f}"]
        cells += [", ".join(f"{count} {space}" for space, count in chosen.most_common())]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def _errors(runs: list[dict[str, Any]], part: str) -> list[float]:
    return [math.nan if run[part] is None else run[part] for run in runs]


def main(argv: list[str] | None = None) -> None:
    """Command line entry; see the module's docstring."""
    options = {
        "--only": {"default": "*", "help": "work on these units alone"},
        "--jobs": {"type": int, "default": 1, "help": "processes that work at a time"},
        "--minutes": {"type": float, "default": 1e6, "help": "begin no run after that"},
        "--search": {"action": "store_true", "help": "search alone, on the validation points"},
    }
    command(__doc__, compare, table, "runs/compare_select", argv, **options)


if __name__ == "__main__":
    main()
