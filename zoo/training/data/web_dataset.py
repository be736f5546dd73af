"""Pictures in tar archives, as WebDataset lays them out.

timm's readers of such archives are not used: `ReaderWds` streams them, in an order that depends on the number of its
workers and cannot be gone on with in the middle, and passes over what is damaged; `ReaderImageInTar` reads no labels
but names of folders, and forked workers share its files.
"""

import glob
import json
import os
import warnings
from dataclasses import dataclass, field
from typing import Any, ClassVar

from timm.data import get_img_extensions

from zoo.checks import printable, shown, some, unknown
from zoo.training.data.labels import number_labels
from zoo.training.data.picture_set import PictureSet
from zoo.training.data.picture_split import Part, PictureSplit
from zoo.training.data.pictures import SUFFIXES
from zoo.training.data.shards import Members, Sample, TornShard, TornShardWarning, read_shards
from zoo.training.data.workers import worker_count


@dataclass(frozen=True)
class WebDataset(PictureSet):
    """Shards, tar archives whose members with a name in common are a sample: a picture, and its class.

    The class is in the member that ends in `.cls`, as its number or its name, or under a key of that which ends in
    `.json`; a list there has several classes. Shards are named by a pattern, `train-{000000..000012}.tar` or
    `train-*.tar`, and lie on this machine; they are not compressed. They are indexed once, so pictures are shuffled
    over all shards, and read at their place.
    """

    name: ClassVar[str] = "webdataset"
    paths: ClassVar[tuple[str, ...]] = ("shards", "validation", "test")
    shards: str  # pattern of those to train on
    validation: str | None = None  # pattern of those to validate on
    test: str | None = None  # pattern of those to test on
    label: str | None = None  # key of the class in the .json member; null: the .cls member is the class
    classes: tuple[str, ...] = ()  # their names in the order of their numbers; none: all there are in training

    def load(self) -> dict[str, PictureSplit]:
        patterns = {"train": self.shards, "validation": self.validation, "test": self.test}
        indices = {part: self._index(pattern) for part, pattern in patterns.items() if pattern}
        several = any(isinstance(label, list) for index in indices.values() for label in index.labels)
        raw = {
            part: [label if isinstance(label, list) or not several else [label] for label in index.labels]
            for part, index in indices.items()
        }
        names, labels = number_labels(raw, self.classes, several=several)
        parts = {
            part: Part(index.members.pack(), range(len(index.labels)), labels[part]) for part, index in indices.items()
        }
        return self.splits(parts, names, printable(self.shards, 500))

    def _index(self, pattern: str) -> "_Index":
        paths = expand(pattern)
        index = _Index(Members(paths))
        suffixes = SUFFIXES | get_img_extensions(as_set=True)
        shards = read_shards(paths, frozenset(("cls", "json")), worker_count(self.workers))
        for number, (samples, problem) in enumerate(shards):
            if problem is not None and self.unreadable == "error":
                raise TornShard(problem)
            for sample in samples:
                ending = next((each for each in sample.places if f".{each}" in suffixes), None)
                if ending is None and self.unreadable == "error":
                    said = f"{printable(paths[number], 500)}: the sample {shown(sample.key)} has no picture"
                    raise ValueError(f"{said} among {some(sample.places)}: remove it, or set data.unreadable=skip")
                index.members.add(number, sample.key, sample.places.get(ending))
                index.labels.append(self._label(sample, paths[number]))
            if problem is not None:
                told = f"{problem}; what is whole of it is used, since data.unreadable is skip"
                warnings.warn(told, TornShardWarning, stacklevel=3)
        if not index.labels:
            raise ValueError(f"{printable(pattern, 500)}: there is no sample in these shards: name others")
        return index

    def _label(self, sample: Sample, path: str) -> Any:
        where = f"{printable(path, 500)}: the sample {shown(sample.key)}"
        if self.label is None:
            if "cls" not in sample.contents:
                remedy = "add it, or name a key of .json as data.label"
                raise ValueError(f"{where} has no member .cls among {some(sample.places)}: {remedy}")
            return _class(sample.contents["cls"].decode("utf-8", "replace").strip(), where)
        try:
            facts = json.loads(sample.contents["json"])
        except KeyError:
            raise ValueError(f"{where} has no member .json among {some(sample.places)}: see data.label") from None
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{where}: its .json cannot be read ({printable(error, 200)}): repair it") from None
        if not isinstance(facts, dict) or self.label not in facts:
            keys = list(facts) if isinstance(facts, dict) else []
            raise ValueError(unknown(f"{where}: the key {shown(self.label)}", self.label, keys, "There are"))
        value = facts[self.label]
        return [_class(each, where) for each in value] if isinstance(value, list) else _class(value, where)


@dataclass
class _Index:
    """The samples of a part: their members, and what is said of the class of each."""

    members: Members
    labels: list[Any] = field(default_factory=list)


def _class(value: Any, where: str) -> int | str:
    if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) < 10:
        return int(value)
    if type(value) not in (int, str) or value == "":
        raise ValueError(f"{where}: its class is {shown(value)}; it must be a number or a name")
    return value


def expand(pattern: str) -> list[str]:
    """The paths of a pattern, with braces as in a shell, or wildcards.

    Raises:
        ModuleNotFoundError: `braceexpand` is not installed.
        ValueError: The braces are not in pairs.
        FileNotFoundError: There is no such file.
    """
    paths = [pattern]
    if "{" in pattern:
        try:
            from braceexpand import UnbalancedBracesError, braceexpand
        except ModuleNotFoundError as error:
            told = "braceexpand is not installed, and patterns with braces need it: pip install 'zoo[data]'"
            raise ModuleNotFoundError(told, name=error.name) from error
        try:
            paths = list(braceexpand(pattern))
        except UnbalancedBracesError:
            raise ValueError(f"{shown(pattern)} has braces that are not in pairs: write {{000000..000012}}") from None
    if any(sign in pattern for sign in "*?["):
        paths = [found for path in paths for found in sorted(glob.glob(path))]
    missing = [path for path in paths if not os.path.isfile(path)]
    if missing or not paths:
        raise FileNotFoundError(f"there is no shard {some(map(shown, missing or [pattern]))}: see the pattern")
    return paths
