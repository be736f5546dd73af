"""The batches of several tasks, in turn."""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.utils.data import Dataset

from zoo.training.data.batches import TrainingBatches
from zoo.training.data.splits import Split
from zoo.training.recipe.recipe import Objective
from zoo.training.recipe.train import Train
from zoo.training.seeds import TASK, TURN, derive_seed, generator


class AlternatingBatches(Dataset):
    """Batch number `step` of training as item `step`: as many steps as there are tasks bring a batch of each.

    The order of the tasks is drawn anew for every such round, from the seed and the number of the round. An epoch is as
    long as the task with the most batches needs to see its data once; another begins its own anew.

    Args:
        parts: The batches of each task by its name.
        seed: Of the order.
    """

    def __init__(self, parts: Mapping[str, TrainingBatches], *, seed: int):
        self.parts, self.seed = dict(parts), seed
        self.steps_per_epoch = len(self.parts) * max(part.steps_per_epoch for part in self.parts.values())

    def name(self, step: int) -> str:
        """The task of a step."""
        names = list(self.parts)
        if len(names) == 1:
            return names[0]
        number, place = divmod(step, len(names))
        return names[torch.randperm(len(names), generator=generator(self.seed, TURN, number))[place]]

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor]:
        return self.parts[self.name(step)][step // len(self.parts)]

    @property
    def split(self) -> Split:
        """The data that asks for the most worker processes, which the loader gives to all."""
        return max((part.split for part in self.parts.values()), key=lambda split: split.workers)


def training_batches(
    objectives: Mapping[str, Objective], data: Mapping[str, Mapping[str, Split]], train: Train, rank: int, world: int
) -> AlternatingBatches:
    """The batches of a recipe's tasks in turn; those of a task among several have a seed of their own.

    Args:
        objectives: The tasks by their names.
        data: The splits of each.
        train: How the recipe trains.
        rank, world: Of the processes.
    """
    parts = {
        name: TrainingBatches(
            data[name]["train"],
            objective.task,
            batch_size=train.batch_size,
            seed=derive_seed(train.seed, TASK, number) if name else train.seed,
            rank=rank,
            world=world,
            accumulate=train.accumulate,
        )
        for number, (name, objective) in enumerate(objectives.items())
    }
    return AlternatingBatches(parts, seed=train.seed)
