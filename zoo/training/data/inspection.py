"""What is in a data set of pictures: every one is read."""

import dataclasses
import hashlib
import statistics
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch
import yaml
from PIL import Image

from zoo.checks import printable
from zoo.training.data.picture_set import PictureSet
from zoo.training.data.picture_split import PictureSplit
from zoo.training.data.pictures import openable, read_picture
from zoo.training.data.shards import TornShardWarning
from zoo.training.data.workers import available_cores
from zoo.training.recipe.schema import plain

AT_A_TIME = 1024  # pictures that are handed to the threads
GREY = {"1", "L", "LA", "La", "F", "I"}  # and I;16 and its kin


@dataclass(frozen=True)
class Sight:
    """One picture as it lies there: what is wrong with it, or what it is."""

    problem: str | None = None
    digest: bytes = b""
    width: int = 0
    height: int = 0
    mode: str = ""
    format: str = ""


def inspect_data(data: PictureSet, progress: Callable[[int, int], object] = lambda done, total: None) -> dict[str, Any]:
    """Read every picture, and say what there is, in values that JSON has.

    Args:
        data: The data set, which skips what cannot be read.
        progress: Called with how many pictures are read, and of how many.

    Returns:
        ``format``, ``kind``, ``classes`` (their names), ``parts`` (of each the number of pictures, of those of a class,
        of modes and formats, and the least, median and largest width and height), ``unreadable`` (the name of each,
        and why), ``duplicates`` (pictures of the same bytes in more than one part), ``conflicts`` (those under
        more than one label), ``warnings``, and ``recipe``, a section ``data`` to paste.

    Raises:
        ValueError: It cannot be loaded at all; the message says why.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        splits = data.load()
    torn = [str(each.message) for each in caught if issubclass(each.category, TornShardWarning)]
    said = [str(each.message) for each in caught if not issubclass(each.category, TornShardWarning)]
    total, done, parts, sights = sum(map(len, splits.values())), 0, {}, {}
    with ThreadPoolExecutor(available_cores()) as threads:
        for part, split in splits.items():
            sights[part] = []
            for sight in _look(split, threads):
                sights[part].append(sight)
                done += 1
                progress(done, total)
            parts[part] = _summary(split, sights[part])
    unreadable = [{"name": None, "problem": problem} for problem in torn]
    for part, split in splits.items():
        bad = ((index, sight.problem) for index, sight in enumerate(sights[part]) if sight.problem)
        unreadable += [{"name": split.describe(index), "part": part, "problem": problem} for index, problem in bad]
    duplicates, conflicts = _same(splits, sights)
    first = splits["train"]
    return {
        "format": data.name,
        "kind": first.kind,
        "classes": list(first.class_names),
        "parts": parts,
        "unreadable": unreadable,
        "duplicates": duplicates,
        "conflicts": conflicts,
        "warnings": said,
        "recipe": recipe_of(data, parts, bool(unreadable)),
    }


def _look(split: PictureSplit, threads: ThreadPoolExecutor) -> Iterator[Sight]:
    for begin in range(0, len(split), AT_A_TIME):
        yield from threads.map(lambda index: sight(split, index), range(begin, min(begin + AT_A_TIME, len(split))))


def sight(split: PictureSplit, index: int) -> Sight:
    """Read a picture of a split as training would."""
    try:
        content = split.part.source.open(split.part.locations[index])
        if isinstance(content, str):
            path = openable(content)
            with open(path, "rb") as file:
                content = file.read()
        read_picture(content, split.in_chans, deep=split.deep, name=split.describe(index))
        with Image.open(openable(content)) as image:
            digest = hashlib.blake2b(content, digest_size=16).digest()
            return Sight(None, digest, *image.size, image.mode, image.format or "")
    except (ValueError, OSError) as error:
        name, problem = split.describe(index), printable(error, 500)
        if isinstance(error, OSError) and error.strerror:
            problem = error.strerror
        return Sight(problem if name in problem else f"{name} cannot be read ({problem}): repair it or remove it")


def _summary(split: PictureSplit, sights: list[Sight]) -> dict[str, Any]:
    labels = split.part.labels
    if labels.ndim == 1:
        counts = torch.bincount(labels, minlength=split.num_classes).tolist()
    else:
        counts = (labels == 1).sum(0).tolist()
    good = [sight for sight in sights if sight.problem is None]
    return {
        "pictures": len(split),
        "classes": dict(zip(split.class_names, counts, strict=True)),
        "width": _spread([sight.width for sight in good]),
        "height": _spread([sight.height for sight in good]),
        "modes": dict(Counter(sight.mode for sight in good).most_common()),
        "formats": dict(Counter(sight.format for sight in good).most_common()),
    }


def _spread(values: list[int]) -> dict[str, float] | None:
    if not values:
        return None
    return {"min": min(values), "median": statistics.median(values), "max": max(values)}


def _same(
    splits: Mapping[str, PictureSplit], sights: Mapping[str, list[Sight]]
) -> tuple[list[list[dict[str, str]]], list[list[dict[str, str]]]]:
    """The pictures of the same bytes, in groups: those in several parts, and those under several labels."""
    places: dict[bytes, list[tuple[str, int]]] = {}
    for part, seen in sights.items():
        for index, each in enumerate(seen):
            if each.problem is None:
                places.setdefault(each.digest, []).append((part, index))
    groups = [group for group in places.values() if len(group) > 1]
    label = lambda part, index: str(splits[part].part.labels[index].tolist())
    named = lambda group: [{"part": part, "name": splits[part].describe(index)} for part, index in group]
    duplicates = [named(group) for group in groups if len({part for part, _ in group}) > 1]
    return duplicates, [named(group) for group in groups if len({label(*place) for place in group}) > 1]


def recipe_of(data: PictureSet, parts: Mapping[str, Any], unreadable: bool) -> str:
    """A section ``data`` for a recipe, of this data set: what differs from the defaults, and what is seen of it."""
    defaults = {field.name: field.default for field in dataclasses.fields(data)}
    settings = {key: value for key, value in plain(data).items() if key == "name" or value != plain(defaults[key])}
    settings = {"name": settings.pop("name"), **settings}
    for key in ("unreadable", "workers", "img_size"):
        settings.pop(key, None)
    medians = [min(part[side]["median"] for side in ("width", "height")) for part in parts.values() if part["width"]]
    if medians:
        settings["img_size"] = min(224, max(32, 32 * round(min(medians) / 32)))
    modes = {mode for part in parts.values() for mode in part["modes"]}
    settings |= {"in_chans": 1} if modes and all(mode in GREY or mode.startswith("I;") for mode in modes) else {}
    settings |= {"unreadable": "skip"} if unreadable else {}
    return yaml.safe_dump({"data": settings}, sort_keys=False, allow_unicode=True, width=110)
