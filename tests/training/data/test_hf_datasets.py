"""Data sets of Hugging Face's: of a folder and by name, with the columns found or named."""

import io
import sys

import numpy as np
import pytest
from picture_sets import hf_table
from PIL import Image

from zoo.training.data.hf_dataset import HfDataset

datasets = pytest.importorskip("datasets")
PLAIN = {"img_size": 8, "in_chans": 1, "workers": 0}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()


def png(level):
    file = io.BytesIO()
    Image.new("L", (8, 8), level).save(file, "PNG")
    return file.getvalue()


PICTURES = [(f"{i}.png", png(20 * i), i % 2) for i in range(6)]


def table(label, feature, rows=6):
    features = datasets.Features({"picture": datasets.Image(), label: feature})
    images = [{"bytes": content, "path": None} for _, content, _ in PICTURES[:rows]]
    return lambda values: datasets.Dataset.from_dict({"picture": images, label: values}, features=features)


def test_a_folder_of_parquet(tmp_path):
    for part in ("train", "test"):
        (tmp_path / "files").mkdir(exist_ok=True)
        hf_table(PICTURES).to_parquet(str(tmp_path / "files" / f"{part}.parquet"))
    splits = HfDataset(path=str(tmp_path / "files"), **PLAIN, validation="test").load()
    assert {part: len(split) for part, split in splits.items()} == {"train": 6, "validation": 6, "test": 6}
    assert splits["test"].class_names == ("class0", "class1") and splits["test"].describe(3).endswith("test, row 3")
    images, labels = HfDataset(path=str(tmp_path / "files"), **PLAIN).load()["test"].fetch([3, 4], None)
    assert labels.tolist() == [1, 0] and images[0].unique().numel() == 1


def test_a_folder_of_pictures_with_metadata(tmp_path):
    for part in ("train", "validation"):
        (tmp_path / "files" / part).mkdir(parents=True)
        lines = []
        for name, content, label in PICTURES:
            (tmp_path / "files" / part / name).write_bytes(content)
            lines.append(f'{{"file_name": "{name}", "label": "kind{label}"}}\n')
        (tmp_path / "files" / part / "metadata.jsonl").write_text("".join(lines))
    split = HfDataset(path=str(tmp_path / "files"), **PLAIN).load()["validation"]
    assert split.class_names == ("kind0", "kind1") and len(split) == 6
    assert split.read(2).getpixel((0, 0)) == 40


def test_a_name_of_the_hub(monkeypatch):
    asked = []

    def load(path, name=None, revision=None):
        asked.append((path, name, revision))
        return datasets.DatasetDict(train=hf_table(PICTURES), valid=hf_table(PICTURES))

    monkeypatch.setattr(datasets, "load_dataset", load)
    splits = HfDataset(path="zoo/pictures", config="small", revision="abc123", **PLAIN).load()
    assert asked == [("zoo/pictures", "small", "abc123")] and [*splits] == ["train", "validation"]


def test_what_the_hub_says_is_handed_on(monkeypatch):
    def load(*args, **kwargs):
        raise ConnectionError("no route to \x1b[31m" + "x" * 5000)

    monkeypatch.setattr(datasets, "load_dataset", load)
    with pytest.raises(ValueError, match=r"the data set 'zoo/none' cannot be loaded \(no route to \\x1b") as said:
        HfDataset(path="zoo/none").load()
    assert len(str(said.value)) < 2000


def test_without_the_package_it_is_said_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ModuleNotFoundError, match=r"datasets is not installed, .*pip install 'zoo\[data\]'"):
        HfDataset(path="zoo/none").load()


@pytest.mark.parametrize(
    ("feature", "values", "names", "labels"),
    [
        ("string", ["b", "a", "b", "a", "a", "b"], ("a", "b"), [1, 0, 1, 0, 0, 1]),
        ("int64", [5, 7, 5, 7, 7, 12], ("5", "7", "12"), [0, 1, 0, 1, 1, 2]),
    ],
)
def test_labels_without_class_names(tmp_path, feature, values, names, labels):
    table("label", datasets.Value(feature))(values).save_to_disk(str(tmp_path / "data"))
    with pytest.warns(UserWarning, match="are drawn"):
        data = HfDataset(path=str(tmp_path / "data"), validation_share=0.2, **PLAIN)
        splits = data.load()
    assert splits["train"].class_names == names
    drawn = [row for row, _ in splits["validation"].samples]
    assert [label for _, label in splits["validation"].samples] == [labels[row] for row in drawn]


def test_several_classes_a_row(tmp_path):
    of_classes = datasets.Sequence(datasets.ClassLabel(names=["x", "y", "z"]))
    both = table("tags", of_classes)([[0], [], [2, 0], [1], [1, 2], []])
    datasets.DatasetDict(train=both, validation=both).save_to_disk(str(tmp_path / "data"))
    split = HfDataset(path=str(tmp_path / "data"), **PLAIN).load()["train"]
    assert split.kind == "labels" and split.class_names == ("x", "y", "z")
    assert split.fetch([0, 1, 2], None)[1].tolist() == [[1, 0, 0], [0, 0, 0], [1, 0, 1]]


def test_a_test_split_without_answers_is_none(tmp_path):
    hidden = [(name, content, -1) for name, content, _ in PICTURES]
    shown = hf_table(PICTURES)
    unlabelled = shown.remove_columns("label").add_column("label", [label for *_, label in hidden])
    datasets.DatasetDict(train=shown, validation=shown, test=unlabelled.cast(shown.features)).save_to_disk(
        str(tmp_path / "data")
    )
    with pytest.warns(UserWarning, match="no row of its test split has a class: it is left out"):
        assert [*HfDataset(path=str(tmp_path / "data"), **PLAIN).load()] == ["train", "validation"]


def test_columns_and_splits_that_are_not_there(tmp_path):
    def said(data, **options):
        with pytest.raises(ValueError) as error:
            HfDataset(path=str(tmp_path / data), **options).load()
        return str(error.value)

    twice = hf_table(PICTURES).add_column("name", ["n"] * 6)
    twice.save_to_disk(str(tmp_path / "one"))
    assert "the split 'tran' is unknown; did you mean 'train'" in said("one", train="tran")
    assert "the column 'imag' is unknown; did you mean 'image'" in said("one", image="imag")
    assert "the column 'name' holds no pictures; those that do: image" in said("one", image="name")
    assert "the column 'lable' is unknown" in said("one", label="lable")
    twice.remove_columns(["label", "image"]).save_to_disk(str(tmp_path / "none"))
    assert "none of name holds pictures: name the column as data.image" in said("none")
    twice.remove_columns(["label"]).save_to_disk(str(tmp_path / "unlabelled"))
    assert "which of image, name has the classes is not clear: name it as data.label" in said("unlabelled")
    datasets.DatasetDict(all=twice).save_to_disk(str(tmp_path / "other"))
    assert "has the splits all, none called train: name the one to train on" in said("other")
    gap = table("label", datasets.Value("string"))(["a", None, "b", "a", "b", "a"])
    gap.save_to_disk(str(tmp_path / "gap"))
    assert "a row of its train split has nothing in the column 'label'" in said("gap")
    (tmp_path / "one" / "dataset_info.json").write_text("{")
    assert "cannot be loaded" in said("one")


def test_numpy_formats_and_transforms_of_a_table_change_nothing(tmp_path, monkeypatch):
    odd = datasets.DatasetDict(train=hf_table(PICTURES).with_format("numpy"), test=hf_table(PICTURES))
    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **kwargs: odd)
    split = HfDataset(path="some/name", validation="test", **PLAIN).load()["train"]
    assert np.asarray(split.read(1)).mean() == 20 and split.fetch([1], None)[1].tolist() == [1]
