"""Pictures in folders, a folder a class."""

import dataclasses
import functools
import itertools
import os
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import torch
from PIL import Image, ImageOps
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, MaybeToTensor, create_transform
from torch import Tensor

from zoo.checks import Interval, printable, shown, some
from zoo.training.data.base import DataSet
from zoo.training.data.pictures import check_links, class_folders, find_pictures, read_picture
from zoo.training.data.splits import Split
from zoo.training.recipe.schema import Share
from zoo.training.recipe.section import Misfit
from zoo.training.seeds import derive_seed, seeded_globals


@dataclass(eq=False)
class FolderSplit(Split):
    """Pictures in files, whose transform draws from random, numpy and torch, seeded for every single picture.

    With a `blank` one, `fetch_readable` has that in the place of a picture that cannot be read, and says so.
    """

    kind: ClassVar = "image"
    samples: list[tuple[str, int]]
    read: Callable[[str], Image.Image | Tensor]
    transform: Callable[[Image.Image | Tensor], Tensor]
    _: KW_ONLY
    num_classes: int
    workers: int
    blank: Image.Image | None = None

    def __post_init__(self):
        self.skip = self.blank is not None

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
class ImageFolder(DataSet):
    """A folder `root/{train,validation,test}/<class>/**/<picture>`, augmented and normalised by timm.

    The classes are the folders of `train`; `val` is taken for `validation`, and `test` may be absent. The options are
    those of `timm.data.create_transform`, under its names.

    Pictures are read as grey if `in_chans` is 1, and as RGB if it is 3; a recipe that does not say takes as many as
    `mean` and `std` have numbers, or else `model.kwargs.in_chans`. `mean` and `std` have a number a channel: ImageNet's
    for RGB, and for grey the average of these three. What `zoo.training.data.pictures.read_picture` says of deep and
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
        counts = {name: len(getattr(self, name)) for name in ("mean", "std") if getattr(self, name) is not None}
        in_chans = next(iter(counts.values()), None) if self.in_chans is None else self.in_chans
        if in_chans is None:
            return  # left to the model of the recipe
        if in_chans not in (1, 3):
            first = next(iter(counts))
            raise Misfit(f"{first} has {in_chans} numbers: it must have 1 (grey) or 3 (RGB)", first)
        for name, count in counts.items():
            if count != in_chans:
                raise Misfit(f"{name} has {count} numbers, in_chans is {in_chans}: give a number a channel", name)
        object.__setattr__(self, "in_chans", in_chans)
        for name, published in (("mean", IMAGENET_DEFAULT_MEAN), ("std", IMAGENET_DEFAULT_STD)):
            if name not in counts:
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
        filled = {label for _, label in samples["train"]}
        if empty := [name for name, label in class_map.items() if label not in filled]:
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
        # timm's policies keep one bit where they would keep none. They ask for that now and then (in
        # ``rand-m9-mstd0.5-inc1`` once in a thousand pictures), which older versions of Pillow answered with a black
        # picture; the newer refuse it, and the run would end there.
        for step in transform.transforms:
            for operation in [*getattr(step, "ops", ()), *itertools.chain(*getattr(step, "policy", ()))]:
                if operation.name.startswith("Posterize"):
                    operation.aug_fn = _posterize
        return transform


def _within_range(image: Image.Image | Tensor) -> Image.Image | Tensor:
    return image.clamp(0, 1) if isinstance(image, Tensor) else image


def _posterize(image: Image.Image, bits: int, **_) -> Image.Image:
    return ImageOps.posterize(image, min(max(bits, 1), 8))
