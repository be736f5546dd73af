"""What must fit each other before a training starts: the optimizer and the processes, the model and the data."""

from collections.abc import Mapping

from torch import nn

from zoo.training.optim import check_full_batch
from zoo.training.recipe.recipe import Data, Objective, Recipe
from zoo.training.tasks.base import check_images


def check_optimizer(recipe: Recipe, data: Data, *, rank: int, world: int) -> None:
    """Check that a recipe's optimizer works on its batches, and in so many processes.

    Raises:
        ValueError: It does not.
    """
    if recipe.optim.name == "lbfgs":
        counts = {name: len(splits["train"]) for name, splits in data.items()}
        check_full_batch(recipe.train, counts, rank=rank, world=world)
    if recipe.optim.second_order and world > 1:
        raise ValueError(
            f"{recipe.optim.name} differentiates gradients, which processes cannot share with their graph: start "
            "one process, or set optim.name=adamw"
        )


def check_model(model: nn.Module, objectives: Mapping[str, Objective], data: Data) -> None:
    """Check that a model fits the tasks and their data.

    Raises:
        ValueError: It does not.
    """
    for name, objective in objectives.items():
        split = data[name]["train"]
        if name:
            check_images(model, split, f"model.heads.{name}")  # a head does not know the channels of images
            objective.task.check(model.heads[name], split, f"model.heads.{name}")
        else:
            objective.task.check(model, split)
