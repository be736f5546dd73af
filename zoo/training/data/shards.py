"""Members of tar archives by number: indexed once, and read at their place.

A reader that streams shards through a buffer makes the order depend on how many workers stream, and where a run was
interrupted; by number, a batch is a function of the seed and the step.
"""

import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from zoo.checks import printable
from zoo.training.data.picture_split import PictureSource

LARGE = 2**28  # bytes of all shards, from which on it pays to start processes for their index
BLOCK = 512  # bytes of which an archive has whole blocks; one of zeros marks its end


class TornShard(ValueError):
    """A shard that ends too early, or is damaged; the message names it."""


class TornShardWarning(UserWarning):
    """The same, of a shard whose whole samples are used."""


@dataclass
class Sample:
    """The members of a shard that have a name in common: their place and size, and the label's bytes, by ending."""

    key: str
    places: dict[str, tuple[int, int]]
    contents: dict[str, bytes]


def read_samples(path: str, endings: frozenset[str]) -> Iterator[Sample]:
    """The samples of a shard, in their order, as WebDataset names them: all up to the first dot of the file's name.

    Args:
        path: The archive, not compressed.
        endings: Those of the members whose bytes are wanted, such as ``cls``.

    Raises:
        TornShard: After the samples that are whole, the archive ends too early or is damaged; or it is none.
        FileNotFoundError: There is none.
    """
    name, sample, end = printable(path, 500), None, 0
    try:
        size = os.path.getsize(path)
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                end = member.offset_data + -(-member.size // BLOCK) * BLOCK if member.isreg() else member.offset_data
                if member.offset_data + member.size > size:
                    break  # its end is not there
                folder, _, file = member.name.rpartition("/")
                if not member.isreg() or file.startswith("."):  # the latter is what some systems put beside a file
                    continue
                stem, _, ending = file.partition(".")
                key = f"{folder}/{stem}" if folder else stem
                if sample is None or sample.key != key:
                    if sample is not None:
                        yield sample
                    sample = Sample(key, {}, {})
                ending = ending.lower()
                sample.places[ending] = member.offset_data, member.size
                if ending in endings:
                    sample.contents[ending] = archive.extractfile(member).read()
        if end < size and not any(_block(path, end)) and _block(path, end):
            if sample is not None:
                yield sample
            return
        problem = f"it has no end mark, which is expected at byte {end:,} of {size:,}"
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no shard {name}: see the pattern in the recipe") from None
    except (tarfile.TarError, OSError, ValueError, EOFError) as error:
        problem = printable(error, 300)
    with open(path, "rb") as file:
        if file.read(2) == b"\x1f\x8b":
            raise TornShard(f"the shard {name} is compressed, so nothing can be read at its place: gunzip it")
    raise TornShard(f"the shard {name} is torn or damaged ({problem}): fetch it again, or leave it out")


def read_shards(paths: list[str], endings: frozenset[str], workers: int) -> Iterator[tuple[list[Sample], str | None]]:
    """The whole samples of each shard in turn, and what is wrong with it; many large ones are read at once.

    It takes 60 microseconds a sample, so shards of a million take a minute; with workers, a quarter of it at the least.
    """
    large = len(paths) > 1 and sum(map(os.path.getsize, paths)) > LARGE
    options = {"num_workers": workers if large else 0, "collate_fn": tuple}
    # With a generator of its own it draws the workers' seeds from that, and leaves torch's as it is.
    return iter(DataLoader(_Contents(paths, endings), batch_size=None, generator=torch.Generator(), **options))


class _Contents(Dataset):
    def __init__(self, paths: list[str], endings: frozenset[str]):
        self.paths, self.endings = paths, endings

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, number: int) -> tuple[list[Sample], str | None]:
        samples: list[Sample] = []
        try:
            samples.extend(read_samples(self.paths[number], self.endings))
        except TornShard as error:
            return samples, str(error)
        return samples, None


def _block(path: str, start: int) -> bytes:
    with open(path, "rb") as file:
        file.seek(start)
        return file.read(BLOCK)


class Members(PictureSource):
    """Members of shards, by number.

    A shard is opened for each member that is read, as a folder's files are: what stayed open would be shared, with its
    position, by forked workers and by threads.
    """

    def __init__(self, paths: list[str]):
        self.paths = paths
        self.keys: list[str] = []
        self._places: list[tuple[int, int, int]] | np.ndarray = []

    def add(self, shard: int, key: str, place: tuple[int, int] | None) -> None:
        """Add a member of a shard; without a place it cannot be read."""
        self.keys.append(key)
        self._places.append((shard, *(place or (-1, 0))))

    def pack(self) -> "Members":
        """The same after the last was added, in little memory."""
        self._places = np.array(self._places, np.int64).reshape(-1, 3)
        return self

    def open(self, location: int) -> bytes:
        shard, offset, size = map(int, self._places[location])
        if offset < 0:
            raise ValueError(f"{self.describe(location)} has no picture: remove its other members")
        with open(self.paths[shard], "rb") as file:
            file.seek(offset)
            content = file.read(size)
        if len(content) < size:
            raise TornShard(f"{self.describe(location)} ends too early: the shard has changed; fetch it again")
        return content

    def describe(self, location: int) -> str:
        return printable(f"{self.paths[self._places[location][0]]}: {self.keys[location]}")
