"""What all data sets of pictures have in common: how a picture is read, augmented and normalised, and by whom."""

import dataclasses
import itertools
import os
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from PIL import Image, ImageOps
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, MaybeToTensor, create_transform
from torch import Tensor

from zoo.checks import Interval, printable, shown, some
from zoo.training.data.base import DataSet
from zoo.training.data.hold_out import hold_out
from zoo.training.data.picture_split import Part, PictureSplit
from zoo.training.data.workers import worker_count
from zoo.training.recipe.schema import Seed, Share
from zoo.training.recipe.section import Misfit

USUAL_SIZE = 224
AUGMENTATIONS = ("scale", "ratio", "hflip", "vflip", "color_jitter", "grayscale_prob", "gaussian_blur_prob")
AUGMENTATIONS += ("auto_augment", "re_prob", "re_mode", "re_count")


@dataclass(frozen=True, kw_only=True)
class PictureSet(DataSet):
    """Base of the data sets of pictures, which are augmented and normalised by timm.

    The options are those of `timm.data.create_transform`, under its names.

    Pictures are read as grey if `in_chans` is 1, and as RGB if it is 3; a recipe that does not say takes as many as
    `mean` and `std` have numbers, or else `model.kwargs.in_chans`. `mean` and `std` have a number a channel: ImageNet's
    for RGB, and for grey the average of these three. What `zoo.training.data.pictures.read_picture` says of deep and
    of large pictures holds; deep ones keep more than 8 bits unless `auto_augment` is set, or an `interpolation` that
    only PIL has.

    A kind defines `load`, which ends in `splits`; what of its fields is a path is named in `paths`.
    """

    measured_on: ClassVar[tuple[str, ...]] = ("test", "validation")
    paths: ClassVar[tuple[str, ...]] = ()
    img_size: Annotated[int, Interval(1, 8192)] | None = None  # pixels of the side; null: as the model takes, or 224
    # Channels that a picture is read with; null: as many as mean and std have numbers, or as the model takes.
    in_chans: Literal[1, 3] | None = None
    crop_pct: Annotated[float, Interval(above=0, most=1)] = 0.875  # share of the side that is measured on
    # By which pictures are resized.
    interpolation: Literal["nearest", "bilinear", "bicubic", "box", "hamming", "lanczos"] = "bicubic"
    mean: tuple[Annotated[float, Interval(-1000, 1000)], ...] | None = None  # subtracted from pixels in [0, 1]
    std: tuple[Annotated[float, Interval(1e-6, 1000)], ...] | None = None  # what they are divided by then
    # Least and largest share of a training picture's area that is cut out; null: 0.08 to 1.
    scale: tuple[Annotated[float, Interval(above=0, most=1)], Annotated[float, Interval(above=0, most=1)]] | None = None
    # Least and largest ratio of width to height of what is cut out; null: 3/4 to 4/3.
    ratio: tuple[Annotated[float, Interval(0.01, 100)], Annotated[float, Interval(0.01, 100)]] | None = None
    hflip: Share = 0.5  # probability of a picture to be mirrored
    vflip: Share = 0.0  # probability of it to be turned upside down
    color_jitter: Annotated[float, Interval(0, 10)] = 0.4  # largest change of its colours, by a factor
    grayscale_prob: Share = 0.0  # probability of it to lose its colours
    gaussian_blur_prob: Share = 0.0  # probability of it to be blurred
    auto_augment: str | None = None  # a policy as timm writes it, such as rand-m9-mstd0.5
    re_prob: Share = 0.0  # probability of a part of it to be erased
    re_mode: Literal["const", "rand", "pixel"] = "const"  # that part is black, of one colour, or of noise
    re_count: Annotated[int, Interval(1, 100)] = 1  # most parts that are erased
    repeats: Annotated[int, Interval(1, 100)] = 1  # how often a picture comes in a row, each time augmented anew
    # Processes that read pictures, no more than there are cores; null: as many as these, up to 4.
    workers: Annotated[int, Interval(0, 256)] | None = None
    unreadable: Literal["error", "skip"] = "error"  # skip: such pictures are left out, and the metrics count them
    # Share of the training pictures, as much of every class, that is drawn for validation where there is no such part.
    validation_share: Annotated[float, Interval(above=0, below=1)] = 0.1
    split_seed: Seed = 0  # which they are

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_policy()
        for name in self.paths:
            self._check_path(name)
        for name in ("scale", "ratio"):
            if (pair := getattr(self, name)) is not None and pair[0] > pair[1]:
                raise Misfit(f"{name} is {list(pair)}; the first is the least: turn them round", name)
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

    def _check_path(self, name: str) -> None:
        value = getattr(self, name)
        if value is None:
            return
        if any(len(os.fsencode(part)) > 255 for part in Path(value).parts) or len(os.fsencode(value)) > 4000:
            kind = "folder" if name == "root" else "file"
            raise Misfit(f"{name} is {shown(value)}; no path is so long: name a {kind}", name)

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

    def with_input_of(self, model: Mapping[str, Any]) -> "PictureSet":
        """The same with what is left open about channels and size taken from the arguments of a model."""
        taken, (in_chans, size) = {}, (model.get("in_chans", 3), model.get("img_size"))
        if self.in_chans is None and in_chans in (1, 3):
            taken["in_chans"] = in_chans
        if self.img_size is None:
            taken["img_size"] = size if type(size) is int else USUAL_SIZE
        if model.get("pretrained"):  # its features are of pictures as it was trained on
            left = [name for name in ("mean", "std") if getattr(self, name) is None and name in model]
            taken |= {
                name: tuple(model[name]) for name in left if len(model[name]) == taken.get("in_chans", self.in_chans)
            }
        return dataclasses.replace(self, **taken)

    @property
    def side(self) -> int:
        """Pixels of the side, settled."""
        return self.img_size or USUAL_SIZE

    def preparation(self) -> dict[str, Any]:
        """How pictures are measured on, as timm's ``pretrained_cfg`` says it."""
        if self.in_chans is None:
            return dataclasses.replace(self, in_chans=3).preparation()
        size = (self.in_chans, self.side, self.side)
        facts = {"input_size": size, "interpolation": self.interpolation, "crop_pct": self.crop_pct}
        return facts | {"mean": self.mean, "std": self.std}

    def splits(
        self, parts: Mapping[str, Part], class_names: tuple[str, ...], title: str, groups: list[Any] | None = None
    ) -> dict[str, PictureSplit]:
        """The parts as splits; without one for validation, a share of the training pictures is drawn for it.

        Args:
            parts: With ``train``.
            class_names: In the order of the labels.
            title: What errors and warnings call the data.
            groups: What each training picture belongs to; none of these is in both parts.
        """
        if self.in_chans is None:
            return dataclasses.replace(self, in_chans=3).splits(parts, class_names, title, groups)
        if "validation" not in parts:
            parts = self._drawn(parts, title, groups)
        deep = self.auto_augment is None and self.interpolation in ("nearest", "bilinear", "bicubic")
        blank = Image.new("L" if self.in_chans == 1 else "RGB", (self.side, self.side))
        options = {"in_chans": self.in_chans, "deep": deep, "class_names": tuple(class_names)}
        options |= {"repeats": self.repeats, "workers": worker_count(self.workers)}
        options |= {"blank": blank if self.unreadable == "skip" else None}
        order = [part for part in ("train", "validation", "test") if part in parts]
        return {part: PictureSplit(parts[part], self._transform(part), **options) for part in order}

    def _drawn(self, parts: Mapping[str, Part], title: str, groups: list[Any] | None) -> dict[str, Part]:
        train = parts["train"]
        kept, drawn = hold_out(train.labels, self.validation_share, self.split_seed, groups)
        if not len(drawn):
            raise ValueError(
                f"{title} has nothing for validation, and no class with two pictures, of which one could be drawn for "
                "it: add such a part"
            )
        warnings.warn(
            f"{title} has nothing for validation: {len(drawn):,} of its {len(train):,} training pictures are drawn for "
            f"it, of every class its share (data.validation_share is {self.validation_share:g}, data.split_seed "
            f"{self.split_seed})",
            stacklevel=4,
        )
        return {**parts, "train": train.subset(kept), "validation": train.subset(drawn)}

    def _transform(self, part: str) -> Callable[[Image.Image | Tensor], Tensor]:
        """timm's, of 8-bit pictures and of tensors in [0, 1]; these leave the range where bicubic curves overshoot."""
        augment = {"is_training": True} | {name: getattr(self, name) for name in AUGMENTATIONS}
        options = augment if part == "train" else {"crop_pct": self.crop_pct}
        transform = create_transform(
            self.side, interpolation=self.interpolation, mean=self.mean, std=self.std, **options
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


def check_present(parts: Mapping[str, list[str]], title: str) -> None:
    """Check that files are there.

    Raises:
        FileNotFoundError: Some are not; the first are named, with how many there are.
    """
    missing = [path for paths in parts.values() for path in paths if not os.path.isfile(path)]
    if missing:
        count = f"{len(missing):,} pictures that are" if len(missing) > 1 else "a picture that is"
        remedy = "see data.root, or set data.unreadable=skip"
        raise FileNotFoundError(f"{title} names {count} not there: {some(missing, 5)}; {remedy}")


def _within_range(image: Image.Image | Tensor) -> Image.Image | Tensor:
    return image.clamp(0, 1) if isinstance(image, Tensor) else image


def _posterize(image: Image.Image, bits: int, **_) -> Image.Image:
    return ImageOps.posterize(image, min(max(bits, 1), 8))
