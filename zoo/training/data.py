"""Data sets by name, and batches that are a pure function of the recipe's seed and the step.

A data set is a dataclass: its `name` and fields are what a recipe's `data:` section may say, and `load()` gives its
splits as `{"train": Split, "validation": Split, "test": Split}` (the last may be absent). To add one, write the class
and put it into the union `Data`; nothing else is edited.

Nothing here keeps a position: the batch of a step is computed from the seed and the step alone, so a resumed run sees
the images, in the order and with the augmentation, that the uninterrupted run would have seen.
"""

import dataclasses
import functools
import itertools
import os
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import torch
from PIL import Image, ImageOps
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, MaybeToTensor, create_transform
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from zoo.checks import Interval, printable, shown, some
from zoo.training.digits import DigitCanvas, Digits
from zoo.training.formulas import Formulas
from zoo.training.pictures import check_links, class_folders, find_pictures, read_picture
from zoo.training.schema import Misfit, Section, Share
from zoo.training.seeds import AUGMENT, CORRUPT, EVALUATE, ORDER, derive_seed, generator, seeded_globals
from zoo.training.splits import Split
from zoo.training.tasks import Task


class FolderSplit(Split):
    """Pictures in files, whose transform draws from random, numpy and torch, seeded for every single picture.

    With a `blank` one, `fetch_readable` has that in the place of a picture that cannot be read, and says so.
    """

    kind = "image"

    def __init__(
        self,
        samples: list[tuple[str, int]],
        read: Callable[[str], Image.Image | Tensor],
        transform: Callable[[Image.Image | Tensor], Tensor],
        *,
        num_classes: int,
        workers: int,
        blank: Image.Image | None = None,
    ):
        self.samples, self.read, self.transform, self.blank = samples, read, transform, blank
        self.num_classes, self.workers, self.skip = num_classes, workers, blank is not None

    def __len__(self) -> int:
        return len(self.samples)

    def fetch(self, indices: list[int], seed: int | None) -> tuple[Tensor, Tensor]:
        return self.fetch_readable(indices, seed)[:2]

    def fetch_readable(self, indices: list[int], seed: int | None) -> tuple[Tensor, Tensor, Tensor]:
        images, readable = [], []
        for index in indices:
            try:
                image = self.read(self.samples[index][0])
            except ValueError as error:
                if not self.skip:
                    raise
                warnings.warn(f"{error}; it is left out, since data.unreadable is skip", stacklevel=2)
                image = None
            readable.append(image is not None)
            with seeded_globals(derive_seed(seed or 0, index)):
                images.append(self.transform(self.blank if image is None else image))
        labels = torch.tensor([self.samples[index][1] for index in indices])
        return torch.stack(images), labels, torch.tensor(readable)


@dataclass(frozen=True)
class ImageFolder(Section):
    """A folder `root/{train,validation,test}/<class>/**/<picture>`, augmented and normalised by timm.

    The classes are the folders of `train`; `val` is taken for `validation`, and `test` may be absent. The options are
    those of `timm.data.create_transform`, under its names.

    Pictures are read as grey if `in_chans` is 1, and as RGB if it is 3; a recipe that does not say takes as many as
    `mean` and `std` have numbers, or else `model.kwargs.in_chans`. `mean` and `std` have a number a channel: ImageNet's
    for RGB, and for grey the average of these three. What `zoo.training.pictures.read_picture` says of deep and
    of large pictures holds; deep ones keep more than 8 bits unless `auto_augment` is set, or an `interpolation` that
    only PIL has.
    """

    name: ClassVar[str] = "image_folder"
    measured_on: ClassVar[tuple[str, ...]] = ("test", "validation")
    root: str  # the folder
    img_size: Annotated[int, Interval(1, 8192)] = 224  # pixels of the side
    # Channels that a picture is read with; null: as many as mean and std have numbers, or as the model takes.
    in_chans: Literal[1, 3] | None = None
    crop_pct: Annotated[float, Interval(above=0, most=1)] = 0.875  # share of the side that is measured on
    # By which pictures are resized.
    interpolation: Literal["nearest", "bilinear", "bicubic", "box", "hamming", "lanczos"] = "bicubic"
    mean: tuple[Annotated[float, Interval(-1000, 1000)], ...] | None = None  # subtracted from pixels in [0, 1]
    std: tuple[Annotated[float, Interval(1e-6, 1000)], ...] | None = None  # what they are divided by then
    hflip: Share = 0.5  # probability of a picture to be mirrored
    color_jitter: Annotated[float, Interval(0, 10)] = 0.4  # largest change of its colours, by a factor
    auto_augment: str | None = None  # a policy as timm writes it, such as rand-m9-mstd0.5
    re_prob: Share = 0.0  # probability of a part of it to be erased
    workers: Annotated[int, Interval(0, 256)] = 4  # processes that read pictures
    unreadable: Literal["error", "skip"] = "error"  # skip: such pictures are left out, and the metrics count them

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_policy()
        if any(len(os.fsencode(part)) > 255 for part in Path(self.root).parts) or len(os.fsencode(self.root)) > 4000:
            raise Misfit(f"root is {shown(self.root)}; no path is so long: name a folder", "root")
        given = {name: len(getattr(self, name)) for name in ("mean", "std") if getattr(self, name) is not None}
        in_chans = next(iter(given.values()), None) if self.in_chans is None else self.in_chans
        if in_chans is None:
            return  # left to the model of the recipe
        if in_chans not in (1, 3):
            first = next(iter(given))
            raise Misfit(f"{first} has {in_chans} numbers: it must have 1 (grey) or 3 (RGB)", first)
        for name, count in given.items():
            if count != in_chans:
                raise Misfit(f"{name} has {count} numbers, in_chans is {in_chans}: give a number a channel", name)
        object.__setattr__(self, "in_chans", in_chans)
        for name, published in (("mean", IMAGENET_DEFAULT_MEAN), ("std", IMAGENET_DEFAULT_STD)):
            if name not in given:
                values = published if in_chans == 3 else (round(sum(published) / 3, 4),)
                object.__setattr__(self, name, values)

    def _check_policy(self) -> None:
        """Check that timm takes the policy, and that what it asks for (layers, copies) can be done for a picture."""
        if self.auto_augment is None:
            return
        try:
            if any(float(number) > 1000 for number in re.findall(r"[\d.]+", self.auto_augment.replace("_", ""))):
                raise ValueError("it has a number above 1000")
            create_transform(8, is_training=True, auto_augment=self.auto_augment)
        except Exception as error:  # timm's assertions, among others
            raise Misfit(
                f"auto_augment is {shown(self.auto_augment)}, which cannot be had ({printable(error, 200)}): give one "
                "such as rand-m9-mstd0.5, augmix-m5-w4, original or 3a",
                "auto_augment",
            ) from error

    def with_channels_of(self, model: Mapping[str, Any]) -> "ImageFolder":
        """The same with what is left open about channels taken from the arguments of a model."""
        in_chans = model.get("in_chans", 3)
        return dataclasses.replace(self, in_chans=in_chans) if self.in_chans is None and in_chans in (1, 3) else self

    def load(self) -> dict[str, Split]:
        if self.in_chans is None:
            return dataclasses.replace(self, in_chans=3).load()
        folders = self._folders()
        classes = class_folders(folders["train"])
        class_map = {name: index for index, name in enumerate(classes)}
        for folder in folders.values():
            if unknown := set(class_folders(folder)) - set(classes):
                train = printable(folders["train"], 500)
                raise ValueError(f"{printable(folder, 500)} has classes that {train} has not: {some(sorted(unknown))}")
        samples = {part: find_pictures(folder, class_map) for part, folder in folders.items()}
        found = {label for _, label in samples["train"]}
        if empty := [name for name, label in class_map.items() if label not in found]:
            train = printable(folders["train"], 500)
            raise ValueError(f"{train} has classes without a picture: {some(empty)}; fill them or remove them")
        for part, folder in folders.items():
            if not samples[part]:
                raise ValueError(f"{printable(folder)} has no picture in its class folders: fill it or remove it")
        check_links(samples)
        deep = self.auto_augment is None and self.interpolation in ("nearest", "bilinear", "bicubic")
        read = functools.partial(read_picture, in_chans=self.in_chans, deep=deep)
        blank = Image.new("L" if self.in_chans == 1 else "RGB", (self.img_size, self.img_size))
        kept = {"num_classes": len(classes), "workers": self.workers}
        kept["blank"] = blank if self.unreadable == "skip" else None
        return {part: FolderSplit(samples[part], read, self._transform(part), **kept) for part in samples}

    def _folders(self) -> dict[str, Path]:
        root = Path(self.root)
        if (root / "val").is_dir() and (root / "validation").is_dir():
            raise ValueError(
                f"data.root {shown(self.root)} holds both val/ and validation/: remove or rename one of them"
            )
        names = {"train": "train", "validation": "val" if (root / "val").is_dir() else "validation", "test": "test"}
        folders = {part: root / name for part, name in names.items() if (root / name).is_dir()}
        if not {"train", "validation"} <= folders.keys() or not class_folders(folders["train"]):
            raise FileNotFoundError(
                f"data.root {shown(self.root)} must hold train/<class>/ and validation/<class>/ folders"
            )
        return folders

    def _transform(self, part: str) -> Callable[[Image.Image | Tensor], Tensor]:
        """timm's, of 8-bit pictures and of tensors in [0, 1]; these leave the range where bicubic curves overshoot."""
        augment = {name: getattr(self, name) for name in ("hflip", "color_jitter", "auto_augment", "re_prob")}
        options = {"is_training": True} | augment if part == "train" else {"crop_pct": self.crop_pct}
        transform = create_transform(
            self.img_size, interpolation=self.interpolation, mean=self.mean, std=self.std, **options
        )
        first = next(i for i, step in enumerate(transform.transforms) if isinstance(step, MaybeToTensor))
        transform.transforms.insert(first, _within_range)
        for step in transform.transforms:
            _keep_a_bit(step)
        return transform


def _within_range(image: Image.Image | Tensor) -> Image.Image | Tensor:
    return image.clamp(0, 1) if isinstance(image, Tensor) else image


def _keep_a_bit(step: Any) -> None:
    """Let timm's policies keep one bit where they would keep none.

    They ask for that now and then (``rand-m9-mstd0.5-inc1`` once in a thousand pictures), which older versions of
    Pillow answered with a black picture; the newer refuse it, and the run would end there.
    """
    for operation in [*getattr(step, "ops", ()), *itertools.chain(*getattr(step, "policy", ()))]:
        if operation.name.startswith("Posterize"):
            operation.aug_fn = _posterize


def _posterize(image: Image.Image, bits: int, **_) -> Image.Image:
    return ImageOps.posterize(image, min(max(bits, 1), 8))


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

    @property
    def share(self) -> int:
        """How many images of a batch are this process's; of a split that skips what cannot be read, fewer may come."""
        return self.batch_size // self.world

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor]:
        epoch, position = divmod(step, self.steps_per_epoch)
        if self._shuffled is None or self._shuffled[0] != epoch:
            self._shuffled = epoch, torch.randperm(len(self.split), generator=generator(self.seed, ORDER, epoch))
        batch = self._shuffled[1][position * self.batch_size : (position + 1) * self.batch_size]
        images, labels, readable = self.split.fetch_readable(
            batch[self.rank :: self.world].tolist(), derive_seed(self.seed, AUGMENT, step, self.rank)
        )
        if not readable.all():
            images, labels = images[readable], labels[readable]
            if not len(images):
                raise ValueError(f"none of the pictures of step {step + 1} can be read: repair or remove them")
        return self.task.example(images, labels, generator(self.seed, CORRUPT, step, self.rank))


class EvaluationBatches(Dataset):
    """A split in its own order, as (inputs, targets, counts); what a task draws at random is fixed for every image.

    Each of `world` processes gets equally many images; those that only fill up have 0 in `counts` (the others 1), and
    so have those that stand for pictures which cannot be read.
    """

    def __init__(self, split: Split, task: Task, *, batch_size: int, seed: int, rank: int = 0, world: int = 1):
        self.split, self.task, self.batch_size, self.seed = split, task, batch_size, seed
        self.indices = list(range(rank, -(-len(split) // world) * world, world))

    def __len__(self) -> int:
        return -(-len(self.indices) // self.batch_size)

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor, Tensor]:
        indices = self.indices[number * self.batch_size : (number + 1) * self.batch_size]
        images, labels, readable = self.split.fetch_readable(
            [min(index, len(self.split) - 1) for index in indices], None
        )
        examples = [
            self.task.example(images[i : i + 1], labels[i : i + 1], generator(self.seed, EVALUATE, index))
            for i, index in enumerate(indices)
        ]
        inputs, targets = (torch.cat(parts) for parts in zip(*examples, strict=True))
        counts = torch.tensor([float(index < len(self.split)) for index in indices])
        return inputs, targets, counts * readable


def loader(batches: Dataset, numbers: range) -> Iterator[tuple[Tensor, ...]]:
    """The batches of these numbers, fetched ahead by the data set's worker processes, or by this one if it has none.

    Raises:
        ValueError: what a worker raised, in its words alone: torch would add where in the worker that was.
    """
    pin = torch.cuda.is_available()  # what makes the copy to a GPU run beside its work
    options = {"batch_size": None, "sampler": numbers, "num_workers": batches.split.workers, "pin_memory": pin}
    for batch in DataLoader(_Carrying(batches), **options):
        if isinstance(batch, _Problem):
            raise ValueError(batch.text)
        yield batch


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
