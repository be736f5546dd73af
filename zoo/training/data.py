"""Data sets by name, and batches that are a pure function of the recipe's seed and the step.

A data set is a dataclass: its `name` and fields are what a recipe's `data:` section may say, and `load()` gives its
splits as `{"train": Split, "validation": Split, "test": Split}` (the last may be absent). To add one, write the class
and put it into the union `Data`; nothing else is edited.

Nothing here keeps a position: the batch of a step is computed from the seed and the step alone, so a resumed run sees
the images, in the order and with the augmentation, that the uninterrupted run would have seen.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, create_dataset, create_transform
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from zoo.training.digits import DigitCanvas, Digits
from zoo.training.formulas import Formulas
from zoo.training.seeds import AUGMENT, CORRUPT, EVALUATE, ORDER, derive_seed, generator, seeded_globals
from zoo.training.splits import Split
from zoo.training.tasks import Task


class FolderSplit:
    """A timm image dataset whose transform draws from random, numpy and torch, seeded for every single image."""

    kind = "image"

    def __init__(self, dataset: Any, *, num_classes: int, workers: int):
        self.dataset, self.num_classes, self.workers = dataset, num_classes, workers

    def __len__(self) -> int:
        return len(self.dataset)

    def fetch(self, indices: list[int], seed: int | None) -> tuple[Tensor, Tensor]:
        samples = []
        for index in indices:
            with seeded_globals(derive_seed(seed or 0, index)):
                samples.append(self.dataset[index])
        return torch.stack([image for image, _ in samples]), torch.tensor([label for _, label in samples])


@dataclass(frozen=True)
class ImageFolder:
    """A folder `root/{train,validation,test}/<class>/<image>`, read, augmented and normalised by timm.

    The classes are the folders of `train`; `val` is taken for `validation`, and `test` may be absent. The options are
    those of `timm.data.create_transform`, under its names.
    """

    name: ClassVar[str] = "image_folder"
    root: str
    img_size: int = 224
    crop_pct: float = 0.875
    interpolation: str = "bicubic"
    mean: tuple[float, float, float] = IMAGENET_DEFAULT_MEAN
    std: tuple[float, float, float] = IMAGENET_DEFAULT_STD
    hflip: float = 0.5
    color_jitter: float = 0.4
    auto_augment: str | None = None
    re_prob: float = 0.0
    workers: int = 4

    def load(self) -> dict[str, Split]:
        root = Path(self.root)
        names = {"train": "train", "validation": "val" if (root / "val").is_dir() else "validation", "test": "test"}
        classes = sorted(folder.name for folder in (root / "train").glob("*") if folder.is_dir())
        if not classes or not (root / names["validation"]).is_dir():
            raise FileNotFoundError(f"data.root {self.root!r} must hold train/<class>/ and validation/<class>/ folders")
        class_map = {name: index for index, name in enumerate(classes)}
        shared = {"interpolation": self.interpolation, "mean": self.mean, "std": self.std}
        augment = {name: getattr(self, name) for name in ("hflip", "color_jitter", "auto_augment", "re_prob")}
        splits: dict[str, Split] = {}
        for part, folder in names.items():
            if (root / folder).is_dir():
                unknown = {path.name for path in (root / folder).glob("*") if path.is_dir()} - set(classes)
                if unknown:
                    raise ValueError(f"{root / folder} has classes that {root / 'train'} has not: {sorted(unknown)}")
                dataset = create_dataset("", str(root / folder), search_split=False, class_map=class_map)
                options = {"is_training": True} | augment if part == "train" else {"crop_pct": self.crop_pct}
                dataset.transform = create_transform(self.img_size, **shared, **options)
                splits[part] = FolderSplit(dataset, num_classes=len(classes), workers=self.workers)
        return splits


Data = Digits | DigitCanvas | ImageFolder | Formulas


class TrainingBatches(Dataset):
    """Batch number `step` of training as item `step`: reshuffled every epoch, the last partial batch dropped.

    `batch_size` is that of the whole run: each of `world` processes gets its share of the same batch, so the order of
    the data does not depend on how many there are.
    """

    def __init__(self, split: Split, task: Task, *, batch_size: int, seed: int, rank: int = 0, world: int = 1):
        if batch_size > len(split) or batch_size % world:
            raise ValueError(
                f"train.batch_size is {batch_size}; it is that of all processes together, so it must be a multiple of "
                f"their number, {world}, and at most that of the training images, {len(split)}"
            )
        self.split, self.task, self.batch_size = split, task, batch_size
        self.seed, self.rank, self.world = seed, rank, world
        self.steps_per_epoch = len(split) // batch_size
        self._shuffled: tuple[int, Tensor] | None = None  # the latest epoch and its order

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor]:
        epoch, position = divmod(step, self.steps_per_epoch)
        if self._shuffled is None or self._shuffled[0] != epoch:
            self._shuffled = epoch, torch.randperm(len(self.split), generator=generator(self.seed, ORDER, epoch))
        batch = self._shuffled[1][position * self.batch_size : (position + 1) * self.batch_size]
        images, labels = self.split.fetch(
            batch[self.rank :: self.world].tolist(), derive_seed(self.seed, AUGMENT, step, self.rank)
        )
        return self.task.example(images, labels, generator(self.seed, CORRUPT, step, self.rank))


class EvaluationBatches(Dataset):
    """A split in its own order, as (inputs, targets, counts); what a task draws at random is fixed for every image.

    Each of `world` processes gets equally many images; those that only fill up have 0 in `counts` (the others 1).
    """

    def __init__(self, split: Split, task: Task, *, batch_size: int, seed: int, rank: int = 0, world: int = 1):
        self.split, self.task, self.batch_size, self.seed = split, task, batch_size, seed
        self.indices = list(range(rank, -(-len(split) // world) * world, world))

    def __len__(self) -> int:
        return -(-len(self.indices) // self.batch_size)

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor, Tensor]:
        indices = self.indices[number * self.batch_size : (number + 1) * self.batch_size]
        images, labels = self.split.fetch([min(index, len(self.split) - 1) for index in indices], None)
        examples = [
            self.task.example(images[i : i + 1], labels[i : i + 1], generator(self.seed, EVALUATE, index))
            for i, index in enumerate(indices)
        ]
        inputs, targets = (torch.cat(parts) for parts in zip(*examples, strict=True))
        return inputs, targets, torch.tensor([float(index < len(self.split)) for index in indices])


def loader(batches: Dataset, numbers: range) -> DataLoader:
    """The batches of these numbers, fetched ahead by the data set's worker processes, or by this one if it has none."""
    pin = torch.cuda.is_available()  # what makes the copy to a GPU run beside its work
    return DataLoader(batches, batch_size=None, sampler=numbers, num_workers=batches.split.workers, pin_memory=pin)
