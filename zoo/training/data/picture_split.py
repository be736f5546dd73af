"""Pictures, wherever they lie, as a part of a data set."""

import warnings
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from zoo.checks import printable
from zoo.training.data.pictures import read_picture
from zoo.training.data.splits import Split
from zoo.training.seeds import derive_seed, seeded_globals


class PictureSource(ABC):
    """Where pictures lie: in files, in members of an archive, in rows of a table."""

    @abstractmethod
    def open(self, location: Any) -> str | bytes:
        """The path of a picture, or its bytes.

        Raises:
            ValueError: There is none; the message names it.
        """

    @abstractmethod
    def describe(self, location: Any) -> str:
        """What people call it: printable, and enough to find it."""


class Files(PictureSource):
    """Files, whose location is their path."""

    def open(self, location: str) -> str:
        return location

    def describe(self, location: str) -> str:
        return printable(location)


@dataclass(frozen=True)
class Part:
    """The pictures of one part, by location, with their labels as `Split` has them."""

    source: PictureSource
    locations: Sequence[Any]
    labels: Tensor

    def __len__(self) -> int:
        return len(self.locations)

    def subset(self, indices: Tensor) -> "Part":
        return Part(self.source, [self.locations[index] for index in indices.tolist()], self.labels[indices])


@dataclass(eq=False)
class PictureSplit(Split):
    """Pictures, whose transform draws from random, numpy and torch, seeded for every single picture.

    With a `blank` one, `fetch_readable` has that in the place of a picture that cannot be read, and says so.
    """

    part: Part
    transform: Callable[[Image.Image | Tensor], Tensor]
    _: KW_ONLY
    in_chans: int
    deep: bool
    class_names: tuple[str, ...]
    workers: int
    repeats: int = 1
    blank: Image.Image | None = None

    def __post_init__(self):
        self.skip = self.blank is not None
        self.num_classes = len(self.class_names)
        self.kind = "image" if self.part.labels.ndim == 1 else "labels"

    def __len__(self) -> int:
        return len(self.part)

    @property
    def samples(self) -> list[tuple[Any, Any]]:
        """The location of each picture, and its label."""
        return list(zip(self.part.locations, self.part.labels.tolist(), strict=True))

    def describe(self, index: int) -> str:
        return self.part.source.describe(self.part.locations[index])

    def read(self, index: int) -> Image.Image | Tensor:
        """A picture as it lies there, before the transform."""
        content = self.part.source.open(self.part.locations[index])
        return read_picture(content, self.in_chans, deep=self.deep, name=self.describe(index))

    def fetch(self, indices: list[int], seed: int | None) -> tuple[Tensor, Tensor]:
        return self.fetch_readable(indices, seed)[:2]

    def fetch_readable(self, indices: list[int], seed: int | None) -> tuple[Tensor, Tensor, Tensor]:
        images, readable, times = [], [], Counter()
        for index in indices:
            try:
                image = self.read(index)
            except ValueError as error:
                if not self.skip:
                    raise
                warnings.warn(f"{error}; it is left out, since data.unreadable is skip", stacklevel=2)
                image = None
            readable.append(image is not None)
            again = (times[index],) if times[index] else ()  # a picture that a batch has twice is augmented twice
            times[index] += 1
            with seeded_globals(derive_seed(seed or 0, index, *again)):
                images.append(self.transform(self.blank if image is None else image))
        return torch.stack(images), self.part.labels[indices], torch.tensor(readable)
