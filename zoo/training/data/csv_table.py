"""Pictures that a table lists, with their labels.

timm has no reader of tables.
"""

import csv
import io
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from zoo.checks import printable, shown, some, unknown
from zoo.training.data.labels import number_labels
from zoo.training.data.picture_set import PictureSet, check_present
from zoo.training.data.picture_split import Files, Part, PictureSplit
from zoo.training.data.pictures import check_links
from zoo.training.recipe.section import Misfit

PARTS = {"train": "train", "training": "train", "test": "test", "testing": "test"}
PARTS |= dict.fromkeys(("val", "valid", "validation", "dev"), "validation")
ANSWERS = {"0": 0.0, "1": 1.0, "false": 0.0, "true": 1.0, "no": 0.0, "yes": 1.0}
ANSWERS |= dict.fromkeys(("", "nan", "-1"), math.nan)  # -1 is what CheXpert has where a report leaves it open


@dataclass(frozen=True)
class CsvTable(PictureSet):
    """A table in a file of text, CSV or TSV, with a picture a line: its path, and its class or classes.

    A picture has one class, named in the column `label`; or any number of classes, of which `labels` gives a column
    each, with 1, 0, or -1 or nothing where nobody knows; or which the column `label` lists, with a `separator` between.
    What is for validation and for test stands in a column `split` (as train, val, test), or in files of their own, or
    nowhere: then validation is drawn.

    Commas, semicolons and tabs are told apart by the first line, which has the names of the columns.
    """

    name: ClassVar[str] = "csv"
    paths: ClassVar[tuple[str, ...]] = ("file", "validation", "test", "root")
    file: str  # the table
    validation: str | None = None  # that of the pictures to validate on, if it is another
    test: str | None = None  # that of the pictures to test on, if it is another
    root: str | None = None  # folder that the paths begin at; null: that of the table
    image: str = "image"  # column of the paths
    suffix: str | None = None  # what each path lacks at its end, such as .jpg
    label: str = "label"  # column of the class
    labels: tuple[str, ...] = ()  # columns of 0 and 1, one a class
    separator: str | None = None  # between the classes in the column of label, such as |
    no_label: str | None = None  # what stands there for none of the classes, such as No Finding
    classes: tuple[str, ...] = ()  # in their order; none: all there are in training, in natural order
    split: str | None = None  # column of the part
    group: str | None = None  # column of what a drawn validation must not part, such as the patient

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.labels and (self.classes or self.separator is not None):
            other = "classes" if self.classes else "separator"
            raise Misfit(f"labels names a column for each class, so {other} has no use: remove one of the two", other)
        if self.separator is not None and not self.separator:
            raise Misfit("separator is empty; give the sign between two classes, such as |", "separator")
        if self.split is not None and (self.validation or self.test):
            other = "validation" if self.validation else "test"
            raise Misfit(f"split is a column that says the part, so {other} has no use: remove one of the two", other)

    def load(self) -> dict[str, PictureSplit]:
        rows = self._rows()
        title = printable(self.file, 500)
        if not rows.get("train"):
            raise ValueError(f"{title} has no line for training: add some, or see data.split")
        rows = {part: lines for part, lines in rows.items() if lines}
        files = {part: [self._path(row) for row in lines] for part, lines in rows.items()}
        if self.unreadable == "error":
            check_present(files, title)
        names, labels = self._labels(rows)
        groups = None if self.group is None else [row[self.group] for row in rows["train"]]
        parts = {part: Part(Files(), files[part], labels[part]) for part in rows}
        splits = self.splits(parts, names, title, groups)
        samples = {part: [(path, str(label)) for path, label in split.samples] for part, split in splits.items()}
        check_links(samples, "listed for {} too")
        return splits

    def _rows(self) -> dict[str, list[dict[str, str]]]:
        """The lines of each part, by column."""
        needed = [self.image, *(self.labels or [self.label]), *filter(None, (self.split, self.group))]
        tables = {"train": self.file, "validation": self.validation, "test": self.test}
        rows = {part: list(read_table(path, needed)) for part, path in tables.items() if path is not None}
        if self.split is None:
            return rows
        parts: dict[str, list[dict[str, str]]] = {}
        for number, row in enumerate(rows["train"], 2):
            word = row[self.split].strip()
            if word.lower() not in PARTS:
                problem = f"{printable(self.file, 500)}, line {number}: {shown(self.split)} is {shown(word)}"
                raise ValueError(f"{problem}; it must be one of {', '.join(PARTS)}")
            parts.setdefault(PARTS[word.lower()], []).append(row)
        return parts

    def _path(self, row: dict[str, str]) -> str:
        root = os.path.dirname(self.file) if self.root is None else self.root
        return os.path.join(root, row[self.image].strip() + (self.suffix or ""))

    def _labels(self, rows: dict[str, list[dict[str, str]]]) -> tuple[tuple[str, ...], dict[str, Tensor]]:
        if self.labels:
            return self.labels, {part: self._answers(part, lines) for part, lines in rows.items()}
        words = {part: [row[self.label].strip() for row in lines] for part, lines in rows.items()}
        if self.separator is None:
            self._check_named(words)
            return number_labels(words, self.classes)
        empty = {"", self.no_label}
        listed = {
            part: [
                [word for each in cell.split(self.separator) if (word := each.strip()) not in empty] for cell in cells
            ]
            for part, cells in words.items()
        }
        return number_labels(listed, self.classes, several=True)

    def _check_named(self, words: dict[str, list[str]]) -> None:
        for part, cells in words.items():
            if "" in cells:
                said = f"a line of {part} has nothing in the column {shown(self.label)}"
                raise ValueError(f"{printable(self.file, 500)}: {said}: fill it, or remove the line")

    def _answers(self, part: str, lines: list[dict[str, str]]) -> Tensor:
        """0, 1 or NaN of each line and class."""
        table = []
        for row in lines:
            cells = {name: row[name].strip().lower().removesuffix(".0") for name in self.labels}
            if wrong := [name for name, cell in cells.items() if cell not in ANSWERS]:
                said = f"{shown(row[self.image])} of {part} has {shown(row[wrong[0]])} in the column {shown(wrong[0])}"
                raise ValueError(f"{printable(self.file, 500)}: {said}; it must be 1, 0, or -1 or nothing")
            table.append([ANSWERS[cell] for cell in cells.values()])
        return torch.tensor(table)


def read_table(path: str, needed: list[str]) -> Iterator[dict[str, str]]:
    """The lines of a table by the names in its first one; empty lines are passed over.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no table in UTF-8, lacks a column of the `needed`, or has a line of another length.
    """
    name = printable(path, 500)
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            text = file.read()
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no table {name}: name a CSV or TSV file") from None
    except (OSError, ValueError) as error:  # the latter of other bytes than UTF-8, and of a path that no file can have
        raise ValueError(f"{name} cannot be read as a table ({printable(error, 300)}): save it in UTF-8") from None
    first = text.partition("\n")[0]
    lines = csv.reader(io.StringIO(text), delimiter=max(",;\t", key=first.count))
    try:
        columns = [column.strip() for column in next(lines, [])]
        for column in needed:
            if column not in columns:
                raise ValueError(unknown(f"{name}: the column {shown(column)}", column, columns, "There are"))
        if len(set(columns)) < len(columns):
            twice = sorted({column for column in columns if columns.count(column) > 1})
            raise ValueError(f"{name}: several columns are called {some(map(shown, twice))}: rename all but one")
        for line in lines:
            if line and len(line) != len(columns):
                said = f"{len(line)} values where the first line has {len(columns)}"
                raise ValueError(f"{name}, line {lines.line_num}: {said}: put quotes around those with a comma")
            if line:
                yield dict(zip(columns, line, strict=True))
    except csv.Error as error:
        raise ValueError(f"{name}, line {lines.line_num}: {printable(error, 300)}: repair the line") from None
