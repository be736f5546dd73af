"""`report.html` of a run: one file, readable anywhere and without a network, of what lies in the run's folder."""

import datetime
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from zoo.costs import count_flops
from zoo.storage.files import replacing
from zoo.training.evaluation import load_data
from zoo.training.models.multitask import MultiTask
from zoo.training.recipe.recipe import Data, Recipe, dump_recipe
from zoo.training.runs.folder import RunFolder
from zoo.training.runs.measuring import open_trained, part_of, recipe_of
from zoo.training.runs.records import read_records
from zoo.training.watching.answers import Asked, Progress, answers_of, silent
from zoo.training.watching.curves import draw, panels
from zoo.training.watching.sessions import read_sessions
from zoo.training.watching.trackers import PARTS
from zoo.version import __version__

FILE = "report.html"
TEMPLATE = Path(__file__).with_name("report.html.jinja")
DEPTH = 3  # levels of modules in the table of costs


def write_report(
    run: RunFolder | Path | str, *, part: str | None = None, overrides: Iterable[str] = (), data=None, **how: Any
) -> Path:
    """Write a run's report.html, and give its path.

    Of a run that has not ended, or has failed, it has the curves and the recipe.

    Args:
        run: The run's folder.
        part: Of the data, whose mistakes are shown: ``train``, ``validation`` or ``test``; by default what the run
            itself measured at its end.
        overrides: `key.sub=value` each, for data that lie elsewhere now.
        data: As `load_data` gives it, if it is there already.
        how: `device`, where the trained model is asked, by default the CPU; `progress`, which is called with how many
            batches are done, and of how many.

    Raises:
        FileNotFoundError: The folder holds no run, or its data are gone.
        ValueError: The data have no such part, or recipe, model or data cannot be read.
        OSError: The file cannot be written; one that was there before is as it was.
    """
    run = run if isinstance(run, RunFolder) else RunFolder(run)
    recipe = recipe_of(run, overrides)
    records = read_records(run.metrics) if run.metrics.is_file() else []
    page = _of_records(run, recipe, records)
    if run.model.is_dir():
        data = load_data(recipe) if data is None else data
        page |= _of_model(run, recipe, data, part_of(data, part), **how)
    text = _environment().from_string(TEMPLATE.read_text("utf-8")).render(page)
    target = run.path / FILE
    content = text.encode("utf-8", "replace")
    with replacing(target, len(content)) as file:
        file.write_bytes(content)
    return target


def report_of_training(run: RunFolder, recipe: Recipe, data: Data, device: torch.device) -> Path | None:
    """The report of a run that has just ended, if its recipe wants one; what goes wrong with it is a warning."""
    if not recipe.watch.report:
        return None
    try:
        return write_report(run, data=data, device=device)
    except (ValueError, OSError) as error:
        warnings.warn(f"there is no report: {error}", stacklevel=2)
        return None


def _environment() -> Any:
    """What fills in the template: every text of a user's is escaped, and a name that is not there is an error."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"big": _big, "number": _number}
    return environment


# --- What the records say ---------------------------------------------------------------------------------------------


def _of_records(run: RunFolder, recipe: Recipe, records: list[dict[str, Any]]) -> dict[str, Any]:
    final = next((record for record in reversed(records) if record.get("final")), None)
    diverged = next((record["diverged"] for record in records if isinstance(record.get("diverged"), str)), None)
    step = max((record["step"] for record in records), default=0)
    sessions = read_sessions(run.path)
    measured = _measured(final or {})
    state, verdict = _verdict(recipe, measured if final else None, step)
    tiles = [(name, _number(value)) for name, value in measured.items() if name == recipe.expect.metric]
    tiles += [("steps", f"{max(step, max((each['step'] for each in sessions), default=0)):,}")]
    if seconds := sum(each["seconds"] for each in sessions):
        tiles.append(("time", tqdm.format_interval(seconds)))
    if throughput := next((each["throughput"] for each in reversed(sessions) if each["throughput"]), None):
        tiles.append(("examples/s", f"{throughput:,.0f}"))
    return {
        "title": run.path.resolve().name,
        "about": [recipe.model.name, *_kinds(recipe)],
        "state": "diverged" if diverged else state,
        "verdict": diverged or verdict,
        "note": recipe.expect.note,
        "tiles": tiles,
        "curves": [(panel.title, draw(panel)) for panel in panels(records, tuple(recipe.objectives))],
        "metrics": _metrics(recipe, records, measured),
        "notes": list(_notes(records)),
        "recipe": dump_recipe(recipe),
        "sessions": [
            (each["began"], each["start"], each["step"], each["seconds"], each["throughput"], _machine(each))
            for each in sessions
        ],
        "versions": {**sessions[-1]["versions"], "system": sessions[-1]["machine"].get("system")} if sessions else {},
        "answers": [],
        "costs": [],
        "made": f"zoo {__version__}, {datetime.datetime.now().astimezone():%Y-%m-%d %H:%M %Z}",
    }


def _machine(session: Mapping[str, Any]) -> str:
    """A machine in a line."""
    facts = session["machine"]
    words = [facts.get("processor"), _counted(facts, "cores", "core"), f"{facts.get('memory_gb')} GB"]
    words += facts["gpus"] if isinstance(facts.get("gpus"), list) else []
    words += [_counted(facts, "threads", "thread"), _counted(facts, "processes", "process")]
    return ", ".join(map(str, words))


def _counted(facts: Mapping[str, Any], plural: str, singular: str) -> str:
    return f"{facts.get(plural)} {singular if facts.get(plural) == 1 else plural}"


def _notes(records: list[dict[str, Any]]) -> Iterator[str]:
    """What happened on the way, in sentences."""
    for record in records:
        if isinstance(record.get("from"), str):
            changed = record.get("changed")
            said = f", with changes: {'; '.join(map(str, changed))}" if isinstance(changed, list) and changed else ""
            yield f"At step {record['step']:,} it began from {record['from']}{said}."
        if isinstance(record.get("stopped"), str):
            yield f"It stopped at step {record['step']:,}: {record['stopped']}."


def _measured(record: Mapping[str, Any]) -> dict[str, float]:
    """The metrics in a record."""
    return {
        name: value
        for name, value in record.items()
        if name.split("/")[0] in PARTS and isinstance(value, (int, float)) and not isinstance(value, bool)
    }


def _verdict(recipe: Recipe, measured: Mapping[str, float] | None, step: int) -> tuple[str, str]:
    """In a word and in a sentence, how the run stands to what its recipe expects."""
    if measured is None:
        return "unfinished", f"Not finished: the last record is of step {step:,}."
    said = recipe.expect.compare(dict(measured))
    if recipe.expect.value is None or recipe.expect.metric not in measured:
        return "untested", said
    return ("missed" if "MISSED" in said else "met"), said


def _kinds(recipe: Recipe) -> list[str]:
    """What is learnt, and from what."""
    if recipe.tasks is None:
        return [recipe.task.name, recipe.data.name]
    return [f"{name}: {each.task.name} on {each.data.name}" for name, each in recipe.tasks.items()]


def _metrics(recipe: Recipe, records: list[dict[str, Any]], final: Mapping[str, float]) -> list[tuple[str, ...]]:
    """Rows of metric, value at the end, and best with its step where it is known what is better."""
    better = recipe.better
    history: dict[str, list[tuple[float, int]]] = {}
    for record in records:
        for name, value in _measured(record).items():
            history.setdefault(name, []).append((value, record["step"]))
    rows = []
    for name, values in history.items():
        last, best = final.get(name, values[-1][0]), ""
        direction = better.get(name.partition("/")[2])
        if direction is not None and len(values) > 1:
            value, step = (max if direction else min)(values, key=lambda each: each[0])
            best = f"{_number(value)} at step {step:,}"
        rows.append((name, _number(last), best))
    return rows


# --- What the trained model says --------------------------------------------------------------------------------------


def _of_model(
    run: RunFolder, recipe: Recipe, data: Data, part: str, *, device: Any = "cpu", progress: Progress = silent
) -> dict[str, Any]:
    model = open_trained(run.model, recipe)
    costs, answers = [], []
    for name in recipe.objectives:
        size = data[name][part].fetch([0], None)[0].shape[1:]
        costs.append(_costs(name, model.only(name) if isinstance(model, MultiTask) else model, tuple(size)))
    model = model.to(torch.device(device)).eval()
    for name, objective in recipe.objectives.items():
        asked = Asked(model, recipe, data[name][part], part, name, objective.data.preparation())
        answers.append(answers_of(asked, progress))
    return {"answers": [each for each in answers if each is not None], "costs": costs}


def _costs(task: str, model: nn.Module, size: tuple[int, ...]) -> dict[str, Any]:
    """What a model costs for one input, with rows of module, level, parameters and MACs."""
    try:
        report = count_flops(model, size)
    except (ValueError, TypeError) as error:
        return {"task": task, "report": None, "problem": str(error)}
    rows = [
        (name.rpartition(".")[2], name.count("."), report.params_by_module[name], macs)
        for name, macs in report.by_module.items()
        if name and name.count(".") < DEPTH and (macs or report.params_by_module[name])
    ]
    return {"task": task, "report": report, "rows": rows}


def _big(number: float) -> str:
    """A number in thousands, millions, …, with three digits.

    Example:
        >>> _big(1_234_567), _big(950), _big(0)
        ('1.23 M', '950', '0')
    """
    for scale, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= scale:
            return f"{number / scale:.3g} {unit}"
    return f"{number:.3g}"


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
