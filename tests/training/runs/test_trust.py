"""What a run's folder may hold: other trainings, other recipes, damaged files, files of others."""

import itertools
import json
import multiprocessing
import os
import random
import shutil
import socket
import warnings

import pytest
import torch
from safetensors.torch import load_file, save_file
from trainings import TINY, kill_at

from zoo.storage import locks
from zoo.training import Trainer, load_recipe
from zoo.training.runs import checkpoints
from zoo.training.runs.lock import FolderLock
from zoo.training.runs.records import append_record, keep_records, read_records

TEXT = TINY


@pytest.fixture
def killed_run(make_recipe, tmp_path):
    """The folder of a run that died after the checkpoint of step 4."""
    kill_at(Trainer(make_recipe(), tmp_path / "run"), 5)
    return tmp_path / "run"


@pytest.fixture
def checkpoint(killed_run):
    return killed_run / "checkpoints" / "step-00000004"


# --- Who writes -------------------------------------------------------------------------------------------------------


def test_a_second_training_is_told_who_holds_the_folder(make_recipe, tmp_path):
    first, late = (Trainer(make_recipe(), tmp_path / "run") for _ in range(2))
    said = (
        f"run is in use by another process.*: process {os.getpid()} on {socket.gethostname()}, since 20.* remove .*lock"
    )
    with first.folder.held():
        with pytest.raises(FileExistsError, match=said):
            Trainer(make_recipe(), tmp_path / "run")
        with pytest.raises(FileExistsError, match=said):
            late.run()
        first.run()
    assert not first.folder.lock.path.exists()
    with pytest.raises(FileExistsError, match="run was trained in by another process since it was opened"):
        late.run()


def test_a_lock_of_another_process_holds_until_it_is_killed(tmp_path):
    folder_lock, context = FolderLock(tmp_path / "run.lock"), multiprocessing.get_context("fork")
    held, never = context.Event(), context.Event()

    def hold():
        with FolderLock(tmp_path / "run.lock").held():
            held.set()
            never.wait()

    process = context.Process(target=hold)
    process.start()
    assert held.wait(30)
    assert folder_lock.holder().startswith(f"process {process.pid} on ")
    with pytest.raises(FileExistsError, match=f"process {process.pid} on"), folder_lock.held():
        pass
    process.kill()
    process.join()
    assert folder_lock.holder() is None and folder_lock.path.exists(), "what is left of it counts for nothing"
    with folder_lock.held(), folder_lock.held():
        assert json.loads(folder_lock.path.read_text())["pid"] == os.getpid()
    assert not folder_lock.path.exists()


def test_a_fork_of_the_holder_does_not_hold_the_lock(tmp_path):
    context = multiprocessing.get_context("fork")
    one, other = FolderLock(tmp_path / "run.lock"), FolderLock(tmp_path / "run.lock")
    with one.held():
        child = context.Process(target=context.Event().wait)
        child.start()
    assert other.holder() is None
    with other.held():
        pass
    child.kill()
    child.join()


@pytest.mark.parametrize("content", [b"", bytes(64), b'{"pid"', b'{"pid": "x", "host": 7}', b'{"pid": 1e400}'])
def test_a_lock_file_that_nobody_holds_is_taken_over(tmp_path, content):
    (tmp_path / "run.lock").write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of one of another machine
        with FolderLock(tmp_path / "run.lock").held():
            pass
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", [b"my notes", b"[]", b"\xff", b'{"packages": []}'])
def test_a_file_of_the_name_of_the_lock_that_zoo_did_not_write_stays(make_recipe, tmp_path, content):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.lock").write_bytes(content)
    with pytest.raises(FileExistsError, match="run.lock was not written by zoo and would be lost: move it elsewhere"):
        Trainer(make_recipe(), tmp_path / "run").run()
    assert [path.read_bytes() for path in (tmp_path / "run").iterdir()] == [content]


def test_a_lock_that_another_machine_left_is_taken_over_with_a_warning(tmp_path):
    (tmp_path / "run.lock").write_text('{"pid": 1, "host": "elsewhere", "since": "2020-02-02T02:02:02+00:00"}')
    said = "run.lock was left by process 1 on elsewhere, since 2020-02-02.*taken over"
    with pytest.warns(UserWarning, match=said), FolderLock(tmp_path / "run.lock").held():
        pass


@pytest.mark.parametrize(
    ("pid", "host", "since", "held"),
    [
        (os.getpid(), socket.gethostname(), "2100-01-01T00:00:00+00:00", True),
        (os.getpid(), socket.gethostname(), "2000-01-01T00:00:00+00:00", False),  # the number was given anew
        (2**22 + 1, socket.gethostname(), "2100-01-01T00:00:00+00:00", False),
        (1, "elsewhere", "2000-01-01T00:00:00+00:00", True),
    ],
    ids=["it runs", "its number was given anew", "it is gone", "on another machine"],
)
def test_where_files_cannot_be_locked_the_process_is_asked_after(tmp_path, monkeypatch, pid, host, since, held):
    monkeypatch.setattr(locks, "fcntl", None)
    path = tmp_path / "run.lock"
    path.write_text(json.dumps({"pid": pid, "host": host, "since": since}))
    assert (FolderLock(path).holder() is not None) == held
    if held:
        with pytest.raises(FileExistsError, match="in use by another process"), FolderLock(path).held():
            pass
    else:
        with FolderLock(path).held(), pytest.raises(FileExistsError, match="in use"), FolderLock(path).held():
            pass
        assert not path.exists()


def test_a_lock_that_was_taken_away_stops_the_first(make_recipe, tmp_path):
    first, second = (Trainer(make_recipe(), tmp_path / "run") for _ in range(2))
    with first.folder.held():
        first.folder.lock.path.unlink()
        first.fit()  # nobody else is there
        with (
            second.folder.held(),
            pytest.raises(FileExistsError, match="run.lock is no longer the lock of this process"),
        ):
            first.save_checkpoint()


def test_a_folder_that_cannot_be_written_is_named(make_recipe, killed_run, monkeypatch):
    trainer = Trainer(make_recipe(), killed_run)
    opened = os.open

    def refused(path, flags, *args, **kwargs):
        if flags & os.O_CREAT:
            raise OSError(30, "Read-only file system", str(path))
        return opened(path, flags, *args, **kwargs)

    monkeypatch.setattr(os, "open", refused)
    with pytest.raises(OSError, match="run.lock cannot be written .Read-only file system.*choose a folder that is not"):
        trainer.run()


# --- Whose folder it is -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("left", ["finished", "killed before its first checkpoint"])
def test_a_run_without_checkpoints_is_not_taken_over_by_another_recipe(make_recipe, tmp_path, left):
    Trainer(make_recipe(), tmp_path / "run").run()
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    if left != "finished":
        shutil.rmtree(tmp_path / "run" / "model")
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    with pytest.raises(
        ValueError, match=r"run holds a run of another recipe \(optim.lr: 0.001 -> 0.01\): choose another"
    ):
        Trainer(make_recipe("optim.lr=1e-2"), tmp_path / "run")
    assert before == {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}


def test_ones_own_recipe_in_the_output_folder_stays(tmp_path):
    own = tmp_path / "experiment" / "recipe.yaml"
    own.parent.mkdir()
    own.write_text("# tuned for weeks\n" + TEXT)
    with pytest.raises(ValueError, match="experiment holds a run of another recipe"):
        Trainer(load_recipe(own, ["optim.lr=1e-2"]), own.parent)
    kill_at(Trainer(load_recipe(own, ["train.eval_every=3st"]), own.parent), 3)
    metrics = Trainer(load_recipe(own), own.parent).run()
    assert own.read_text() == "# tuned for weeks\n" + TEXT
    assert Trainer(load_recipe(own), tmp_path / "other").run() == metrics
    with (tmp_path / "other" / "recipe.yaml").open("a") as file:
        file.write("# the best so far\n")
    Trainer(load_recipe(own, ["train.eval_every=3st"]), tmp_path / "other").run()
    assert (tmp_path / "other" / "recipe.yaml").read_text().endswith("# the best so far\n")


def test_a_recipe_that_an_older_version_wrote_is_taken_for_its_own(make_recipe, killed_run):
    path = killed_run / "recipe.yaml"
    marked = path.read_text()
    assert marked.startswith("# Written by zoo")
    path.write_text(marked.partition("\n")[2])
    Trainer(make_recipe("train.eval_every=3st"), killed_run).run()
    assert path.read_text() == marked.replace("eval_every: 6st", "eval_every: 3st")


def test_what_a_kill_before_the_recipe_leaves_is_no_hindrance(make_recipe, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".zoo-01234567.tmp").mkdir()
    for name in ("run.lock", ".zoo-01234567.tmp/lock", ".zoo-01234567.tmp/recipe.yaml", ".DS_Store"):
        (tmp_path / "run" / name).write_bytes(b"")
    Trainer(make_recipe(), tmp_path / "run").run()
    left = {path.name for path in (tmp_path / "run").iterdir()}
    assert left == {".DS_Store", "recipe.yaml", "sessions.jsonl", "metrics.jsonl", "checkpoints", "model"}
    (tmp_path / "file").write_text("x")
    with pytest.raises(FileExistsError, match="file is there and is no folder; choose another"):
        Trainer(make_recipe(), tmp_path / "file")


# --- Checkpoints ------------------------------------------------------------------------------------------------------


def test_every_flipped_bit_is_found_and_its_file_named(make_recipe, killed_run, checkpoint):
    rng = random.Random(0)
    for path in sorted(checkpoint.iterdir()):
        content = path.read_bytes()
        for place in [0, len(content) - 1, *(rng.randrange(len(content)) for _ in range(20))]:
            damaged = bytearray(content)
            damaged[place] ^= 1 << rng.randrange(8)
            path.write_bytes(damaged)
            with pytest.raises(
                ValueError, match=f"step-00000004 cannot be resumed from: .*{path.name} is damaged"
            ) as said:
                Trainer(make_recipe(), killed_run)
            assert len(str(said.value)) < 2000
        path.write_bytes(content)
    assert Trainer(make_recipe(), killed_run).step == 4


SEALED = [
    ({"step": 4}, "it has no sha256"),
    ({"sha256": {}}, "it has no step"),
    ({"step": 4, "sha256": {}}, "sha256 has nothing of model.safetensors"),
    ({"step": 4, "sha256": {"model.safetensors": "a"}}, "sha256 has nothing of optimizer.pt"),
    ({"step": 4, "sha256": ["a"]}, "sha256 is .'a'., a list"),
    ({"step": 4, "sha256": {"model.safetensors": 1, "optimizer.pt": "b"}}, "sha256.'model.safetensors'. is 1"),
    ({"step": 4, "sha256": {"../../other": "a"}}, "a key of sha256 is '../../other'"),
    ({"step": "4"}, "step is '4', a str"),
    ({"step": True}, "step is True, a bool"),
    ({"step": -1}, "step is -1"),
    ({"first_losses": [1.0]}, "first_losses is .1.0., a list"),
    ({"first_losses": {"": "1"}}, "first_losses.''. is '1', a str"),
    ({"first_losses": {"": float("nan")}}, "first_losses.''. is nan"),
    ({"unreadable": -3}, "unreadable is -3"),
]


@pytest.mark.parametrize(("summary", "said"), SEALED, ids=range(len(SEALED)))
def test_a_summary_is_checked_also_where_its_seal_is_right(make_recipe, killed_run, checkpoint, summary, said):
    (checkpoint / "checkpoint.json").write_bytes(checkpoints._sealed(summary))
    with pytest.raises(ValueError, match=f"4 cannot be resumed from: .*checkpoint.json is damaged: {said}"):
        Trainer(make_recipe(), killed_run)
    with pytest.raises(ValueError, match=f"checkpoint.json is damaged: {said}"):
        checkpoints.read_summary(checkpoint)


def test_an_average_that_the_summary_does_not_know_is_not_read(killed_run, checkpoint):
    shutil.copy(checkpoint / "model.safetensors", checkpoint / "ema.safetensors")
    with pytest.raises(ValueError, match="ema.safetensors is missing: checkpoint.json knows of none"):
        checkpoints.read_checkpoint(checkpoint, ["model", "ema"])


@pytest.mark.parametrize("renames", range(4))
def test_a_kill_while_a_checkpoint_is_written_anew_leaves_one_whole(make_recipe, killed_run, checkpoint, renames):
    (checkpoint / "notes.txt").write_text("precious")
    weights, optimizer, facts = checkpoints.read_checkpoint(checkpoint, ["model"])
    calls, replace = itertools.count(), type(killed_run).replace

    def dying(self, target):
        if next(calls) == renames:
            os._exit(9)
        return replace(self, target)

    child = os.fork()
    if child == 0:
        type(killed_run).replace = dying
        new = {"model": {name: tensor + 1 for name, tensor in weights["model"].items()}}
        checkpoints.write_checkpoint(checkpoint, new, optimizer, {"first_losses": facts["first_losses"]})
        os._exit(0)
    died = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert died == (9 if renames < 3 else 0)  # the old one, the new one and the notes are renamed
    assert checkpoint.exists() != (renames == 1)
    assert Trainer(make_recipe(), killed_run).step == 4
    found, _, _ = checkpoints.read_checkpoint(checkpoint, ["model"])
    new = {name: tensor + (renames > 1) for name, tensor in weights["model"].items()}
    assert all(torch.equal(tensor, new[name]) for name, tensor in found["model"].items())
    assert [path.name for path in checkpoint.parent.iterdir()] == [checkpoint.name]
    assert (checkpoint / "notes.txt").read_text() == "precious"


def test_a_run_begins_at_one_that_was_killed_while_its_checkpoint_was_written_anew(make_recipe, killed_run, checkpoint):
    stage = checkpoint.parent / ".zoo-01234567.tmp"
    (stage / "old").mkdir(parents=True)
    (stage / "lock").touch()
    checkpoint.rename(stage / "old" / checkpoint.name)
    assert Trainer(make_recipe(), killed_run.with_name("new"), killed_run).step == 4
    assert [path.name for path in checkpoint.parent.iterdir()] == [checkpoint.name]


def test_an_absent_summary_is_told_from_a_checkpoint_of_an_older_version(make_recipe, killed_run, checkpoint):
    whole = Trainer(make_recipe(), killed_run.with_name("whole")).run()
    (checkpoint / "checkpoint.json").unlink()
    with pytest.raises(ValueError, match="checkpoint.json is missing"):
        Trainer(make_recipe(), killed_run)
    save_file(load_file(checkpoint / "model.safetensors"), checkpoint / "model.safetensors")  # as it was written once
    assert Trainer(make_recipe(), killed_run).run() == whole
    assert sorted(path.name for path in (killed_run / "checkpoints").iterdir()) == ["step-00000006"]


def test_a_renamed_checkpoint_is_named_and_an_older_one_if_there_is_one(make_recipe, killed_run, checkpoint):
    shutil.copytree(checkpoint, checkpoint.with_name("step-00000005"))
    said = "5 was renamed: its checkpoint.json says that it is of step 4. Remove .*5 to go on from step-00000004"
    with pytest.raises(ValueError, match=said):
        Trainer(make_recipe(), killed_run)
    shutil.rmtree(checkpoint.with_name("step-00000005"))
    assert Trainer(make_recipe(), killed_run).step == 4


def test_another_optimizers_state_does_not_fit(make_recipe, killed_run, checkpoint):
    other = killed_run.with_name("other")
    kill_at(Trainer(make_recipe("model.kwargs.depth=2"), other), 5)
    shutil.rmtree(checkpoint)
    shutil.copytree(other / "checkpoints" / checkpoint.name, checkpoint)
    with pytest.raises(ValueError, match="cannot be resumed from, since it does not fit the model and the optimizer"):
        Trainer(make_recipe(), killed_run)


def test_what_stands_where_checkpoints_should_neither_ends_the_run_nor_goes(make_recipe, tmp_path):
    trainer = Trainer(make_recipe(), tmp_path / "run")
    (tmp_path / "run" / "checkpoints" / "step-00000002").mkdir(parents=True)
    (tmp_path / "run" / "recipe.yaml").write_text(TEXT)
    (tmp_path / "run" / "checkpoints" / "step-00000002" / "notes.txt").write_text("precious")
    (tmp_path / "run" / "checkpoints" / "step-00000004").write_text("precious")
    with pytest.warns(UserWarning, match="step-00000004 is where a checkpoint should be, which is not written"):
        kill_at(trainer, 3)
        assert Trainer(make_recipe(), tmp_path / "run").step == 2
        Trainer(make_recipe(), tmp_path / "run").run()
    left = sorted(str(path.relative_to(tmp_path / "run")) for path in (tmp_path / "run" / "checkpoints").glob("*/*"))
    assert [name for name in left if "step-00000006" not in name] == ["checkpoints/step-00000002/notes.txt"]
    assert (tmp_path / "run" / "checkpoints" / "step-00000004").read_text() == "precious"


# --- Records ----------------------------------------------------------------------------------------------------------

LINES = [b"", b"\0" * 64, b"garbage", b"{}", b"null", b"[]", b"\xff", b'{"step": 1', b'{"step": "1"}', b'{"step": 1.5}']
LINES += [b"[" * 100_000, b'{"step": true}', b'{"step": 1' + b"0" * 5000 + b"}"]


@pytest.mark.parametrize("line", LINES, ids=range(len(LINES)))
def test_a_damaged_line_is_left_out_with_a_warning(make_recipe, killed_run, line):
    path = killed_run / "metrics.jsonl"
    whole = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*whole[:2], line + b"\n", *whole[2:]]))
    with pytest.warns(UserWarning, match="metrics.jsonl: line 3 is no record of a run"):
        Trainer(make_recipe(), killed_run).run()
    assert [record["step"] for record in read_records(path)] == [1, 2, 3, 4, 5, 6, 6, 6]


@pytest.mark.filterwarnings("ignore:.*no record")
def test_a_record_after_a_line_that_a_kill_cut_is_on_a_line_of_its_own(make_recipe, killed_run):
    path = killed_run / "metrics.jsonl"
    with path.open("ab") as file:
        file.write(b'{"step": 5, "lo')
    trainer = Trainer(make_recipe(), killed_run)
    trainer.folder.begin(trainer.recipe, 4, {"from": "elsewhere", "changed": []})
    assert read_records(path)[-1] == {"step": 4, "from": "elsewhere", "changed": []}
    path.write_bytes(b'{"step": 1}')  # whole, but for its end
    append_record(path, {"step": 2})
    append_record(path, {"step": 3})
    assert path.read_bytes() == b'{"step": 1}\n{"step": 2}\n{"step": 3}\n'


def test_records_hold_no_nan_and_a_last_line_without_its_end_counts(tmp_path):
    path = tmp_path / "metrics.jsonl"
    append_record(path, {"step": 1, "loss": float("nan"), "stat/load": [[float("inf"), 1.0]], "flag": True})
    path.write_text(
        path.read_text() + '{"step": 2, "loss": NaN}\n{"step": 3, "loss": 1}'
    )  # of an older version; an editor
    keep_records(path, lambda record: record["step"] < 4)
    lines = path.read_text().splitlines()
    assert lines[0] == '{"step": 1, "loss": null, "stat/load": [[null, 1.0]], "flag": true}'
    assert lines[1:] == ['{"step": 2, "loss": null}', '{"step": 3, "loss": 1}']


def test_a_full_disk_is_named_and_the_run_goes_on_when_there_is_room(make_recipe, killed_run, monkeypatch):
    whole = Trainer(make_recipe(), killed_run.with_name("whole")).run()
    opened, calls = type(killed_run).open, itertools.count()

    def full(self, mode="r", *args, **kwargs):
        if mode == "ab+" and next(calls) == 1:
            raise OSError(28, "No space left on device")
        return opened(self, mode, *args, **kwargs)

    monkeypatch.setattr(type(killed_run), "open", full)
    with pytest.raises(OSError, match="metrics.jsonl cannot be written .No space left on device; .* bytes are needed"):
        Trainer(make_recipe(), killed_run).run()
    assert Trainer(make_recipe(), killed_run).run() == whole


def test_a_checkpoint_that_does_not_fit_on_the_disk_leaves_the_old_one_and_no_part(
    make_recipe, killed_run, monkeypatch
):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    trainer, saved = Trainer(make_recipe(), killed_run), torch.save
    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(
        OSError, match="step-00000006 cannot be written .No space left .* bytes are needed; .* are free"
    ):
        trainer.run()
    monkeypatch.setattr(torch, "save", saved)
    assert [path.name for path in (killed_run / "checkpoints").iterdir()] == ["step-00000004"]
    assert Trainer(make_recipe(), killed_run).step == 4
