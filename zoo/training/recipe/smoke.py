"""A recipe in small, which tries all that it says in seconds, on any machine and without its data: `--smoke`."""

import dataclasses
from typing import Any

from zoo.registry import families, model_info
from zoo.training.data.base import DataSet
from zoo.training.data.picture_set import PictureSet
from zoo.training.data.synthetic import Synthetic
from zoo.training.recipe.recipe import Model, Recipe
from zoo.training.recipe.schema import Duration
from zoo.training.recipe.train import Train
from zoo.training.tasks.base import Task

STEPS = 3
BATCH = 16
WIDTHS = {"dim", "dims"}  # arguments of a model
END, SECOND = Duration(STEPS, "st"), Duration(1, "st")


def smoke_of(recipe: Recipe) -> Recipe:
    """The recipe with the smallest model of its family, pictures of noise for its own, and three steps.

    Task, augmentation, optimizer, schedule, precision and averaging are the recipe's. Data that are in the box stay,
    and so does a model whose width the recipe says itself, since that is small already.
    """
    objectives = {
        name: dataclasses.replace(objective, data=_data(objective.data, objective.task, recipe.model))
        for name, objective in recipe.objectives.items()
    }
    is_changed = any(isinstance(objective.data, Synthetic) for objective in objectives.values())
    alone = objectives.pop("", None)
    warmup = SECOND if recipe.schedule.warmup.count else recipe.schedule.warmup
    metric = recipe.expect.metric.replace("test/", "validation/", 1) if is_changed else recipe.expect.metric
    return dataclasses.replace(
        recipe,
        task=alone and _task(alone.task, is_changed),
        data=alone and alone.data,
        tasks=objectives or None,
        model=_model(recipe.model, is_changed),
        train=_train(recipe.train, is_changed),
        schedule=dataclasses.replace(recipe.schedule, warmup=warmup),
        watch=dataclasses.replace(recipe.watch, trackers=(), report=False),
        expect=dataclasses.replace(recipe.expect, status="untested", value=None, metric=metric),
    )


def _data(data: DataSet, task: Task, model: Model) -> DataSet:
    """Pictures of noise, augmented as those that they stand for, of the size that the small model takes."""
    if not isinstance(data, PictureSet) or isinstance(data, Synthetic):
        return data
    options = {field.name: getattr(data, field.name) for field in dataclasses.fields(PictureSet)}
    sizes = _model(model, True).input
    options |= {"img_size": sizes["img_size"]} if type(sizes.get("img_size")) is int else {}
    return Synthetic(**options | {"workers": 0, "several": task.name == "multilabel"})


def _task(task: Task, is_changed: bool) -> Task:
    """The task, whose weights of classes are of other classes."""
    weights = [name for name in ("class_weights", "pos_weight") if isinstance(getattr(task, name, None), tuple)]
    return dataclasses.replace(task, **dict.fromkeys(weights)) if is_changed and weights else task


def _model(model: Model, is_changed: bool) -> Model:
    """The test variant of the family, of those that there are the one whose name begins most alike.

    Of the arguments it has those by which something is left out at random; the others are of another size. Where the
    data stay, so does what they ask for, and so does a variant for digits.
    """
    try:
        info = model_info(model.name)
    except ValueError:  # of timm's, or a folder
        return model
    family = families()[info.family]
    tests = [name for name in family.variants if name.endswith("_test")]
    is_small = model.name.endswith(("_test", "_digits")) or WIDTHS & model.kwargs.keys()
    if not tests or not family.model.vision or is_small and not is_changed:
        return model
    name = max(tests, key=lambda test: _common(test, model.name))
    asked = {"in_chans"} if is_changed else {"in_chans", "img_size", "num_classes"}
    own = {key: info.arguments[key] for key in ("in_chans",) if key in info.arguments}
    kept = {key: value for key, value in {**own, **model.kwargs}.items() if "drop" in key or key in asked}
    return dataclasses.replace(model, name=name, kwargs=kept)


def _common(one: str, other: str) -> int:
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _train(train: Train, is_changed: bool) -> Train:
    changes: dict[str, Any] = {"duration": END, "eval_every": END, "checkpoint_every": END, "log_every": SECOND}
    changes |= {"phases": dict.fromkeys(train.phases, SECOND), "compile": False}
    if is_changed:
        changes |= {"batch_size": BATCH, "accumulate": min(train.accumulate, 2)}
    if train.drop_path is not None:
        changes["drop_path"] = dataclasses.replace(train.drop_path, begin=Duration(0, "st"), end=END)
    return dataclasses.replace(train, **changes)
