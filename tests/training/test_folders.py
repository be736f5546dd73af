"""Folders of segmenters, of models for several tasks, and of runs: what lies beside zoo's own files stays."""

import re

import pytest
import torch
from conftest import randomised
from safetensors import safe_open
from safetensors.torch import load_file

import zoo
from zoo.training import Classifier, Dense, MultiTask
from zoo.training.models import parts
from zoo.training.models.segmenter import Pyramid, Segmenter
from zoo.training.runs.folder import RunFolder


def make(**kwargs) -> Segmenter:
    return randomised(Segmenter("vit_test", Pyramid(num_classes=3, width=8, out_indices=(0, 1)), in_chans=1, **kwargs))


def make_tasks(**kwargs) -> MultiTask:
    heads = {"kind": Classifier(3), "part": Dense(3, width=8, out_indices=(0, 1))}
    return randomised(MultiTask("vit_test", heads, in_chans=1, **kwargs))


# What makes a model, the name of the folder below it, and that of the file of its heads.
KINDS = {"segmenter": (make, "backbone", "head.safetensors"), "tasks": (make_tasks, "trunk", "heads.safetensors")}


@pytest.fixture(params=KINDS)
def kind(request):
    return KINDS[request.param]


def opens_as(model: Segmenter | MultiTask, folder) -> bool:
    x, again = torch.randn(1, 1, 32, 32), type(model).open(folder).eval()
    calls = [{"task": name} for name in model.config] if isinstance(model, MultiTask) else [{}]
    return all(torch.equal(again(x, **given), model(x, **given)) for given in calls)


def test_what_lies_beside_a_segmenter_stays(tmp_path):
    model = make()
    mine = [
        "backbone_pretrained/x",
        "backbones.txt",
        "backbone-00000100/x",
        "backbone-x",
        ".backbone.tmp/x",
        "head.pth",
    ]
    for name in mine:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("precious")
    for _ in range(3):
        model.save(tmp_path)
    assert all((tmp_path / name).read_text() == "precious" for name in mine) and opens_as(model, tmp_path)
    assert len(list(tmp_path.iterdir())) == len(mine) + 2


def test_what_somebody_put_beside_the_weights_stays_when_they_are_replaced(kind, tmp_path):
    make, below, _ = kind
    model = make()
    model.save(tmp_path)
    (tmp_path / below / "notes.txt").write_text("precious")
    model.save(tmp_path)
    model.save(tmp_path)
    assert [path.name for path in (tmp_path / below).iterdir()] == ["notes.txt"] and opens_as(model, tmp_path)
    assert len(list(tmp_path.iterdir())) == 3


def test_what_is_of_somebody_else_is_not_overwritten(kind, tmp_path):
    make, below, heads = kind
    (tmp_path / below).mkdir()
    (tmp_path / below / "config.json").write_text("{}")
    model = make()
    model.save(tmp_path)
    model.save(tmp_path)
    assert (tmp_path / below / "config.json").read_text() == "{}" and opens_as(model, tmp_path)
    (tmp_path / "other").mkdir()
    parts.save_file({"a": torch.ones(1)}, tmp_path / "other" / heads)
    with pytest.raises(FileExistsError, match=f"{heads} was not written by {type(model).__name__}.save"):
        model.save(tmp_path / "other")
    assert [path.name for path in (tmp_path / "other").iterdir()] == [heads]


def test_heads_that_are_no_safetensors_are_somebody_elses(kind, tmp_path):
    make, below, heads = kind
    model = make()
    (tmp_path / heads).write_text("my own")
    with pytest.raises(FileExistsError, match=f"{heads} was not written by {type(model).__name__}.save"):
        model.save(tmp_path)
    (tmp_path / below).mkdir()
    (tmp_path / below / "config.json").write_text("{}")
    with pytest.raises(FileExistsError, match=f"{heads} was not written by {type(model).__name__}.save"):
        model.save(tmp_path)
    assert (tmp_path / heads).read_text() == "my own"
    (tmp_path / heads).write_text("")
    model.save(tmp_path)
    assert opens_as(model, tmp_path)


def test_where_no_model_is_one_is_told(kind, tmp_path):
    for name in ("x" * 5000, "a\x1b[31m", "a\0b"):
        with pytest.raises(FileNotFoundError, match="there is no") as error:
            type(kind[0]()).open(tmp_path / name)
        assert str(error.value).isprintable() and len(str(error.value)) < 2000


def test_a_segmenter_that_no_file_can_hold_is_refused_before_anything_is_touched(tmp_path):
    good = make()
    good.save(tmp_path / "old")
    odd = make(channel_mixer={"name": "moe", "num_experts": 2, "experts": zoo.blocks.channel.mlp.Mlp})
    for folder in (tmp_path / "old", tmp_path / "new"):
        with pytest.raises(ValueError, match="channel_mixer moe: experts is .*zoo.register_block"):
            odd.save(folder)
    assert opens_as(good, tmp_path / "old") and not (tmp_path / "new").exists()
    assert sorted(path.name for path in (tmp_path / "old").iterdir()) == ["backbone", "head.safetensors"]


@pytest.mark.parametrize("damage", ["cut", "shape"])
def test_damaged_heads_are_told_and_put_right_by_saving(kind, damage, tmp_path):
    make, below, heads = kind
    model, path = make(), tmp_path / heads
    model.save(tmp_path)
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-10])
    else:
        with safe_open(path, "pt") as file:
            metadata = {key: re.sub(r'("width": )8', r"\g<1>4", text) for key, text in file.metadata().items()}
        parts.save_file(load_file(path), path, metadata=metadata)
    with pytest.raises(ValueError, match=f"{heads} (is not a whole safetensors file|do not fit the model)"):
        type(model).open(tmp_path)
    model.save(tmp_path)
    assert opens_as(model, tmp_path)


# --- Runs -------------------------------------------------------------------------------------------------------------


def checkpoint(folder: RunFolder, step: int) -> None:
    folder.save_checkpoint(step, {"model": {"w": torch.full((2,), float(step))}}, {"step": step})


def test_what_lies_beside_checkpoints_stays(tmp_path):
    folder = RunFolder(tmp_path)
    checkpoint(folder, 1)
    mine = ["keep/x", ".DS_Store", "best.partial/x", "step-1/x", "step-00000001/notes.txt", "step-00000000"]
    for name in mine:
        (folder.checkpoints / name).parent.mkdir(exist_ok=True)
        (folder.checkpoints / name).write_text("precious")
    (folder.checkpoints / "step-00000002.partial").mkdir()  # of a run that was killed
    for step in (2, 3):
        checkpoint(folder, step)
    assert all((folder.checkpoints / name).read_text() == "precious" for name in mine)
    assert [path.name for path in (folder.checkpoints / "step-00000001").iterdir()] == ["notes.txt"]
    left = {path.name for path in folder.checkpoints.iterdir()}
    assert left == {name.split("/")[0] for name in mine} | {"step-00000003"}
    weights, optimizer, facts = folder.load_checkpoint(folder.checkpoints / "step-00000003", ["model"])
    assert weights["model"]["w"].tolist() == [3.0, 3.0] and optimizer == {"step": 3} and facts["step"] == 3
