"""Saves beside readers, beside other saves, killed and interrupted: a folder always holds a whole model."""

import itertools
import os
import random
import signal
import threading
import time
from pathlib import Path

import pytest
from safetensors import SafetensorError
from saving import (
    FORK,
    counted,
    kill_self,
    killed_at,
    names,
    opens_as_one_of,
    plain,
    reopened,
    same,
    save,
    segmenter,
    started,
    tasks,
)

import zoo
from zoo.storage import locks
from zoo.storage.files import replacing, staging
from zoo.training.models import parts

two_kinds = pytest.mark.parametrize("make", [plain, segmenter])  # `tasks` is saved by the code of `segmenter`


@pytest.fixture(params=[plain, segmenter, tasks])
def make(request):
    return request.param


# --- Readers and other writers ----------------------------------------------------------------------------------------


def test_no_name_is_given_twice(make, tmp_path):
    """A reader that knows a name from the old file must never find the weights of another save under it."""
    model, seen = make(), []
    for _ in range(4):
        save(model, tmp_path)
        seen.append(names(tmp_path) - {"config.json", "head.safetensors", "heads.safetensors"})
    assert all(len(one) == 1 for one in seen) and len(set.union(*seen)) == 4
    assert seen[0] in ({"model.safetensors"}, {"backbone"}, {"trunk"})


def test_a_save_between_the_name_and_the_weights_harms_no_reader(make, tmp_path, monkeypatch):
    old, new = make(), make(token_mixer="pool")
    save(old, tmp_path)
    read, left = zoo.hub.open.read_state_dict, [new]

    def late(path):
        while left:
            save(left.pop(), tmp_path)
        return read(path)

    monkeypatch.setattr("zoo.hub.open.read_state_dict", late)
    assert same(reopened(old, tmp_path), new)


@pytest.mark.parametrize("error", [RuntimeError, SafetensorError, OSError, ValueError])
def test_whatever_a_reader_meets_it_reads_again_if_a_save_came_between(make, error, tmp_path, monkeypatch):
    """As torch does, which opens a file that safetensors has opened once more, and says RuntimeError if it is gone."""
    old, new = make(), make()
    save(old, tmp_path)
    read, left = zoo.hub.open.read_state_dict, [new]

    def failing(path):
        while left:
            save(left.pop(), tmp_path)
            raise error("unable to open file")
        return read(path)

    monkeypatch.setattr("zoo.hub.open.read_state_dict", failing)
    assert same(reopened(old, tmp_path), new)


def test_a_save_while_the_model_is_built_harms_no_reader(tmp_path, monkeypatch):
    old, new = plain(), plain()
    save(old, tmp_path)
    build = zoo.hub.open.assemble

    def slow(*args, **kwargs):
        with monkeypatch.context() as patch:
            patch.setattr("zoo.hub.open.assemble", build)
            save(new, tmp_path)
        return build(*args, **kwargs)

    monkeypatch.setattr("zoo.hub.open.assemble", slow)
    opened = zoo.create_model(f"local-dir:{tmp_path}")
    assert same(opened, old)  # whose files are gone from the folder by now


@pytest.mark.parametrize("make", [segmenter, tasks])
def test_heads_and_what_is_said_of_them_are_of_one_save(make, tmp_path, monkeypatch):
    old, new = make(), make()
    save(old, tmp_path)
    read, left = parts.read_state_dict, [new]

    def early(path):
        state = read(path)
        while left:
            save(left.pop(), tmp_path)
        return state

    monkeypatch.setattr(parts, "read_state_dict", early)
    assert same(reopened(old, tmp_path), new)


def test_what_was_not_exchanged_is_read_once(tmp_path):
    model, calls = plain(), []
    save(model, tmp_path)
    (tmp_path / "model.safetensors").unlink()

    def read():
        calls.append(1)
        return reopened(model, tmp_path)

    with pytest.raises(FileNotFoundError, match="model.safetensors"):
        zoo.storage.pointers.steady(tmp_path / "config.json", read)
    assert len(calls) == 1


def beside(models: list, folder: Path, kills: int) -> None:
    """Saves that are killed, beside a writer and a reader that go on."""
    end, opened = FORK.Event(), FORK.Value("i", 0)
    rng = random.Random(0)

    def write(offset: int) -> None:
        for model in itertools.islice(itertools.cycle(models), offset, None):
            if end.is_set():
                return
            save(model, folder)

    def read() -> None:
        while not end.is_set():
            assert opens_as_one_of(models, folder)
            opened.value += 1

    save(models[0], folder)
    begin = time.perf_counter()
    save(models[1], folder)
    lasts = time.perf_counter() - begin
    others = [started(write, 0), started(read)]
    most = 0
    for _ in range(kills):
        killed = started(write, 1)
        time.sleep(lasts * rng.uniform(0.2, 4))
        os.kill(killed.pid, signal.SIGKILL)
        killed.join()
        most = max(most, len(names(folder)))
        assert all(other.is_alive() for other in others), "the writer or the reader has failed"
    while opened.value < 3 and others[1].is_alive():
        time.sleep(0.05)
    end.set()
    for other in others:
        other.join()
        assert other.exitcode == 0
    assert most <= 10, "what killed saves left has piled up beside a writer that goes on"
    assert opens_as_one_of(models, folder)
    save(models[0], folder)
    assert opens_as_one_of(models[:1], folder) and len(names(folder)) == 2, names(folder)


@pytest.mark.parametrize("kills", [4, pytest.param(100, marks=pytest.mark.slow)])
def test_kills_beside_a_reader_and_a_second_writer(make, kills, tmp_path):
    beside([make(), make(token_mixer="pool"), make()], tmp_path / "model", kills)


def test_first_saves_at_once_leave_one_whole_model(make, tmp_path):
    models = [make(), make(token_mixer="pool"), make()]
    for trial in range(4):
        folder, barrier = tmp_path / str(trial), FORK.Barrier(len(models))

        def first(model, folder=folder, barrier=barrier):
            barrier.wait()
            save(model, folder)

        writers = [started(first, model) for model in models]
        for writer in writers:
            writer.join()
            assert writer.exitcode == 0
        assert opens_as_one_of(models, folder) and len(names(folder)) == 2


def test_saves_in_threads_leave_one_whole_model(make, tmp_path):
    models, failed = [make(), make(token_mixer="pool")], []

    def write(model):
        try:
            for _ in range(4):
                save(model, tmp_path)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=write, args=[model]) for model in models]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        if (tmp_path / "config.json").exists() or list(tmp_path.glob("head*.safetensors")):
            assert opens_as_one_of(models, tmp_path)
    assert not failed and opens_as_one_of(models, tmp_path) and len(names(tmp_path)) == 2


# --- Kills and interruptions at every instant -------------------------------------------------------------------------


def test_a_kill_at_any_instant_leaves_a_whole_model_and_what_it_leaves_is_cleared(make, tmp_path):
    old, new, found = make(), make(token_mixer="pool"), set()
    for instant in itertools.count(1, 1 if make is plain else 2):
        save(old, tmp_path)
        assert len(names(tmp_path)) == 2, "leftovers"
        killed = killed_at(instant, lambda: save(new, tmp_path))
        found.add(same(reopened(new, tmp_path), new))
        assert opens_as_one_of([new] if not killed else [new, old], tmp_path)
        if not killed:
            break
    assert instant > 12 and found == {True, False}


def interrupt() -> None:
    raise KeyboardInterrupt


@two_kinds
def test_an_interruption_at_any_instant_leaves_a_whole_model(make, tmp_path):
    old, new, found = make(), make(token_mixer="pool"), set()
    for instant in itertools.count(1):
        save(old, tmp_path)
        assert len(names(tmp_path)) == 2, "leftovers"
        try:
            with counted(instant, interrupt):
                save(new, tmp_path)
        except KeyboardInterrupt:
            found.add(same(reopened(new, tmp_path), new))
            assert opens_as_one_of([new, old], tmp_path)
        else:
            break
    assert instant > 12 and found == {True, False}


@two_kinds
def test_a_first_save_killed_at_any_instant_leaves_nothing_for_long(make, tmp_path):
    model = make()
    for instant in itertools.count(1, 1 if make is plain else 2):
        folder = tmp_path / str(instant)
        if not killed_at(instant, lambda folder=folder: save(model, folder)):
            break
        assert not (folder.exists() and any(name[0] != "." for name in names(folder))) or (
            opens_as_one_of([model], folder) if list(folder.glob("[ch]*")) else len(list(folder.glob("[!.]*"))) == 1
        )
        save(model, folder)
        assert opens_as_one_of([model], folder) and len(names(folder)) == 2


def test_what_safetensors_leaves_of_a_file_when_it_is_killed_is_cleared(make, tmp_path, monkeypatch):
    """It writes beside the file that it was given, under a name of its own."""
    old, new = make(), make()
    save(old, tmp_path)

    def half(state, path, **kwargs):
        (Path(path).parent / ".tmpaBcDeF").write_bytes(b"half")
        kill_self()

    with monkeypatch.context() as patch:
        patch.setattr("zoo.hub.shards.save_file", half)
        process = started(save, new, tmp_path)
        process.join()
    assert process.exitcode == -signal.SIGKILL and len(names(tmp_path)) == 3
    save(new, tmp_path)
    assert len(names(tmp_path)) == 2 and not list(tmp_path.rglob(".tmp*"))


def test_what_is_left_of_a_single_file_is_cleared_by_the_next(tmp_path):
    for instant in itertools.count(1):

        def write():
            with replacing(tmp_path / "note.txt") as new:
                new.write_text("new")

        if not killed_at(instant, write):
            break
        with replacing(tmp_path / "other.txt") as new:
            new.write_text("x")
        assert names(tmp_path) <= {"note.txt", "other.txt"}
    assert instant > 5 and (tmp_path / "note.txt").read_text() == "new"


def test_without_locks_only_what_is_old_is_cleared(make, tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "fcntl", None)
    model = make()
    save(model, tmp_path)
    with staging(tmp_path) as stage:
        stage.rename(left := tmp_path / ".zoo-0123abcd.tmp")
        stage.mkdir()
    save(model, tmp_path)
    assert left.exists() and len(names(tmp_path)) == 3
    os.utime(left / "lock", (0, 0))
    save(model, tmp_path)
    assert len(names(tmp_path)) == 2 and opens_as_one_of([model], tmp_path)


def test_without_locks_a_stage_that_is_just_being_made_stays(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "fcntl", None)
    (new := tmp_path / ".zoo-0123abcd.tmp").mkdir()  # its lock is made next
    with staging(tmp_path):
        assert new.exists()
    os.utime(new, (0, 0))
    with staging(tmp_path):
        assert not new.exists()


@pytest.mark.skipif(locks.fcntl is None, reason="there are no locks here")
def test_who_keeps_a_folder_for_long_is_told_and_nothing_is_written(make, tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "PATIENCE", 0.05)
    model = make()
    save(model, tmp_path)
    before = names(tmp_path)
    with locks.alone(tmp_path):
        with pytest.raises(OSError, match="is held by (this|another) process .*try again"):
            save(model, tmp_path)
        assert names(tmp_path) == before
    save(model, tmp_path)
    assert opens_as_one_of([model], tmp_path)


def test_a_forked_process_reads_though_a_thread_of_its_parent_had_the_turn():
    turns, held, done = locks.Turns(), threading.Event(), threading.Event()

    def hold():
        with turns.mine():
            held.set()
            done.wait()

    (thread := threading.Thread(target=hold)).start()
    held.wait()
    assert not turns.mine().acquire(blocking=False)
    if (child := os.fork()) == 0:
        os._exit(0 if turns.mine().acquire(blocking=False) else 1)
    assert os.waitpid(child, 0)[1] == 0
    done.set()
    thread.join()


def test_the_disk_has_the_new_model_before_the_name_changes(make, tmp_path, monkeypatch):
    """And the name before the old one is removed: what a power failure leaves is whole too."""
    save(make(), tmp_path)
    (old,) = [path for path in tmp_path.iterdir() if not path.name.startswith(("config", "head"))]
    replace, removed, done = os.replace, (old if old.is_file() else old / "model.safetensors"), []

    def replacing(source, target):
        done.append((Path(target).parent == tmp_path and removed.exists(), None))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", lambda handle: done.append((None, os.fstat(handle).st_ino)))
    monkeypatch.setattr(os, "replace", replacing)
    save(make(), tmp_path)
    named = [i for i, (is_name, _) in enumerate(done) if is_name]
    synced = {inode for _, inode in done[: named[-1]]}
    assert len(named) == 1 and synced >= {path.stat().st_ino for path in [tmp_path, *tmp_path.rglob("*")]}
    assert done[-1] == (None, tmp_path.stat().st_ino) and not removed.exists()
