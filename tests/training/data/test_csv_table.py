"""Tables of pictures: one class, several, unknown ones; what is wrong is named with its line."""

import math
from pathlib import Path

import pytest
import torch
from PIL import Image

from zoo.training import RecipeError, load_recipe
from zoo.training.data.csv_table import CsvTable


@pytest.fixture
def table(tmp_path):
    """Writes a table of these lines, and the pictures a.png to f.png beside it; gives its data set."""
    for name in "abcdef":
        Image.new("L", (8, 8), ord(name)).save(tmp_path / f"{name}.png")

    def write(text, name="table.csv", **options):
        (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
        return CsvTable(file=str(tmp_path / name), **{"img_size": 8, "in_chans": 1, "workers": 0} | options)

    return write


LINES = "image,label,split\na.png,cat,train\nb.png,dog,Train\nc.png,cat,val\nd.png,dog,test\n"


@pytest.mark.parametrize("sign", [",", ";", "\t"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_a_class_and_a_part_a_line(table, sign, mark):
    splits = table(mark + LINES.replace(",", sign), split="split").load()
    assert {part: split.part.labels.tolist() for part, split in splits.items()} == {
        "train": [0, 1],
        "validation": [0],
        "test": [1],
    }
    assert splits["test"].class_names == ("cat", "dog") and splits["test"].describe(0).endswith("/d.png")
    images, labels = splits["train"].fetch([1], None)
    assert splits["train"].kind == "image" and images.shape == (1, 1, 8, 8) and labels.tolist() == [1]


def test_files_of_their_own_and_paths_elsewhere(table, tmp_path):
    table("id,kind\nc,10\n", "later.csv")
    root = str(tmp_path)
    (tmp_path / "lists").mkdir()
    other = str(tmp_path / "later.csv")
    data = table("id,kind\na,2\nb,10\n", "lists/first.csv", root=root, image="id", suffix=".png", label="kind")
    splits = CsvTable(**{**vars(data), "validation": other}).load()
    assert splits["train"].class_names == ("2", "10") and splits["validation"].part.labels.tolist() == [1]
    named = CsvTable(**{**vars(data), "validation": other, "classes": ("10", "7", "2")}).load()
    assert named["train"].class_names == ("10", "7", "2") and named["train"].part.labels.tolist() == [2, 0]


def test_several_classes_in_a_column(table):
    text = "image,Finding Labels,split\na.png,Mass|Nodule,train\nb.png,No Finding,train\nc.png,Nodule| Mass,val\n"
    options = {"label": "Finding Labels", "separator": "|", "split": "split"}
    splits = table(text, no_label="No Finding", **options).load()
    assert splits["train"].kind == "labels" and splits["train"].class_names == ("Mass", "Nodule")
    assert splits["train"].fetch([0, 1], None)[1].tolist() == [[1, 1], [0, 0]]
    assert splits["train"].fetch([0], None)[1].dtype == torch.float32
    assert table(text, **options).load()["train"].num_classes == 3, "it is a class unless one says otherwise"


def test_a_column_a_class_and_what_nobody_knows(table):
    text = "image,Edema,Mass,split\na.png,1.0,0,train\nb.png,,-1.0,train\nc.png,true,No,val\n"
    splits = table(text, labels=("Mass", "Edema"), split="split").load()
    assert splits["train"].class_names == ("Mass", "Edema") and splits["train"].kind == "labels"
    labels = splits["train"].fetch([0, 1], None)[1]
    assert labels[0].tolist() == [0, 1] and all(map(math.isnan, labels[1].tolist()))
    assert splits["validation"].fetch([0], None)[1].tolist() == [[0, 1]]


def test_patients_are_not_parted(table):
    lines = "".join(f"{name}.png,x,p{i // 2}\n" for i, name in enumerate("abcdef"))
    with pytest.warns(UserWarning, match="are drawn"):
        splits = table(f"image,label,patient\n{lines}", group="patient", validation_share=0.34).load()
    names = "".join(Path(path).stem for path, _ in splits["validation"].samples)
    assert names in ("ab", "cd", "ef") and len(splits["train"]) == 4


def test_a_picture_that_is_listed_twice(table):
    with pytest.warns(UserWarning, match="1 pictures of 'test' are listed for 'train' too: what is measured on 'test'"):
        table(LINES + "a.png,cat,train\na.png,cat,test\n", split="split").load()
    with pytest.raises(ValueError, match="/a.png and .*/a.png are one file under two classes"):
        table(LINES + "a.png,dog,train\n", split="split").load()
    text = "image,x,y,split\na.png,1,,train\na.png,1,,train\nb.png,0,1,val\n"
    assert len(table(text, split="split", labels=("x", "y")).load()["train"]) == 2


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        (LINES + "g.png,cat,train\n", {"split": "split"}, r"table.csv names a picture that is not there: .*g.png; see"),
        (LINES, {"image": "imag"}, "table.csv: the column 'imag' is unknown; did you mean 'image'"),
        (LINES, {"split": "label"}, "table.csv, line 2: 'label' is 'cat'; it must be one of train"),
        (LINES + "e.png,bird,val\n", {"split": "split"}, "validation has labels that are no class: 'bird'; the 2"),
        (LINES + "e.png,,val\n", {"split": "split"}, "a line of validation has nothing in the column 'label'"),
        (LINES + "e.png,cat\n", {}, "table.csv, line 6: 2 values where the first line has 3"),
        ("image,label,label\na.png,1,2\n", {}, "several columns are called 'label'"),
        ("image,label\n", {}, "table.csv has no line for training"),
        ("", {}, "the column 'image' is unknown"),
        ("image,x\na.png,2\n", {"labels": ("x",)}, "'a.png' of train has '2' in the column 'x'; it must be 1, 0"),
        (b"image,label\na.png,\xff\n", {}, "table.csv cannot be read as a table .*save it in UTF-8"),
        ('image,label\n"a.png,cat\n' + "x" * 200000, {}, "table.csv, line .*field larger than field limit"),
    ],
)
def test_what_is_wrong_is_named(table, text, options, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message) as said:
        table(text, **options).load()
    assert len(str(said.value)) < 2000


def test_a_table_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no table .*\\x1b.*: name a CSV or TSV file"):
        CsvTable(file=str(Path(tmp_path, "\x1b.csv"))).load()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("labels: [a], classes: [a]", "classes has no use: remove one of the two"),
        ("labels: [a], separator: ','", "separator has no use"),
        ("separator: ''", "separator is empty; give the sign"),
        ("split: a, test: b.csv", "test has no use"),
    ],
)
def test_options_that_exclude_each_other(options, message):
    with pytest.raises(RecipeError, match=message):
        load_recipe("recipes/mixer_digits.yaml", [f"data={{name: csv, file: x.csv, {options}}}"])
