"""Saves beside readers, beside other saves, killed, interrupted, without room: a folder always holds a whole model."""

import itertools
import json
import multiprocessing
import os
import random
import resource
import signal
import stat
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from conftest import randomised
from safetensors import SafetensorError
from safetensors.torch import load_file

import zoo
from zoo import files, locks
from zoo.files import replacing, staging
from zoo.training import Classifier, Dense, MultiTask, parts
from zoo.training.segmenter import Pyramid, Segmenter

FORK = multiprocessing.get_context("fork")


def plain(**kwargs) -> torch.nn.Module:
    return randomised(zoo.create_model("vit_test", in_chans=1, **kwargs))


def segmenter(**kwargs) -> Segmenter:
    return randomised(Segmenter("vit_test", Pyramid(num_classes=3, width=8, out_indices=(0, 1)), in_chans=1, **kwargs))


def tasks(**kwargs) -> MultiTask:
    heads = {"kind": Classifier(3), "part": Dense(3, width=8, out_indices=(0, 1))}
    return randomised(MultiTask("vit_test", heads, in_chans=1, **kwargs))


@pytest.fixture(params=[plain, segmenter, tasks])
def make(request):
    return request.param


two_kinds = pytest.mark.parametrize("make", [plain, segmenter])  # `tasks` is saved by the code of `segmenter`


def save(model: torch.nn.Module, folder: Path) -> None:
    model.save(folder) if hasattr(model, "save") else zoo.save_pretrained(model, folder)


def reopened(like: torch.nn.Module, folder: Path) -> torch.nn.Module:
    return (type(like).open(folder) if hasattr(like, "save") else zoo.create_model(f"local-dir:{folder}")).eval()


def same(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    """Whether two models are: a head of one over a backbone of the other would show in the weights."""
    ours, theirs = one.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)


def opens_as_one_of(models: list, folder: Path) -> bool:
    found = reopened(models[0], folder)
    return any(same(found, model) for model in models)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def started(work: Callable, *args) -> multiprocessing.Process:
    process = FORK.Process(target=work, args=args, daemon=True)
    process.start()
    return process


def outcome(work: Callable[[], None]) -> BaseException | None:
    """What `work` raises in a process of its own, which may change what only a process has."""
    ours, theirs = FORK.Pipe()

    def run():
        try:
            work()
        except BaseException as error:
            theirs.send((type(error), str(error), getattr(error, "errno", None)))
        else:
            theirs.send(None)

    process = started(run)
    found = ours.recv()
    process.join()
    return found


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
    read, left = zoo.hub.read_state_dict, [new]

    def late(path):
        while left:
            save(left.pop(), tmp_path)
        return read(path)

    monkeypatch.setattr("zoo.hub.read_state_dict", late)
    assert same(reopened(old, tmp_path), new)


def test_a_save_while_the_model_is_built_harms_no_reader(tmp_path, monkeypatch):
    old, new = plain(), plain()
    save(old, tmp_path)
    build = zoo.hub.assemble

    def slow(*args, **kwargs):
        with monkeypatch.context() as patch:
            patch.setattr("zoo.hub.assemble", build)
            save(new, tmp_path)
        return build(*args, **kwargs)

    monkeypatch.setattr("zoo.hub.assemble", slow)
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
        zoo.pointers.steady(tmp_path / "config.json", read)
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

OPERATIONS = ("mkdir", "fsync", "link", "replace", "rename", "unlink", "rmdir", "chmod")


@contextmanager
def counted(instant: int, strike: Callable[[], None]):
    """Within the body, `strike` is called before the n-th operation on files."""
    calls = itertools.count(1)

    def counting(function):
        def wrapper(*args, **kwargs):
            if next(calls) == instant:
                strike()
            return function(*args, **kwargs)

        return wrapper

    with pytest.MonkeyPatch.context() as patch:
        for name in OPERATIONS:
            patch.setattr(os, name, counting(getattr(os, name)))
        yield


def kill_self() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def killed_at(instant: int, work: Callable[[], None]) -> bool:
    """Run `work` in a process that kills itself before the n-th of its operations; whether it came so far."""

    def child():
        with counted(instant, kill_self):
            work()

    process = started(child)
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode != 0


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
        patch.setattr("zoo.hub.save_file", half)
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


# --- What others put there --------------------------------------------------------------------------------------------


def test_what_has_a_name_like_zoos_own_stays(make, tmp_path):
    model = make()
    save(model, tmp_path / "elsewhere")
    folder = tmp_path / "model"
    mine = [".DS_Store", ".zoo-01234567.tmp/x", ".zoo-0123456.tmp/lock", "model-01234567.safetensors/x"]
    mine += [f"{name}-0123beef/x" for name in ("backbone", "trunk")] + ["model-0123beef.safetensors", "heads.txt"]
    for name in mine:
        (folder / name).parent.mkdir(exist_ok=True, parents=True)
        (folder / name).write_text("precious")
    links = {
        f"{name}-89abcdef{suffix}" for name, suffix in [("model", ".safetensors"), ("backbone", ""), ("trunk", "")]
    }
    links |= {"model.safetensors", "backbone", "trunk", ".zoo-89abcdef.tmp"}
    for name in links:
        target = next((tmp_path / "elsewhere").glob("[bmt]*")) if "-" in name else tmp_path / "gone"
        (folder / name).symlink_to(target)
    for _ in range(3):
        save(model, folder)
    assert all((folder / name).read_text() == "precious" for name in mine)
    assert all((folder / name).is_symlink() for name in links)
    assert opens_as_one_of([model], folder) and opens_as_one_of([model], tmp_path / "elsewhere")
    assert len(names(folder)) == len({name.split("/")[0] for name in mine}) + len(links) + 2


def test_what_somebody_put_where_a_killed_save_had_meant_to_write_stays(tmp_path):
    """Killed before its weights got their place, model.safetensors."""
    model = plain()
    for instant in itertools.count(1):
        folder = tmp_path / str(instant)
        killed = killed_at(instant, lambda folder=folder: save(model, folder))
        if not killed or (folder / "model.safetensors").exists():
            break
        folder.mkdir(exist_ok=True)
        (folder / "model.safetensors").write_text("precious")
        save(model, folder)
        assert (folder / "model.safetensors").read_text() == "precious" and len(names(folder)) == 3
    assert instant > 6


@pytest.mark.parametrize(
    "what, words",
    [
        ("file", "file is there and is no folder; choose another"),
        ("file/below", "file is there and is no folder; choose another"),
        ("link", "link is there and is no folder; choose another"),
        ("nul\0l", r"nul\\x00l is no name for a folder: it has a null character"),
        ("long" * 100, "cannot be written .*choose a shorter name"),
    ],
)
def test_where_there_can_be_no_folder(make, what, words, tmp_path):
    (tmp_path / "file").write_text("precious")
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    with pytest.raises((FileExistsError, ValueError, OSError), match=words):
        save(make(), tmp_path / what)
    assert (tmp_path / "file").read_text() == "precious" and names(tmp_path) == {"file", "link"}


@pytest.mark.parametrize("file", ["config.json", "head.safetensors", "heads.safetensors"])
def test_a_folder_in_the_place_of_the_file_that_names_stays(file, tmp_path):
    make = {"config.json": plain, "head.safetensors": segmenter, "heads.safetensors": tasks}[file]
    (tmp_path / file).mkdir()
    with pytest.raises(FileExistsError, match=f"{file} is a folder; choose another folder, or remove it"):
        save(make(), tmp_path)
    assert names(tmp_path) == {file}


# --- Permissions ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_files_have_the_permissions_of_new_files(make, mask, tmp_path):
    folder = tmp_path / "model"

    def work():
        os.umask(mask)
        for _ in range(2):
            save(make(), folder)

    assert outcome(work) is None
    for path in folder.rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o777 if path.is_dir() else 0o666) & ~mask, path


def test_the_umask_is_never_touched(tmp_path, monkeypatch):
    """Not for an instant, in which another thread's file would be for everybody to write."""
    set_mask = os.umask

    def work():
        set_mask(0o027)
        os.umask = lambda mask: pytest.fail("the umask is of the whole process")
        model, modes, end = plain(), set(), threading.Event()

        def other():
            for i in itertools.count():
                (tmp_path / str(i)).touch()
                modes.add(stat.S_IMODE((tmp_path / str(i)).stat().st_mode))
                if end.is_set():
                    return

        threads = [threading.Thread(target=save, args=[model, tmp_path / f"model{i}"]) for i in range(6)]
        watch = threading.Thread(target=other)
        for thread in (watch, *threads):
            thread.start()
        for thread in threads:
            thread.join()
        end.set()
        watch.join()
        assert modes == {0o640} and set_mask(0) == 0o027

    assert outcome(work) is None


# --- No room, and no right to write -----------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [10, 3000, 20_000])
def test_no_room_leaves_the_old_model_and_says_what_is_needed(make, limit, tmp_path):
    old, folder = make(), tmp_path / "model"
    save(old, folder)
    before = names(folder)

    def work():
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        save(make(), folder)

    kind, told, _ = outcome(work)
    assert kind is OSError and len(told) < 2000
    assert str(folder) in told and ".zoo-" not in told and "bytes are needed" in told and "What was there stays" in told
    assert names(folder) == before and opens_as_one_of([old], folder)


@pytest.mark.parametrize(
    "error, remedy",
    [
        (SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"), "free some of"),
        (OSError(122, "Disk quota exceeded"), "free some of your share"),
        (RuntimeError("basic_ios::clear: iostream error"), "check that disk"),
    ],
)
def test_errors_of_the_disk_are_told(error, remedy, tmp_path, monkeypatch):
    model = plain()
    save(model, tmp_path)
    size = sum(tensor.nbytes for tensor in model.state_dict().values())

    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr("zoo.hub.save_file", fail)
    with pytest.raises(OSError, match=f"config.json cannot be written .*{size:,} bytes are needed.*free.*{remedy}"):
        save(plain(), tmp_path)
    assert opens_as_one_of([model], tmp_path) and len(names(tmp_path)) == 2


def test_a_full_disk_is_said_where_torch_gives_no_number(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_free", lambda folder: 10)
    with (
        pytest.raises(OSError, match=r"note.txt cannot be written \(No space left .*; 100 bytes are needed; 10 bytes"),
        replacing(tmp_path / "note.txt", 100),
    ):
        raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 64 vs 0")
    assert not names(tmp_path)


def test_an_error_that_is_not_of_the_disk_stays_what_it_is(tmp_path):
    with pytest.raises(RuntimeError, match="^other$"), replacing(tmp_path / "note.txt"):
        raise RuntimeError("other")


def test_a_folder_that_may_not_be_written(make):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "model"
        Path(name).chmod(0o755)
        model = make()
        save(model, folder)
        for path in (folder, *(path for path in folder.iterdir() if path.is_dir())):
            path.chmod(0o555)
        before = names(folder)

        def work(folder):
            if os.getuid() == 0:  # who may write everywhere
                os.setuid(65534)
            save(model, folder)

        for place in (folder, folder / "new"):
            kind, told, number = outcome(lambda place=place: work(place))
            assert kind is PermissionError and number
            assert str(place) in told and "bytes are needed" in told and "make the folder writable" in told
        assert names(folder) == before and opens_as_one_of([model], folder)
        for path in (folder, *(path for path in folder.iterdir() if path.is_dir())):
            path.chmod(0o755)


def test_what_is_written_can_be_read_as_before(tmp_path):
    """By tools that know config.json and safetensors alone."""
    model = plain()
    save(model, tmp_path)
    save(model, tmp_path)
    found = load_file(tmp_path / json.loads((tmp_path / "config.json").read_text())["weights"])
    assert all(torch.equal(tensor, found[key]) for key, tensor in model.state_dict().items())
