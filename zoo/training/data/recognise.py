"""Which data set it is that lies somewhere, by looking."""

import glob
import os
import re
from collections.abc import Sequence
from pathlib import Path

from timm.data import get_img_extensions

from zoo.checks import printable, shown, some
from zoo.training.data.csv_table import ANSWERS, PARTS, CsvTable, read_table
from zoo.training.data.hf_dataset import HfDataset, is_saved
from zoo.training.data.image_folder import ImageFolder
from zoo.training.data.picture_set import PictureSet
from zoo.training.data.pictures import SUFFIXES, class_folders
from zoo.training.data.shards import TornShard, read_samples
from zoo.training.data.web_dataset import WebDataset, expand

WILD = "*?[{"
TABLES = (".csv", ".tsv")
# Usual names of columns, and of keys of a .json, in small letters without spaces and lines.
LABELS = ("label", "labels", "class", "classname", "target", "category", "findinglabels", "diagnosis", "cls")
SPLITS, GROUPS = ("split", "part", "partition", "subset", "set"), ("patient", "patientid", "subject", "subjectid")
NOTHING = ("No Finding", "none", "None")


def recognise(root: str) -> PictureSet:
    """The data set at a path or a pattern, with its options as far as they can be told.

    Raises:
        FileNotFoundError: There is nothing.
        ValueError: It is none that is known, or which column is what cannot be told.
    """
    place = Path(root)
    try:
        kind = "file" if place.is_file() else "folder" if place.is_dir() else None
    except (OSError, ValueError) as error:  # of a path that no file can have
        raise ValueError(
            f"{shown(root)} cannot be looked at ({printable(error, 200)}): name a folder or file"
        ) from None
    if kind is None and not set(WILD) & set(root):
        raise FileNotFoundError(f"there is nothing at {shown(root)}: name a folder, a table or shards")
    if kind is None or (kind == "file" and place.suffix == ".tar"):
        return _shards({"train": root if kind is None else glob.escape(root)})
    if kind == "file":
        if place.suffix.lower() not in TABLES:
            raise ValueError(f"{shown(root)} is no table (.csv, .tsv) and no shard (.tar): name one, or a folder")
        return _table({"train": root})
    return _folder(place)


def _folder(root: Path) -> PictureSet:
    if is_saved(str(root)):
        return HfDataset(path=str(root), unreadable="skip")
    if patterns := _patterns(root):
        return _shards(patterns)
    if any(next(root.glob(pattern), None) for pattern in ("*.parquet", "*/*.parquet", "*.arrow", "*/metadata.jsonl")):
        return HfDataset(path=str(root), unreadable="skip")
    tables = [path for path in sorted(root.iterdir()) if path.suffix.lower() in TABLES]
    by_part = {PARTS[path.stem.lower()]: str(path) for path in tables if path.stem.lower() in PARTS}
    if len(tables) == 1:
        by_part = {"train": str(tables[0])}
    is_classes = any((root / part).is_dir() and next((root / part).glob("*/"), None) for part in PARTS)
    if "train" in by_part and not is_classes:
        try:
            return _table(by_part)
        except ValueError:  # of a table of something else, beside the folders of classes
            if len(class_folders(root)) < 2:
                raise
    return ImageFolder(root=str(root), unreadable="skip")


def _patterns(root: Path) -> dict[str, str]:
    """The patterns of the shards of each part, by the beginnings of their names or by their folders."""
    patterns: dict[str, str] = {}
    for path in sorted([*root.glob("*.tar"), *root.glob("*/*.tar")]):
        begin = re.sub(r"[-_.]?\d*$", "", path.stem)
        words = [*re.split(r"[-_. ]", begin.lower()), path.parent.name.lower() if path.parent != root else ""]
        part = next((PARTS[word] for word in words if word in PARTS), "train")
        pattern = f"{glob.escape(str(path.parent / begin))}*.tar"
        if patterns.setdefault(part, pattern) != pattern:
            both = some(map(shown, (patterns[part], pattern)))
            raise ValueError(f"which shards of {printable(root)} are for {part} is not clear ({both}): name a pattern")
    return patterns


def _shards(patterns: dict[str, str]) -> WebDataset:
    label, first = None, expand(patterns["train"])[0] if "train" in patterns else ""
    if not first:
        raise FileNotFoundError(f"there are shards for {some(patterns)}, and none to train on: name one train-*.tar")
    try:
        sample = next(read_samples(first, frozenset(("json",))), None)
    except TornShard:
        sample = None  # which is told when it is read
    if sample is not None and "cls" not in sample.places and "json" in sample.contents:
        import json

        try:
            keys = json.loads(sample.contents["json"])
        except ValueError:
            keys = {}
        label = _named(list(keys), LABELS) if isinstance(keys, dict) else None
    return WebDataset(shards=patterns.pop("train"), **patterns, label=label, unreadable="skip")


def _table(files: dict[str, str]) -> CsvTable:
    path = files["train"]
    rows = list(read_table(path, []))
    if not rows:
        raise ValueError(f"{printable(path)} has no line beside its first: add some")
    columns = list(rows[0])
    values = {column: [row[column].strip() for row in rows] for column in columns}
    suffixes = SUFFIXES | get_img_extensions(as_set=True)
    is_path = lambda value: os.path.splitext(value)[1].lower() in suffixes
    image = next((column for column in columns if all(map(is_path, values[column]))), None)
    if image is None:
        raise ValueError(f"{printable(path)}: none of the columns {some(columns)} has paths of pictures in every line")
    options = {"file": path, "image": image, "root": _root(path, values[image][:20]), "unreadable": "skip"}
    options |= {part: files[part] for part in ("validation", "test") if part in files}
    split = _named(columns, SPLITS)
    if split is not None and {value.lower() for value in values[split]} <= PARTS.keys() and len(files) == 1:
        options["split"] = split
    elif (group := _named(columns, GROUPS)) is not None:
        options["group"] = group
    rest = [column for column in columns if column not in (image, options.get("split"), options.get("group"))]
    return CsvTable(**options, **_classes(rest, values, path))


def _classes(columns: Sequence[str], values: dict[str, list[str]], path: str) -> dict[str, object]:
    """The options of a table that say which column has the class, or which have the classes."""
    label = _named(columns, LABELS)
    if label is None:
        answers = [
            column
            for column in columns
            if {value.lower().removesuffix(".0") for value in values[column]} <= ANSWERS.keys()
        ]
        if len(answers) > 1:
            return {"labels": tuple(answers)}
        few = [column for column in columns if 1 < len(set(values[column])) <= len(values[column]) / 2]
        if len(few) != 1:
            raise ValueError(f"{printable(path)}: which of the columns {some(columns)} has the class is not clear")
        label = few[0]
    if not any("|" in value for value in values[label]):
        return {"label": label}
    alone = next((word for word in NOTHING if word in values[label]), None)
    return {"label": label, "separator": "|", "no_label": alone}


def _named(names: Sequence[str], usual: Sequence[str]) -> str | None:
    plain = {re.sub(r"[\s_-]", "", name.lower()): name for name in names}
    return next((plain[name] for name in usual if name in plain), None)


def _root(path: str, images: Sequence[str]) -> str | None:
    """The folder at which the paths of a table begin: that of the table (None), or one beside it."""
    here = os.path.dirname(path) or "."
    folders = [here, *sorted(entry.path for entry in os.scandir(here) if entry.is_dir())]
    there = [sum(os.path.isfile(os.path.join(folder, image)) for image in images) for folder in folders]
    best = folders[there.index(max(there))]
    return None if best == here else best
