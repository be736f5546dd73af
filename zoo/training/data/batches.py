"""Batches that are a pure function of the recipe's seed and the step.

Nothing here keeps a position: the batch of a step is computed from the seed and the step alone, so a resumed run sees
the images, in the order and with the augmentation, that the uninterrupted run would have seen.
"""

import contextlib
import itertools
from collections.abc import Hashable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from zoo.training.data.splits import Split
from zoo.training.data.workers import outlive_first_sigterm
from zoo.training.seeds import AUGMENT, CORRUPT, EVALUATE, ORDER, derive_seed, generator
from zoo.training.tasks.base import Task

Batch = Sequence[Tensor]  # inputs and targets; of a batch in several parts, those of one after the other


def parts_of(batch: Batch) -> list[tuple[Tensor, Tensor]]:
    """The pairs of inputs and targets that a batch consists of."""
    return list(zip(batch[::2], batch[1::2], strict=True))


class TrainingBatches(Dataset):
    """Batch number `step` of training as item `step`: reshuffled every epoch, the last partial batch dropped.

    Of a split with `repeats` each image comes so often in a row, augmented anew and in different processes where there
    are several, and an epoch is as long with so many fewer images (repeated augmentation; Hoffer et al.,
    arXiv:1901.09335).

    `batch_size` is that of the whole run: each of `world` processes gets its share of the same batch, so the order of
    the data does not depend on how many there are.

    Args:
        accumulate: Number of parts that a process's share of a batch comes in. An item has inputs and targets of one
            after the other, which are the batches of so many times more processes. Where pictures are left out, a part
            of which nothing remains is left out too.
    """

    def __init__(
        self,
        split: Split,
        task: Task,
        *,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
        accumulate: int = 1,
    ):
        parts = world * accumulate
        if batch_size > len(split) or batch_size % parts:
            most = f"at most the number of the training images, {len(split)}"
            if parts == 1:
                raise ValueError(f"train.batch_size is {batch_size}, but must be {most}; set it lower")
            each = "" if accumulate == 1 else f", times the {accumulate} parts that each takes it in"
            raise ValueError(
                f"train.batch_size is {batch_size}; it is that of all processes together, so it must be a multiple of "
                f"their number, {world}{each}, and {most}"
            )
        if task.pairs_images and batch_size // parts % 2:
            raise ValueError(
                f"train.batch_size is {batch_size}, of which {parts} parts have {batch_size // parts} images each; "
                f"Mixup and CutMix take images in pairs: set it to a multiple of {2 * parts}, or mixup=0 and cutmix=0"
            )
        self.split, self.task, self.batch_size = split, task, batch_size
        self.seed, self.rank, self.world = seed, rank, world
        self.accumulate = accumulate
        self.steps_per_epoch = len(split) // batch_size
        self._shuffled: tuple[int, Tensor] | None = None  # the latest epoch and its order

    @property
    def share(self) -> int:
        """How many images of a batch are this process's; of a split that skips what cannot be read, fewer may come."""
        return self.batch_size // self.world

    def __getitem__(self, step: int) -> tuple[Tensor, ...]:
        first = self.rank * self.accumulate
        parts = [self._part(step, number) for number in range(first, first + self.accumulate)]
        parts = [part for part in parts if len(part[0])]
        if not parts:
            raise ValueError(f"none of the pictures of step {step + 1} can be read: repair or remove them")
        return tuple(itertools.chain(*parts))

    def _part(self, step: int, number: int) -> tuple[Tensor, Tensor]:
        """One of the parts of a batch: of each process, or of each of its turns."""
        indices = self._batch(step)[number :: self.world * self.accumulate].tolist()
        images, labels, readable = self.split.fetch_readable(indices, derive_seed(self.seed, AUGMENT, step, number))
        if not readable.all():
            images, labels = images[readable], labels[readable]
            if not len(images):
                return images, labels
        rng = generator(self.seed, CORRUPT, step, number)
        inputs, targets = self.task.example(images, labels, rng)
        return self.task.mix(inputs, targets, self.split.num_classes, rng)

    def _batch(self, step: int) -> Tensor:
        """The numbers of the images of a whole batch."""
        epoch, position = divmod(step, self.steps_per_epoch)
        if self._shuffled is None or self._shuffled[0] != epoch:
            order = torch.randperm(len(self.split), generator=generator(self.seed, ORDER, epoch))
            self._shuffled = epoch, order.repeat_interleave(getattr(self.split, "repeats", 1))[: len(order)]
        return self._shuffled[1][position * self.batch_size : (position + 1) * self.batch_size]


class EvaluationBatches(Dataset):
    """A split in its own order, as (inputs, targets, counts); what a task draws at random is fixed for every image.

    Each of `world` processes gets equally many images; those that only fill up have 0 in `counts` (the others 1), and
    so have those that stand for pictures which cannot be read.
    """

    def __init__(self, split: Split, task: Task, *, batch_size: int, seed: int, rank: int = 0, world: int = 1):
        self.split, self.task, self.batch_size, self.seed = split, task, batch_size, seed
        self.indices = list(range(rank, -(-len(split) // world) * world, world))

    @property
    def identity(self) -> Hashable:
        """What is the same of two that fetch the same, as long as the split is there."""
        return id(self.split), self.task, self.batch_size, self.seed, *self.indices[:2], len(self.indices)

    def __len__(self) -> int:
        return -(-len(self.indices) // self.batch_size)

    def numbers(self, number: int) -> list[int]:
        """Which images a batch has; what fills up has numbers that no image of the split has."""
        return self.indices[number * self.batch_size : (number + 1) * self.batch_size]

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor, Tensor]:
        indices = self.numbers(number)
        images, labels, readable = self.split.fetch_readable(
            [min(index, len(self.split) - 1) for index in indices], None
        )
        if type(self.task).example is Task.example:
            inputs, targets = images, labels
        else:
            examples = [
                self.task.example(image, label, generator(self.seed, EVALUATE, index))
                for image, label, index in zip(images.split(1), labels.split(1), indices, strict=True)
            ]
            inputs, targets = (torch.cat(parts) for parts in zip(*examples, strict=True))
        counts = torch.tensor([float(index < len(self.split)) for index in indices])
        return inputs, targets, counts * readable


def loader(batches: Dataset, numbers: range) -> Iterator[tuple[Tensor, ...]]:
    """The batches of these numbers, fetched ahead by the data set's worker processes, or by this one if it has none.

    Raises:
        ValueError: what a worker raised, in its words alone: torch would add where in the worker that was.
    """
    with _fetching(batches, numbers) as fetched:
        for batch in fetched:
            if isinstance(batch, _Problem):
                raise ValueError(batch.text)
            yield batch


@contextlib.contextmanager
def waiting_workers() -> Iterator[None]:
    """Within it, the processes that fetch for one evaluation wait for the next of the same data, and end with it.

    Who owns them is said by a context, and not by the data: where a cycle of objects is what keeps them, torch waits
    five seconds for each before it ends it.
    """
    token = _idle.set({})
    try:
        yield
    finally:
        _idle.get().clear()
        _idle.reset(token)


# Loaders whose processes wait, by what they fetch; None: they end with their evaluation.
_idle: ContextVar[dict[Hashable, DataLoader] | None] = ContextVar("_idle", default=None)


@contextlib.contextmanager
def _fetching(batches: Dataset, numbers: range) -> Iterator[DataLoader]:
    pin = torch.cuda.is_available()  # what makes the copy to a GPU run beside its work
    options = {"batch_size": None, "sampler": numbers, "num_workers": batches.split.workers, "pin_memory": pin}
    options["worker_init_fn"] = outlive_first_sigterm
    idle = _idle.get()
    if idle is None or not batches.split.workers or not isinstance(batches, EvaluationBatches):
        yield DataLoader(_Carrying(batches), **options)
        return
    kind = batches.identity, numbers
    fetched = idle.pop(kind, None) or DataLoader(_Carrying(batches), persistent_workers=True, **options)
    yield fetched
    if (idle := _idle.get()) is not None:  # and after an error it is not kept
        idle[kind] = fetched


@dataclass(frozen=True)
class _Problem:
    """A ValueError on its way out of a worker process."""

    text: str


class _Carrying(Dataset):
    """Batches, with a `_Problem` in the place of one that raises a ValueError."""

    def __init__(self, batches: Dataset):
        self.batches = batches

    def __getitem__(self, number: int) -> tuple[Tensor, ...] | _Problem:
        try:
            return self.batches[number]
        except ValueError as error:
            return _Problem(str(error))
