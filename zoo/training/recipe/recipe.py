"""A recipe: one YAML file, read into the dataclasses below.

Their fields are all a recipe may say; what a field means is said beside it. An unknown key, a wrong type, a bare number
for a duration are errors with file and line (`schema.py`).
"""

import dataclasses
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from torch import nn

from zoo.checks import Interval, check_path, shown, unknown
from zoo.create import create_model
from zoo.registry import model_info
from zoo.training.data.base import DataSet
from zoo.training.data.splits import Split
from zoo.training.heads.base import Head
from zoo.training.methods.base import Method
from zoo.training.models.multitask import MultiTask
from zoo.training.models.segmenter import Pyramid, Segmenter
from zoo.training.optim import Optim, Schedule
from zoo.training.recipe.inheritance import with_base
from zoo.training.recipe.reading import compose, override, read
from zoo.training.recipe.schema import (
    Positive,
    build,
    plain,
)
from zoo.training.recipe.section import Misfit, Section
from zoo.training.recipe.train import Train
from zoo.training.tasks.base import Task
from zoo.training.watching.settings import Watching

Data = Mapping[str, Mapping[str, Split]]  # the splits of each task by its name
# Arguments of `zoo.create_model`, and of what stands on its models, that are said elsewhere: where.
ELSEWHERE = {
    "model_name": "give it as model.name",
    "device": "the run chooses where it trains",
    "dtype": "set train.precision",
    "features_only": "set model.pyramid, which makes a segmenter of the feature maps",
    "backbone": "give it as model.name",
    "trunk": "give it as model.name",
    "pyramid": "set model.pyramid",
    "heads": "set model.heads",
    "self": "no model takes it",
}


@dataclass(frozen=True)
class Model(Section):
    """The model of `zoo.create_model(name, **kwargs)`, or what stands on it: a segmenter, a model for several tasks."""

    name: str  # as `zoo.create_model` takes it
    kwargs: dict[str, Any] = field(default_factory=dict)  # its other arguments, which it checks itself
    pyramid: Pyramid | None = None  # what makes it a segmenter
    heads: dict[str, Head] | None = None  # what makes it a model for several tasks: the head of each

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in (name for name in ELSEWHERE if name in self.kwargs):
            raise Misfit(f"kwargs.{name} is no argument for a recipe: {ELSEWHERE[name]}", f"kwargs.{name}")
        if self.pyramid is not None and self.heads is not None:
            raise Misfit("pyramid is the head of a single task, and heads has one for each: remove pyramid", "pyramid")

    @property
    def input(self) -> dict[str, Any]:
        """What the model, if it is one of zoo's, says of its images and classes, and what its arguments say."""
        try:
            cfg = model_info(self.name).pretrained_cfg
        except ValueError:  # of timm's, or of a folder
            return self.kwargs
        known = {name: cfg[name] for name in ("num_classes", "mean", "std")}
        if len(cfg["input_size"]) == 3:
            in_chans, height, width = cfg["input_size"]
            known |= {"in_chans": in_chans} | ({"img_size": height} if height == width else {})
        return known | self.kwargs

    def create(self) -> nn.Module:
        """A new model; the global generators give its weights."""
        if self.heads is not None:
            return MultiTask(self.name, self.heads, **self.kwargs)
        if self.pyramid is None:
            return create_model(self.name, **self.kwargs)
        return Segmenter(self.name, self.pyramid, **self.kwargs)


@dataclass(frozen=True)
class Expect(Section):
    """What the recipe gives, if it was run: a number without a run is never written."""

    metric: str  # split/name, such as test/top1; of several tasks split/task/name
    status: Literal["reproduced", "untested"]  # reproduced: value is what a run gave
    value: Annotated[float, Interval(-(10**9), 10**9)] | None = None  # of the metric
    tolerance: Annotated[float, Interval(0, 10**9)] | None = None  # a run agrees if it is at most this far from value
    published: Annotated[float, Interval(-(10**9), 10**9)] | None = None  # what others report of the metric: see source
    hardware: str | None = None  # on which it was run
    time: str | None = None  # that it took
    note: str | None = None  # how value and tolerance were found

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_metric()
        run = {"value": self.value, "tolerance": self.tolerance, "hardware": self.hardware, "time": self.time}
        if self.status == "reproduced" and None in run.values():
            missing = ", ".join(name for name, value in run.items() if value is None)
            raise Misfit(f"status is reproduced, so {missing} must be given (or status: untested)", "status")
        if self.status == "untested" and self.value is not None:
            raise Misfit(
                "status is untested, so there is no value: run the recipe, or cite the number in the note", "value"
            )

    def _check_metric(self) -> None:
        """Check that some task reports the metric of some data; whether the recipe's do, `Recipe.check` asks."""
        words = self.metric.split("/")
        if len(words) not in (2, 3):
            form = "split/metric, such as test/top1, or of several tasks split/task/metric"
            raise Misfit(f"metric is {shown(self.metric)}; it must be {form}", "metric")
        parts = {part for data in DataSet.kinds().values() for part in data.measured_on}
        names = {name for task in Task.kinds().values() for name in task.reports}
        for title, word, known in (("split", words[0], parts), ("number", words[-1], names)):
            if word not in known:
                raise Misfit(unknown(f"the {title} of metric {shown(self.metric)}", word, known), "metric")

    def compare(self, metrics: dict[str, float]) -> str:
        """Say how the metrics of a run stand to this."""
        if self.metric not in metrics:
            return unknown(f"expect.metric {shown(self.metric)}", self.metric, metrics)
        if self.value is None:
            return f"{self.metric} {metrics[self.metric]:.4g}: the recipe is untested, there is nothing to compare with"
        agrees = abs(metrics[self.metric] - self.value) <= self.tolerance
        expected = f"expected {self.value:g} within {self.tolerance:g}"
        return f"{self.metric} {metrics[self.metric]:.4g}: {expected}, {'met' if agrees else 'MISSED'}"


@dataclass(frozen=True)
class Objective(Section):
    """One of several tasks: what it is, on which data, and the weight of its loss."""

    task: Task  # what is learnt
    data: DataSet  # from what
    weight: Positive = 1.0  # of its loss


@dataclass(frozen=True, kw_only=True)
class Recipe(Section):
    """All that decides a run: of one task, which is `task` on `data`, or of several, which are `tasks` by their names.

    Several share the model, and bring batches in turn (`AlternatingBatches`).
    """

    task: Task | None = None  # what is learnt
    tasks: dict[str, Objective] | None = None  # in place of task and data: several, by their names
    model: Model  # what learns it
    data: DataSet | None = None  # from what
    train: Train  # how long, how large, how often
    optim: Optim  # the optimizer
    schedule: Schedule  # the learning rate over the training
    expect: Expect  # what comes of it
    # Weight of each loss/<name> that the model returns; one below 0 is a reward.
    aux_losses: dict[str, Annotated[float, Interval(-1_000_000, 1_000_000)]] = field(default_factory=dict)
    # What is added to the training, by names of your own, in this order: each may change the loss or the gradients.
    methods: dict[str, Method] = field(default_factory=dict)
    watch: Watching = field(default_factory=Watching)  # who is told of it beside; decides nothing
    source: str | None = None  # where the settings are published: paper, file of a repository; decides nothing

    def __post_init__(self) -> None:
        super().__post_init__()
        self._settle_rates()
        self._settle_tasks()
        self._check_schedule()
        self._check_second_order()
        self._check_methods()

    def _settle_rates(self) -> None:
        """Change the rates of the schedule by the rule of `optim`, if they belong to batches of another size."""
        factor = self.optim.factor(self.train.batch_size)
        if factor == 1:
            return
        optim = dataclasses.replace(self.optim, lr=self.optim.lr * factor, lr_batch=self.train.batch_size)
        rates = {name: getattr(self.schedule, name) * factor for name in ("warmup_lr", "min_lr")}
        object.__setattr__(self, "optim", optim)
        object.__setattr__(self, "schedule", dataclasses.replace(self.schedule, **rates))

    def _settle_tasks(self) -> None:
        alone = {"task": self.task, "data": self.data}
        if self.tasks is None:
            for key, section in alone.items():
                if section is None:
                    raise ValueError(f"missing key {key!r}, a section (or tasks, of which each has its own)")
            if self.model.heads is not None:
                raise Misfit(
                    "model.heads has a head for each of several tasks: set tasks, or remove model.heads", "model.heads"
                )
            object.__setattr__(self, "data", self.data.with_input_of(self.model.input))
            return
        for key, section in alone.items():
            if section is not None:
                raise Misfit(
                    f"{key} and tasks are both given, but each of several tasks has its own: remove {key}", key
                )
        heads = self.model.heads or {}
        if self.tasks.keys() != heads.keys() or not self.tasks:
            names = f"tasks are {shown(sorted(self.tasks))}, model.heads {shown(sorted(heads))}"
            raise Misfit(f"{names}: give each task its head", "tasks")
        settled = {
            name: dataclasses.replace(objective, data=objective.data.with_input_of(self.model.input))
            for name, objective in self.tasks.items()
        }
        object.__setattr__(self, "tasks", settled)

    def _check_schedule(self) -> None:
        """Check the rate against the length of the training, as far as that is known without the data."""
        warmup, duration = self.schedule.warmup, self.train.duration
        epochs = (warmup.unit, duration.unit) == ("st", "ep")  # of which each has one step or more
        if not epochs and warmup.count >= max(duration.count, 1):
            raise Misfit(f"schedule.warmup is {warmup}, but the whole training has {duration}", "schedule.warmup")
        if self.schedule.min_lr > self.optim.lr:
            low, high = self.schedule.min_lr, self.optim.lr
            raise Misfit(f"schedule.min_lr is {low}; it must be at most optim.lr, {high}", "schedule.min_lr")

    def _check_second_order(self) -> None:
        """Check that gradients which are differentiated once more can be."""
        if not self.optim.second_order:
            return
        name = self.optim.name
        if self.train.precision == "fp16":
            raise Misfit(
                f"{name} differentiates gradients, which a scaled loss in fp16 does not allow: set train.precision to "
                "bf16 or fp32, or optim.name=adamw",
                "train.precision",
            )
        if self.train.compile:
            raise Misfit(
                f"{name} differentiates gradients, which a compiled model does not allow: set train.compile to false, "
                "or optim.name=adamw",
                "train.compile",
            )

    def _check_methods(self) -> None:
        """Check what can be said of the methods without the model."""
        for name, method in self.methods.items():
            key = f"methods.{name}"
            if not name.isidentifier():  # it is a part of the names of parameters
                raise Misfit(f"the method {shown(name)} needs a name of letters, digits and _", key)
            if hasattr(nn.ModuleDict, name):
                raise Misfit(f"{shown(name)} is a word of torch's modules: give the method another name", key)
            if self.tasks is not None and not method.any_task:
                raise Misfit(f"{key}: {method.name} is for a single task: remove it, or tasks", key)
            if self.optim.name == "lbfgs":
                raise Misfit(
                    f"{key}: lbfgs searches along a loss that stays the same, and methods change it in every step: set "
                    "optim.name=adamw",
                    key,
                )
            if self.train.compile and not method.any_form:
                raise Misfit(
                    f"{key}: {method.name} reaches into the model, which a compiled one does not allow: set "
                    "train.compile to false",
                    key,
                )

    def fitted(self, data: Data) -> "Recipe":
        """The recipe with as many classes of the model as the data have, where it says nothing of them."""
        objective = self.objectives.get("")
        if objective is None or not objective.task.predicts_classes or "num_classes" in self.model.kwargs:
            return self
        count = data[""]["train"].num_classes
        if self.model.input.get("num_classes", count) == count:
            return self
        kwargs = self.model.kwargs | {"num_classes": count}
        return dataclasses.replace(self, model=dataclasses.replace(self.model, kwargs=kwargs))

    def reports(self, part: str, data: Data) -> list[str]:
        """What a run reports of a part of its data, such as test/top1; of several tasks, such as test/ink/miou."""
        return list(self.directions(part, data))

    def directions(self, part: str, data: Data) -> dict[str, bool | None]:
        """Of each number that `reports` has, whether a higher one is the better; None if the task does not say it."""
        names = {
            "/".join(filter(None, (task, name)))
            for task, objective in self.objectives.items()
            for name in objective.task.reported(data[task][part].num_classes)
        }
        return {f"{part}/{name}": side for name, side in self.better.items() if name in names}

    @property
    def better(self) -> dict[str, bool | None]:
        """Of each number that the tasks may report, as top1 or ink/miou, whether a higher one is the better."""
        return {
            "/".join(filter(None, (task, name))): objective.task.higher_is_better.get(name)
            for task, objective in self.objectives.items()
            for name in objective.task.reports
        }

    def check(self, data: Data) -> None:
        """Check what only the machine and the data can tell, which are the splits of each task by its name.

        Raises:
            ValueError: there are too many threads, a tracker is not installed, or the run will not report what is
                expected of it. Where only the data's test part is not there, that is a warning.
        """
        self.train.check_threads()
        self.watch.check()
        reported = self.reports(measured_part(data), data)
        if self.expect.metric not in reported:
            message = unknown(f"expect.metric {shown(self.expect.metric)}", self.expect.metric, reported, "reported")
            message = f"{message}; set expect.metric to one of them, or expect={{metric: {reported[0]}, …}}"
            if self.expect.metric.replace("test/", "validation/", 1) not in reported:
                raise ValueError(message)
            warnings.warn(message, stacklevel=3)  # one's own data in the place of the recipe's, without a test part

    @property
    def objectives(self) -> dict[str, Objective]:
        """The tasks by their names; a single one has the name ""."""
        return {"": Objective(self.task, self.data)} if self.tasks is None else self.tasks


def measured_part(data: Data) -> str:
    """The part that a trained model is measured on: test, or validation if the data of some task have none."""
    return "test" if all("test" in splits for splits in data.values()) else "validation"


def load_recipe(path: str | Path, overrides: Iterable[str] = ()) -> Recipe:
    """Read a recipe.

    Args:
        path: the YAML file; what it does not say, it has from the recipe that its key `base` names, if it has one.
        overrides: `key.sub=value` each, applied in order.

    Raises:
        RecipeError: the recipe or an override cannot be used as written; the message says where and why.
        FileNotFoundError: there is no such file.
        TypeError: an argument is of another type.
    """
    check_path("path", path, "a recipe's YAML file")
    if isinstance(overrides, (str, bytes)) or not isinstance(overrides, Iterable):
        raise TypeError(f"overrides is a list of texts such as ['train.batch_size=32'], not {shown(overrides)}")
    path = Path(path)
    node = with_base(compose(read(path), str(path)), path)
    for assignment in overrides:
        override(node, assignment)
    return build(Recipe, node)


def dump_recipe(recipe: Recipe) -> str:
    """The resolved recipe as YAML, every default written out; `load_recipe` reads the same recipe from it."""
    return _dump(plain(recipe))


def _dump(tree: dict[str, Any]) -> str:
    return yaml.safe_dump(tree, sort_keys=False, allow_unicode=True, width=120)


def is_dump(text: str) -> bool:
    """Whether a text is in the words of `dump_recipe`, also of a version that knew fewer keys or other ones."""
    try:
        tree = yaml.safe_load(text)
        return isinstance(tree, dict) and _dump(tree) == text
    except (yaml.YAMLError, ValueError, RecursionError):
        return False


def differences(old: Recipe, new: Recipe) -> list[str]:
    """`key: old -> new` wherever two recipes train differently; how they are watched, logged, saved is no matter."""
    trees = plain(old), plain(new)
    for tree in trees:
        del tree["expect"], tree["watch"], tree["source"]
    before, after = map(_flat, trees)
    for flat, tree in zip((before, after), trees, strict=True):
        flat["methods"] = list(tree["methods"])  # whose order decides
        for key in ("train.eval_every", "train.checkpoint_every", "train.log_every"):
            del flat[key]
        for key in [key for key in flat if key.endswith("data.workers")]:  # a batch is the same whoever reads it
            del flat[key]
    keys = sorted(before.keys() | after.keys())
    return [f"{key}: {before.get(key)} -> {after.get(key)}" for key in keys if before.get(key) != after.get(key)]


def _flat(tree: dict[str, Any], path: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _flat(value, f"{path}{key}.") if isinstance(value, dict) else {f"{path}{key}": value}
    return flat
