"""A recipe: one YAML file, read into the dataclasses below.

Their fields are all a recipe may say; what a field means is said beside it. An unknown key, a wrong type, a bare number
for a duration are errors with file and line (`schema.py`).
"""

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml
from torch import nn

import zoo
from zoo.checks import unknown
from zoo.training.data import Data, ImageFolder
from zoo.training.multitask import Head, MultiTask
from zoo.training.optim import Optim, Schedule
from zoo.training.schema import Duration, build, compose, override, plain
from zoo.training.segmenter import Pyramid, Segmenter
from zoo.training.tasks import Task


@dataclass(frozen=True)
class Model:
    """The model of `zoo.create_model(name, **kwargs)`, or what stands on it: a segmenter, a model for several tasks."""

    name: str
    kwargs: dict[str, Any] = field(default_factory=dict)
    pyramid: Pyramid | None = None  # what makes it a segmenter
    heads: dict[str, Head] | None = None  # what makes it a model for several tasks: the head of each

    def __post_init__(self) -> None:
        if self.pyramid is not None and self.heads is not None:
            raise ValueError("pyramid is the head of a single task, and heads has one for each: remove pyramid")

    def create(self) -> nn.Module:
        """A new model; the global generators give its weights."""
        if self.heads is not None:
            return MultiTask(self.name, self.heads, **self.kwargs)
        if self.pyramid is None:
            return zoo.create_model(self.name, **self.kwargs)
        return Segmenter(self.name, self.pyramid, **self.kwargs)


@dataclass(frozen=True)
class Train:
    """The loop."""

    duration: Duration
    batch_size: int  # of the whole run, over all processes
    eval_every: Duration
    checkpoint_every: Duration
    seed: int = 0
    precision: Literal["fp32", "bf16"] = "fp32"  # bf16: autocast, weights stay in fp32
    grad_clip: float | None = None  # largest norm of all gradients together
    ema: float | None = None  # decay of an average of the weights, which is then what is evaluated and saved
    log_every: Duration = Duration(10, "st")
    select: Duration | None = None  # when each node of an S-KAN keeps its best space alone: `SelectKANLinear.select`
    threads: int | None = None  # of torch on a CPU; with 1, a tiny model is not slowed down by whatever else runs there

    def __post_init__(self) -> None:
        for name in ("duration", "batch_size", "eval_every", "checkpoint_every", "log_every"):
            value = getattr(self, name)
            if (value.count if isinstance(value, Duration) else value) < 1:
                raise ValueError(f"{name} is {value}, it must be at least 1")
        if self.threads is not None and self.threads < 1:
            raise ValueError(f"threads is {self.threads}, it must be at least 1 (or null: as torch has it)")
        if self.seed < 0:
            raise ValueError(f"seed is {self.seed}, it must be at least 0")
        if self.grad_clip is not None and self.grad_clip <= 0:
            raise ValueError(f"grad_clip is {self.grad_clip}, it must be above 0 (or null: no clipping)")
        if self.ema is not None and not 0 < self.ema < 1:
            raise ValueError(f"ema is {self.ema}, it must be between 0 and 1 (or null: no average)")


@dataclass(frozen=True)
class Expect:
    """What the recipe gives, if it was run: a number without a run is never written."""

    metric: str  # split/name, such as test/top1
    status: Literal["reproduced", "untested"]
    value: float | None = None
    tolerance: float | None = None  # a run agrees if it is at most this far from value
    hardware: str | None = None
    time: str | None = None
    note: str | None = None

    def __post_init__(self) -> None:
        run = {"value": self.value, "tolerance": self.tolerance, "hardware": self.hardware, "time": self.time}
        if self.status == "reproduced" and None in run.values():
            missing = ", ".join(name for name, given in run.items() if given is None)
            raise ValueError(f"status is reproduced, so {missing} must be given (or status: untested)")
        if self.status == "untested" and self.value is not None:
            raise ValueError("status is untested, so there is no value: run the recipe, or cite the number in the note")

    def compare(self, metrics: dict[str, float]) -> str:
        """Say how the metrics of a run stand to this."""
        if self.metric not in metrics:
            return unknown(f"expect.metric {self.metric!r}", self.metric, metrics)
        if self.value is None:
            return f"{self.metric} {metrics[self.metric]:.4g}: the recipe is untested, there is nothing to compare with"
        agrees = abs(metrics[self.metric] - self.value) <= self.tolerance
        expected = f"expected {self.value:g} within {self.tolerance:g}"
        return f"{self.metric} {metrics[self.metric]:.4g}: {expected}, {'met' if agrees else 'MISSED'}"


@dataclass(frozen=True)
class Objective:
    """One of several tasks: what it is, on which data, and the weight of its loss."""

    task: Task
    data: Data
    weight: float = 1.0

    def __post_init__(self) -> None:
        if self.weight <= 0:
            raise ValueError(f"weight is {self.weight}, it must be above 0 (or remove the task)")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """All that decides a run: of one task, which is `task` on `data`, or of several, which are `tasks` by their names.

    Several share the model, and bring batches in turn (`AlternatingBatches`).
    """

    task: Task | None = None
    tasks: dict[str, Objective] | None = None
    model: Model
    data: Data | None = None
    train: Train
    optim: Optim
    schedule: Schedule
    expect: Expect
    aux_losses: dict[str, float] = field(default_factory=dict)  # weight of each loss/<name> the model returns

    def __post_init__(self) -> None:
        alone = {"task": self.task, "data": self.data}
        if self.tasks is None:
            for key, given in alone.items():
                if given is None:
                    raise ValueError(f"missing key {key!r}, a section (or tasks, of which each has its own)")
            if self.model.heads is not None:
                raise ValueError("model.heads has a head for each of several tasks: set tasks, or remove model.heads")
            object.__setattr__(self, "data", self._with_channels(self.data))
            return
        for key, given in alone.items():
            if given is not None:
                raise ValueError(f"{key} and tasks are both given, but each of several tasks has its own: remove {key}")
        heads = self.model.heads or {}
        if self.tasks.keys() != heads.keys() or not self.tasks:
            raise ValueError(f"tasks are {sorted(self.tasks)}, model.heads {sorted(heads)}: give each task its head")
        settled = {n: dataclasses.replace(one, data=self._with_channels(one.data)) for n, one in self.tasks.items()}
        object.__setattr__(self, "tasks", settled)

    def _with_channels(self, data: Data) -> Data:
        """The data, with what is left open about channels taken from the model's arguments."""
        return data.with_channels_of(self.model.kwargs) if isinstance(data, ImageFolder) else data

    @property
    def objectives(self) -> dict[str, Objective]:
        """The tasks by their names; a single one has the name ""."""
        return {"": Objective(self.task, self.data)} if self.tasks is None else self.tasks


def load_recipe(path: str | Path, overrides: Iterable[str] = ()) -> Recipe:
    """Read a recipe.

    Args:
        path: the YAML file.
        overrides: `key.sub=value` each, applied in order.

    Raises:
        RecipeError: the recipe or an override cannot be used as written; the message says where and why.
        FileNotFoundError: there is no such file.
    """
    node = compose(Path(path).read_text("utf-8"), str(path))
    for assignment in overrides:
        override(node, assignment)
    return build(Recipe, node)


def dump_recipe(recipe: Recipe) -> str:
    """The resolved recipe as YAML, every default written out; `load_recipe` reads the same recipe from it."""
    return yaml.safe_dump(plain(recipe), sort_keys=False, allow_unicode=True, width=120)


def differences(old: Recipe, new: Recipe) -> list[str]:
    """`key: old -> new` wherever two recipes train differently; how often they log, save or evaluate is no matter."""
    before, after = (_flat(plain(dataclasses.replace(recipe, expect=None))) for recipe in (old, new))
    for flat in (before, after):
        for key in ("train.eval_every", "train.checkpoint_every", "train.log_every"):
            del flat[key]
    keys = sorted(before.keys() | after.keys())
    return [f"{key}: {before.get(key)} -> {after.get(key)}" for key in keys if before.get(key) != after.get(key)]


def _flat(tree: dict[str, Any], path: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _flat(value, f"{path}{key}.") if isinstance(value, dict) else {f"{path}{key}": value}
    return flat
