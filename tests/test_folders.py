"""Folders of segmenters and runs: what lies beside zoo's own files stays, and what a kill left does not pile up."""

import itertools
import multiprocessing
import os
import signal

import pytest
import torch
from conftest import randomised

import zoo
from zoo.training import segmenter
from zoo.training.folder import RunFolder
from zoo.training.segmenter import Pyramid, Segmenter


def make(**kwargs) -> Segmenter:
    return randomised(Segmenter("vit_test", Pyramid(num_classes=3, width=8, out_indices=(0, 1)), in_chans=1, **kwargs))


def opens_as(model: Segmenter, folder) -> bool:
    x = torch.randn(1, 1, 32, 32)
    return torch.equal(Segmenter.open(folder).eval()(x), model(x))


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


def test_what_somebody_put_into_a_backbone_stays_when_it_is_replaced(tmp_path):
    model = make()
    model.save(tmp_path)
    (tmp_path / "backbone" / "notes.txt").write_text("precious")
    model.save(tmp_path)
    model.save(tmp_path)
    assert [path.name for path in (tmp_path / "backbone").iterdir()] == ["notes.txt"] and opens_as(model, tmp_path)
    assert len(list(tmp_path.iterdir())) == 3


def test_a_backbone_of_somebody_else_is_not_overwritten(tmp_path):
    (tmp_path / "backbone").mkdir()
    (tmp_path / "backbone" / "config.json").write_text("{}")
    model = make()
    model.save(tmp_path)
    model.save(tmp_path)
    assert (tmp_path / "backbone" / "config.json").read_text() == "{}" and opens_as(model, tmp_path)
    (tmp_path / "other").mkdir()
    segmenter.save_file({"a": torch.ones(1)}, tmp_path / "other" / "head.safetensors")
    with pytest.raises(FileExistsError, match="head.safetensors was not written by Segmenter.save"):
        model.save(tmp_path / "other")
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["head.safetensors"]


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
def test_a_damaged_head_is_told_and_put_right_by_saving(damage, tmp_path):
    model, path = make(), tmp_path / "head.safetensors"
    model.save(tmp_path)
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-10])
    else:
        meta = {"backbone": "backbone", "pyramid": "{num_classes: 3, width: 4, out_indices: [0, 1]}"}
        segmenter.save_file(model.head.state_dict(), path, metadata=meta)
    with pytest.raises(ValueError, match="head.safetensors (is not a whole safetensors file|do not fit the model)"):
        Segmenter.open(tmp_path)
    model.save(tmp_path)
    assert opens_as(model, tmp_path)


# --- Kills ------------------------------------------------------------------------------------------------------------

OPERATIONS = ("fsync", "replace", "unlink", "rename", "rmdir")


def killed_at(instant: int, save) -> bool:
    """Run `save` in a process that kills itself before the n-th of its operations on files; whether it came so far."""

    def child():
        calls = itertools.count(1)

        def counted(function):
            def wrapper(*args, **kwargs):
                if next(calls) == instant:
                    os.kill(os.getpid(), signal.SIGKILL)
                return function(*args, **kwargs)

            return wrapper

        for name in OPERATIONS:
            setattr(os, name, counted(getattr(os, name)))
        save()

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode != 0


def test_a_kill_at_any_instant_leaves_a_whole_segmenter_and_what_it_leaves_is_cleared(tmp_path):
    old, new, found = make(), make(token_mixer="pool"), set()
    for instant in itertools.count(1):
        old.save(tmp_path)
        assert len(list(tmp_path.iterdir())) == 2, "leftovers"
        killed = killed_at(instant, lambda: new.save(tmp_path))
        found.add(opens_as(new, tmp_path))
        assert opens_as(new, tmp_path) or (killed and opens_as(old, tmp_path))
        if not killed:
            break
    assert instant > 8 and found == {True, False}


def test_what_killed_saves_of_a_model_leave_is_cleared(tmp_path):
    old, new = (zoo.create_model(name) for name in ("vit_test", "mixer_test"))
    for instant in itertools.count(1):
        zoo.save_pretrained(old, tmp_path)
        assert len(list(tmp_path.iterdir())) == 2
        if not killed_at(instant, lambda: zoo.save_pretrained(new, tmp_path)):
            break
    assert instant > 6


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
    weights, optimizer = folder.load_checkpoint(folder.checkpoints / "step-00000003", ["model"])
    assert weights["model"]["w"].tolist() == [3.0, 3.0] and optimizer == {"step": 3}
