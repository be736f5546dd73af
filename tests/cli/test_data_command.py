"""zoo data check: the kind of data is seen, every picture read, and the section it prints is one that trains."""

import io

import pytest
import yaml
from commands import Command
from picture_sets import SETS, WRITERS, write_shard
from PIL import Image

from zoo.training import load_recipe


@pytest.fixture
def command(capsys):
    return Command(capsys)


def png(number, size=(20, 30)):
    file = io.BytesIO()
    Image.new("L" if number % 2 else "RGB", size, number).save(file, "PNG")
    return file.getvalue()


def parts(bad=b"no picture"):
    """Eight pictures to train on, of which two are also to validate on, and one that cannot be read."""
    train = [(f"{i}.png", png(i), i % 2) for i in range(8)] + [("bad.png", bad, 0)]
    return {"train": train, "validation": train[2:4] + [("90.png", png(90, (40, 9)), 0)]}


def status(command, *arguments):
    with pytest.raises(SystemExit) as ended:
        command.text(*arguments)
    return ended.value.code


@pytest.mark.parametrize("name", SETS)
def test_what_is_there_is_told_and_named(command, capsys, tmp_path, name):
    root = tmp_path / "data"
    WRITERS[name](root, parts())
    place = str(root / "table.csv") if name == "csv" else str(root)
    assert status(command, "data", "check", place, "--json") == 1
    report = yaml.safe_load(capsys.readouterr().out)
    assert (report["format"], report["kind"], len(report["classes"])) == (name, "image", 2)
    train, validation = report["parts"]["train"], report["parts"]["validation"]
    assert (train["pictures"], validation["pictures"]) == (9, 3)
    assert [*train["classes"].values()] == [5, 4] and train["modes"] == {"RGB": 4, "L": 4}
    assert train["width"] == {"min": 20, "median": 20, "max": 20} and validation["height"]["min"] == 9
    (bad,) = report["unreadable"]
    assert bad["part"] == "train" and ("bad" in bad["name"] or "row 8" in bad["name"])
    assert len(report["duplicates"]) == 2 and not report["conflicts"]
    assert {each["part"] for each in report["duplicates"][0]} == {"train", "validation"}
    section = yaml.safe_load(report["recipe"])["data"]
    assert (section["img_size"], section["unreadable"]) == (32, "skip")
    loaded = load_recipe("recipes/mixer_digits.yaml", [f"data={yaml.safe_dump(section, default_flow_style=True)}"])
    assert {part: len(split) for part, split in loaded.data.load().items()} == {"train": 9, "validation": 3}


def test_for_people(command, capsys, tmp_path):
    WRITERS["image_folder"](tmp_path / "data", parts())
    assert status(command, "data", "check", str(tmp_path / "data")) == 1
    said = capsys.readouterr().out
    for words in (
        "image_folder: 2 classes, one class a picture",
        "20/20/20",
        "2 pictures are in several parts:",
        "1 cannot be read:\n",
        "bad.png cannot be read as a picture",
        "In a recipe:\n\ndata:\n  name: image_folder",
    ):
        assert words in said
    (tmp_path / "data" / "train" / "class0" / "bad.png").unlink()
    said = command.text("data", "check", str(tmp_path / "data"))
    assert "cannot be read" not in said and "unreadable" not in said


def test_torn_shards_and_missing_files_count_as_unreadable(command, capsys, tmp_path):
    WRITERS["webdataset"](tmp_path / "shards", {"train": parts()["train"][:8]})
    path = tmp_path / "shards" / "train-000001.tar"
    path.write_bytes(path.read_bytes()[:2500])
    assert status(command, "data", "check", str(tmp_path / "shards")) == 1
    assert "train-000001.tar is torn" in capsys.readouterr().out
    WRITERS["csv"](tmp_path / "csv", parts(bad=None))
    assert status(command, "data", "check", str(tmp_path / "csv" / "table.csv")) == 1
    assert "train-bad.png cannot be read" in capsys.readouterr().out


def test_one_picture_under_two_labels(command, tmp_path):
    WRITERS["image_folder"](tmp_path, {"train": [(f"{i}.png", png(i // 2), i % 2) for i in range(40)]})
    report = command.json("data", "check", str(tmp_path / "train"))
    assert len(report["conflicts"]) == 20 and "nothing for validation: 4 of its 40" in report["warnings"][0]
    assert "20 pictures are under several labels" in command.text("data", "check", str(tmp_path / "train"))


def test_columns_are_found(command, tmp_path):
    files = tmp_path / "images"
    files.mkdir()
    for i in range(12):
        (files / f"{i}.png").write_bytes(png(1))

    def section(head, line):
        text = "\n".join([head, *(line(i) for i in range(12))])
        (tmp_path / "list.csv").write_text(text + "\n")
        report = command.json("data", "check", str(tmp_path))
        return {key: value for key, value in yaml.safe_load(report["recipe"])["data"].items() if key != "file"}

    common = {"name": "csv", "root": str(files), "img_size": 32, "in_chans": 1}
    found = section(
        "Image Index,Finding Labels,Patient ID", lambda i: f"{i}.png,{('No Finding', 'A|B', 'B')[i % 3]},{i // 2}"
    )
    expected = {"image": "Image Index", "label": "Finding Labels", "separator": "|", "no_label": "No Finding"}
    assert found == common | expected | {"group": "Patient ID"}
    found = section("Path,Age,Edema,Mass", lambda i: f"{i}.png,{20 + i},{i % 2}.0,{'' if i % 3 else -1.0}")
    assert found == common | {"image": "Path", "labels": ["Edema", "Mass"]}
    found = section("path,species,set", lambda i: f"{i}.png,{'xy'[i % 2]},{'train' if i < 9 else 'val'}")
    assert found == common | {"image": "path", "label": "species", "split": "set"}


def test_names_of_classes_are_escaped(command, tmp_path):
    for name in ("a\x1b[31m", "b"):
        (tmp_path / name).mkdir()
        for i in range(6):
            (tmp_path / name / f"{i}.png").write_bytes(png(i))
    said = command.text("data", "check", str(tmp_path))
    assert r"a\x1b[31m" in said and "\x1b" not in said


def test_keys_of_json_are_found(command, tmp_path):
    content = [(f"{i}.png", png(i), b'{"width": 3, "label": %d}' % (i % 2)) for i in range(20)]
    write_shard(tmp_path / "pictures.tar", content, "json")
    report = command.json("data", "check", str(tmp_path / "pictures.tar"))
    assert yaml.safe_load(report["recipe"])["data"]["label"] == "label" and report["classes"] == ["0", "1"]


def test_what_is_no_data_is_said(command, tmp_path):
    assert "there is nothing at" in command.refusal("data", "check", str(tmp_path / "none"))
    assert "must hold train/<class>/" in command.refusal("data", "check", str(tmp_path))
    (tmp_path / "x.txt").write_text("text")
    assert "is no table (.csv, .tsv) and no shard" in command.refusal("data", "check", str(tmp_path / "x.txt"))
    (tmp_path / "x.csv").write_text("a,b\n1,2\n")
    assert "none of the columns a, b has paths of pictures" in command.refusal("data", "check", str(tmp_path / "x.csv"))
    (tmp_path / "x.tar").write_bytes(b"no archive")
    assert "there is no sample" in command.refusal("data", "check", str(tmp_path / "x.tar"))
    assert "chek" in command.refusal("data", "chek", str(tmp_path))
