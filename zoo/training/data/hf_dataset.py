"""Data sets of Hugging Face's `datasets`.

timm's reader of them is not used: it takes neither a revision nor a folder of `save_to_disk`, and the data set that
stands on it puts the next picture in the place of one that cannot be read.
"""

import os
import warnings
from dataclasses import dataclass
from typing import Any, ClassVar

from zoo.checks import printable, shown, some, unknown
from zoo.training.data.labels import number_labels
from zoo.training.data.picture_set import PictureSet
from zoo.training.data.picture_split import Part, PictureSource, PictureSplit

USUAL = {"train": ("train",), "validation": ("validation", "valid", "val", "dev"), "test": ("test",)}


@dataclass(frozen=True)
class HfDataset(PictureSet):
    """A data set of Hugging Face's: a folder on this machine, or a name of the Hub.

    A folder is one that `save_to_disk` wrote, or one of whatever files `datasets.load_dataset` reads: Parquet, pictures
    with their metadata. What the columns hold is read from the features: pictures are in that of `Image`, the classes
    are those of `ClassLabel`; several a picture, if it is a list of these.
    """

    name: ClassVar[str] = "hf_dataset"
    paths: ClassVar[tuple[str, ...]] = ("path",)
    path: str  # the folder, or the name of the Hub, such as uoft-cs/cifar10
    config: str | None = None  # which of its configurations, if it has several
    revision: str | None = None  # of the Hub: commit, branch or tag; null: the newest
    image: str | None = None  # column of the pictures; null: the only one that has any
    label: str | None = None  # column of the class; null: the only one that has classes, or the one called label
    train: str | None = None  # split that is trained on; null: the one called so
    validation: str | None = None  # split that is validated on; null: the one called so, or val, if there is any
    test: str | None = None  # split that is tested on; null: the one called so, if there is any

    def load(self) -> dict[str, PictureSplit]:
        title = printable(self.path, 500)
        tables = self._tables()
        features = tables["train"].features
        image, label = _image_column(self.image, features, title), _label_column(self.label, features, title)
        labels, names, several = {}, (), False
        for part, table in tables.items():
            if {image, label} - table.features.keys():
                missing = some(sorted({image, label} - table.features.keys()))
                raise ValueError(f"{title}: its {part} split lacks the column {missing}, which that for training has")
            labels[part], names, several = _labels_of(table, label, part, title)
        for part in [part for part, values in labels.items() if part != "train" and set(map(str, values)) == {"-1"}]:
            said = f"{title}: no row of its {part} split has a class: it is left out"
            warnings.warn(said, stacklevel=2)  # of a competition whose answers are not public
            del tables[part], labels[part]
        class_names, numbered = number_labels(labels, names, several=several)
        parts = {
            part: Part(Rows(table, image, f"{title}, {part}"), range(len(table)), numbered[part])
            for part, table in tables.items()
        }
        return self.splits(parts, class_names, title)

    def _tables(self) -> dict[str, Any]:
        """The `datasets.Dataset` of each part."""
        tables = load_tables(self.path, self.config, self.revision)
        parts = {}
        for part, usual in USUAL.items():
            asked = getattr(self, part)
            if asked is not None and asked not in tables:
                raise ValueError(unknown(f"{printable(self.path, 500)}: the split {shown(asked)}", asked, tables))
            if (split := asked or next((name for name in usual if name in tables), None)) is not None:
                parts[part] = tables[split]
        if "train" not in parts:
            remedy = "name the one to train on as data.train"
            raise ValueError(f"{printable(self.path, 500)} has the splits {some(tables)}, none called train: {remedy}")
        for part, table in parts.items():
            if not len(table):
                raise ValueError(f"{printable(self.path, 500)}: the split for {part} is empty: name another, or none")
        return parts


class Rows(PictureSource):
    """Rows of a table of `datasets`, by number; a picture is decoded by nobody but `read_picture`."""

    def __init__(self, table: Any, column: str, title: str):
        import datasets

        self.table = table.select_columns([column]).with_format(None).cast_column(column, datasets.Image(decode=False))
        self.column, self.title = column, title

    def open(self, location: int) -> str | bytes:
        content = self.table[location][self.column] or {}
        if content.get("bytes") is not None:
            return content["bytes"]
        if content.get("path"):
            return content["path"]
        raise ValueError(f"{self.describe(location)} holds no picture: remove the row")

    def describe(self, location: int) -> str:
        return f"{self.title}, row {location}"


def load_tables(path: str, config: str | None = None, revision: str | None = None) -> dict[str, Any]:
    """The splits of a data set by name.

    Raises:
        ModuleNotFoundError: `datasets` is not installed.
        ValueError: The data set cannot be had; the message names it and says why.
    """
    try:
        import datasets
    except ModuleNotFoundError as error:
        told = f"{error.name} is not installed, and data sets of Hugging Face's need it: pip install 'zoo[data]'"
        raise ModuleNotFoundError(told, name=error.name) from error
    try:
        if is_saved(path):
            tables = datasets.load_from_disk(path)
        else:
            tables = datasets.load_dataset(path, config, revision=revision)
    except Exception as error:  # of many kinds: no network, no such name, a damaged file
        remedy = "see data.path, data.config and data.revision, and whether the Hub can be reached"
        raise ValueError(f"the data set {shown(path)} cannot be loaded ({printable(error, 600)}): {remedy}") from error
    return dict(tables) if isinstance(tables, dict) else {"train": tables}


def is_saved(path: str) -> bool:
    """Whether a folder is one that `save_to_disk` wrote, of several splits or of one."""
    return any(os.path.isfile(os.path.join(path, name)) for name in ("dataset_dict.json", "state.json"))


def _image_column(asked: str | None, features: Any, title: str) -> str:
    import datasets

    images = [name for name, feature in features.items() if isinstance(feature, datasets.Image)]
    if asked is not None and asked not in features:
        raise ValueError(unknown(f"{title}: the column {shown(asked)}", asked, features, "There are"))
    if asked is not None and asked not in images:
        raise ValueError(
            f"{title}: the column {shown(asked)} holds no pictures; those that do: {some(images) or 'none'}"
        )
    if asked is None and len(images) != 1:
        said = f"pictures are in {some(images)}" if images else f"none of {some(features)} holds pictures"
        raise ValueError(f"{title}: {said}: name the column as data.image")
    return asked or images[0]


def _label_column(asked: str | None, features: Any, title: str) -> str:
    if asked is not None and asked not in features:
        raise ValueError(unknown(f"{title}: the column {shown(asked)}", asked, features, "There are"))
    if asked is not None:
        return asked
    classes = [name for name, feature in features.items() if _class_names(feature) is not None]
    classes = classes if len(classes) == 1 else [name for name in ("label", "labels") if name in features][:1]
    if not classes:
        raise ValueError(f"{title}: which of {some(features)} has the classes is not clear: name it as data.label")
    return classes[0]


def _class_names(feature: Any) -> list[str] | None:
    """The names of a column of classes, or of lists of them; None of any other."""
    return getattr(getattr(feature, "feature", feature), "names", None)


def _labels_of(table: Any, column: str, part: str, title: str) -> tuple[list[Any], tuple[str, ...], bool]:
    """What a column says of each row, the names of its classes, and whether a row has several."""
    names = tuple(_class_names(table.features[column]) or ())
    values = table.with_format(None)[column][:]
    several = any(isinstance(value, list) for value in values)
    flat = [each for value in values for each in (value if isinstance(value, list) else [value])]
    if any(each is None for each in flat):
        raise ValueError(f"{title}: a row of its {part} split has nothing in the column {shown(column)}: remove it")
    if not all(isinstance(each, (int, str)) for each in flat):
        raise ValueError(
            f"{title}: the column {shown(column)} holds neither numbers of classes nor names: name another"
        )
    if not names:  # numbers of no named classes may begin anywhere, so they are names
        values = [list(map(str, value)) if several else str(value) for value in values]
    return values, names, several
