"""``zoo export``: files in several formats, timed, in 8 bits; what cannot be had is said in a line."""

import numpy as np
import pytest
from commands import Command
from conftest import randomised
from PIL import Image

import zoo
from zoo.cli.support.trained import image_batches
from zoo.export import formats


@pytest.fixture
def command(capsys):
    return Command(capsys)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "mine"
    zoo.save_pretrained(randomised(zoo.create_model("mixer_test", num_classes=2)), folder)
    return folder


def test_several_formats_and_the_fastest(command, saved, tmp_path):
    arguments = ("export", str(saved), "--to", "onnx", "exported", "--out", str(tmp_path), "--time", "--threads", "1")
    rows = command.json(*arguments)
    assert [row["file"] for row in rows] == [str(tmp_path / "mine.onnx"), str(tmp_path / "mine.pt2")]
    assert all(row["difference"] < 1e-4 and row["milliseconds"] > 0 for row in rows)
    assert formats()["onnx"].facts(tmp_path / "mine.onnx")["input_size"] == [3, 32, 32]
    lines = command.text(*arguments).splitlines()
    assert lines[0].split() == ["format", "file", "difference", "milliseconds"] and len(lines) == 4
    assert lines[-1] in ("The fastest here is onnx.", "The fastest here is exported.")


def test_eight_bits_are_fitted_to_images_and_measured_on_others(command, saved, tmp_path):
    draw = np.random.default_rng(0)
    for number in range(40):
        folder = tmp_path / "images" / f"class {number % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw.integers(0, 256, (40, 36, 3), dtype=np.uint8)).save(folder / f"{number}.png")
    (row,) = command.json("export", str(saved), "--int8", str(tmp_path / "images"), "--out", str(tmp_path))
    assert abs(row["accuracy after"] - row["accuracy before"]) < 0.3
    assert row["difference"] > 1e-5
    (tmp_path / "images" / "class 2").mkdir()
    Image.new("RGB", (32, 32)).save(tmp_path / "images" / "class 2" / "one.png")
    assert "has 41 images of 3 classes; give 32 or more, of the model's 2" in command.refusal(
        "export", str(saved), "--int8", str(tmp_path / "images")
    )
    (tmp_path / "empty").mkdir()
    assert "empty has no images in folders" in command.refusal("export", str(saved), "--int8", str(tmp_path / "empty"))


@pytest.mark.parametrize("in_chans", [1, 3])
def test_images_have_as_many_channels_as_the_model_takes(in_chans, tmp_path):
    for number in range(32):
        (tmp_path / str(number % 2)).mkdir(exist_ok=True)
        Image.new("RGB", (32, 32)).save(tmp_path / str(number % 2) / f"{number}.png")
    first, _ = image_batches(tmp_path, zoo.create_model("mixer_test", in_chans=in_chans, num_classes=2))
    assert next(iter(first))[0].shape[1:] == (in_chans, 32, 32)


def test_both_kinds_of_programs_of_torch_and_a_name_with_a_point(command, saved, tmp_path):
    folder = saved.rename(saved.with_name("run.v1"))
    rows = command.json("export", str(folder), "--to", "exported", "--out", str(tmp_path))
    assert [row["file"] for row in rows] == [str(tmp_path / "run.v1.pt2")]
    folder.rename(saved)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["mixer_test"], "no weights of mixer_test are released; choose one of zoo list --pretrained, or a folder"),
        (["mixer_test", "--untrained", "--to", "onxx"], "format 'onxx' is unknown; did you mean 'onnx'?"),
        (["vmoe_test", "--untrained"], "cannot be exported to onnx: it sorts its choices by expert"),
        (["mixer_test", "--untrained", "--dynamic-size"], "cannot be exported for images of any size: blocks.0.token"),
        (["timm:test_vit"], "timm:test_vit: zoo export takes zoo's own models; zoo.export_model takes any module"),
        (["mixer_test", "--untrained", "--threads", "-3"], "--threads is -3; give 1 or more"),
        (["mixer_test", "--untrained", "--int8", "nowhere"], "nowhere is no folder; give one with a folder of images"),
    ],
)
def test_what_cannot_be_had_is_said_in_a_line(command, arguments, words):
    assert words in command.refusal("export", *arguments)
