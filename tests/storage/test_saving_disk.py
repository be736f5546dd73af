"""What else lies in a folder into which a model is saved, who may read it, and when there is no room for it."""

import itertools
import json
import os
import resource
import stat
import tempfile
import threading
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from saving import killed_at, names, opens_as_one_of, outcome, plain, save, segmenter, tasks

from zoo.storage import files
from zoo.storage.files import replacing


@pytest.fixture(params=[plain, segmenter, tasks])
def make(request):
    return request.param


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


@pytest.mark.parametrize("folder", [None, 3, b"model"])
def test_what_is_no_path_is_refused(make, folder):
    with pytest.raises(TypeError, match="folder is (None|3|b'model'); it must be the path of a folder"):
        save(make(), folder)


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

    monkeypatch.setattr("zoo.hub.shards.save_file", fail)
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
    found = load_file(tmp_path / json.loads((tmp_path / "config.json").read_text())["zoo"]["weights"])
    assert all(torch.equal(tensor, found[key]) for key, tensor in model.state_dict().items())
