"""What stands where a run would write or read is told before the training, whatever it is, and stays."""

import json
import os

import pytest
from safetensors.torch import save_file
from torch import zeros

from zoo.training import Trainer, dump_recipe, load_recipe
from zoo.training.runs.records import read_records

TEXT = """\
task: {name: classify}
model: {name: mixer_test, kwargs: {img_size: 8, patch_size: 4, in_chans: 1, num_classes: 10, depth: 1}}
data: {name: digits}
train: {duration: 2st, batch_size: 64, eval_every: 2st, checkpoint_every: 2st, log_every: 1st, threads: 1}
optim: {name: adamw, lr: 1e-3, weight_decay: 0.05}
schedule: {name: constant}
expect: {metric: test/top1, status: untested}
"""


@pytest.fixture
def recipe(tmp_path):
    (tmp_path / "tiny.yaml").write_text(TEXT)
    return load_recipe(tmp_path / "tiny.yaml")


@pytest.fixture
def run(recipe, tmp_path):
    """A folder with a recipe in it and nothing else."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "recipe.yaml").write_text(TEXT)
    return tmp_path / "run"


def refuse(recipe, run, message, kind=FileExistsError):
    """Before the first step, in a sentence; what is there stays."""
    before = sorted(run.rglob("*"))
    with pytest.raises(kind, match=message) as said:
        Trainer(recipe, run)
    assert len(str(said.value)) < 2000 and str(said.value).isprintable()
    assert before == sorted(run.rglob("*"))


# --- Where the model will be written ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["model", "segmenter", "several tasks"])
def test_a_model_folder_that_is_somebody_elses_is_told_before_the_training(recipe, run, kind):
    segment = ["task={name: segment}", "data={name: digit_canvas}", "model.kwargs={in_chans: 1}"]
    segment += ["model.name=vit_test", "model.pyramid={num_classes: 11, width: 8}", "expect.metric=test/miou"]
    several = ["task=null", "data=null", "tasks={digit: {task: {name: classify}, data: {name: digits}}}"]
    several += ["model.heads={digit: {name: classifier, num_classes: 10}}", "expect.metric=test/digit/top1"]
    several += ["model.kwargs={img_size: 8, patch_size: 4, in_chans: 1, depth: 1}"]
    changes = {"model": [], "segmenter": segment, "several tasks": several}[kind]
    changed = load_recipe(run / "recipe.yaml", changes)
    (run / "recipe.yaml").write_text(dump_recipe(changed))
    file = {"model": "config.json", "segmenter": "head.safetensors", "several tasks": "heads.safetensors"}[kind]
    (run / "model").mkdir()
    if kind == "model":
        (run / "model" / file).write_text("{}")
    else:
        save_file({"precious": zeros(1)}, run / "model" / file)
    refuse(changed, run, f"model/{file} was not written by .* would be lost; choose another folder")
    (run / "model" / file).unlink()
    (run / "model" / file).mkdir()
    refuse(changed, run, f"model/{file} is a folder")
    (run / "model" / file).rmdir()
    os.mkfifo(run / "model" / file)
    refuse(changed, run, f"model/{file} is a pipe or a device, where a file must be; move it elsewhere")
    (run / "model" / file).unlink()
    Trainer(changed, run)


def test_a_file_called_model_is_told_before_the_training_and_a_finished_run_is_none(recipe, run):
    (run / "model").write_text("precious")
    refuse(recipe, run, "model is there and is no folder; choose another")
    assert (run / "model").read_text() == "precious"
    (run / "model").unlink()
    metrics = Trainer(recipe, run).run()
    (run / "model" / "notes.txt").write_text("precious")
    assert Trainer(recipe, run).run() == metrics


# --- Where the files of a run will be written -------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["recipe.yaml", "metrics.jsonl", "run.lock"])
def test_what_is_no_file_in_the_place_of_one_is_told_and_not_opened(recipe, run, name):
    (run / name).unlink(missing_ok=True)
    os.mkfifo(run / name)
    refuse(recipe, run, f"{name} is a pipe or a device, where a file must be; move it elsewhere, or choose another")
    (run / name).unlink()
    (run / name).mkdir()
    refuse(recipe, run, f"{name} is a folder, where a file must be; move it elsewhere, or choose another folder")
    (run / name).rmdir()
    (run / name).symlink_to(name)
    refuse(recipe, run, rf"{name} cannot be written \(Too many levels of symbolic links", OSError)


def test_a_log_that_is_a_link_to_a_file_to_come_is_written_there(recipe, run, tmp_path):
    (run / "metrics.jsonl").symlink_to(tmp_path / "log.jsonl")
    Trainer(recipe, run).run()
    assert (tmp_path / "log.jsonl").read_text().count("\n") == 4


def test_what_is_no_folder_in_the_place_of_the_checkpoints(recipe, run):
    (run / "checkpoints").write_text("precious")
    refuse(recipe, run, "checkpoints is there and is no folder; choose another")
    (run / "checkpoints").unlink()
    os.mkfifo(run / "checkpoints")
    refuse(recipe, run, "checkpoints is there and is no folder; choose another")


@pytest.mark.parametrize("name", ["x" * 300, "\x1b[31m" + "x/" * 2030, None], ids=["name", "path", "path within it"])
def test_too_long_a_name_of_the_folder(recipe, tmp_path, name):
    folder = tmp_path / (name or "x/" * ((4050 - len(str(tmp_path))) // 2))
    with pytest.raises(OSError, match=r"cannot be written \(File name too long.* choose a shorter name") as said:
        Trainer(recipe, folder)
    assert len(str(said.value)) < 2000 and str(said.value).isprintable()


def test_a_pipe_among_the_files_of_a_checkpoint_is_not_opened(recipe, run):
    folder = run / "checkpoints" / "step-00000001"
    folder.mkdir(parents=True)
    (folder / "optimizer.pt").write_bytes(b"")
    os.mkfifo(folder / "model.safetensors")
    refuse(recipe, run, "step-00000001 cannot be resumed from: .*model.safetensors is missing", ValueError)


# --- Where a run began ------------------------------------------------------------------------------------------------


def test_the_run_that_another_began_at_is_known_by_whatever_path(recipe, tmp_path, monkeypatch):
    longer, run = load_recipe(tmp_path / "tiny.yaml", ["train.duration=4st"]), tmp_path / "run"
    Trainer(recipe, tmp_path / "source").run()
    monkeypatch.chdir(tmp_path)
    metrics = Trainer(longer, run, "source").run()
    assert read_records(run / "metrics.jsonl")[0]["from"] == str((tmp_path / "source").resolve())
    (tmp_path / "link").symlink_to("source")
    for source in (tmp_path / "source", "./run/../source", "link", tmp_path / "link" / ""):
        assert Trainer(longer, run, source).run() == metrics
    monkeypatch.chdir("/")
    Trainer(longer, run, tmp_path / "source")
    with pytest.raises(ValueError, match="holds a run that did not begin at source: choose another"):
        Trainer(longer, run, "source")


@pytest.mark.parametrize("written", ["source", "./source/", "\0", 3, None])
def test_a_record_of_an_older_version_names_the_run_as_it_was_given(recipe, tmp_path, monkeypatch, written):
    longer, run = load_recipe(tmp_path / "tiny.yaml", ["train.duration=4st"]), tmp_path / "run"
    Trainer(recipe, tmp_path / "source").run()
    Trainer(longer, run, tmp_path / "source").run()
    first = read_records(run / "metrics.jsonl")[0]
    (run / "metrics.jsonl").write_text(json.dumps(first | {"from": written}) + "\n")
    monkeypatch.chdir(tmp_path)
    if isinstance(written, str) and "source" in written:
        assert Trainer(longer, run, tmp_path / "source").step == 4
    else:
        with pytest.raises(ValueError, match="holds a run that did not begin at"):
            Trainer(longer, run, tmp_path / "source")


def test_a_path_that_nothing_can_have_is_no_run_to_begin_at(recipe, tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    for source in (tmp_path / "loop", "a\0b", "x" * 300, tmp_path / "none", tmp_path / "tiny.yaml" / "x"):
        with pytest.raises(FileNotFoundError, match="holds no checkpoint: give the folder of a run") as said:
            Trainer(recipe, tmp_path / "run", source)
        assert str(said.value).isprintable()
