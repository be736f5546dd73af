"""Writing files so that a kill at any instant leaves the old one or the new one, whole.

What a kill leaves beside it is hidden, and goes when the next file is written there.
"""

import errno
import hashlib
import os
import re
import shutil
import stat
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError

from zoo.checks import printable, shown
from zoo.storage.locks import alone, lock, make_locked, unlock

STAGE = re.compile(r"\.zoo-[0-9a-f]{8}\.tmp")
LOCK = "lock"  # in a stage: locked while the process lives that writes there
RECORD = "record.json"  # in a stage: what else may be left of this save, for `clear`
STALE = 24 * 3600  # seconds after which a stage is taken for left, where there are no locks to tell


@contextmanager
def replacing(path: Path | str, size: int | None = None) -> Iterator[Path]:
    """A file to be written in the body, which takes the place of `path` when the body has ended.

    The data is on the disk before the name changes. If the body fails, `path` is as it was.

    Args:
        path: What is to be replaced, or made.
        size: How many bytes it will have, for the error when there is no room.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> with replacing(folder / "note.txt") as new:
        ...     _ = new.write_text("whole")
        >>> (folder / "note.txt").read_text(), len(list(folder.iterdir()))
        ('whole', 1)

    Raises:
        OSError: It cannot be written; the error says how much room is needed, and what to do.
    """
    path = Path(path)
    with telling(path, size), staging(path.parent) as stage:
        yield stage / path.name
        settle(stage / path.name)
        (stage / path.name).replace(path)
        sync(path.parent)


# --- What goes wrong on the disk --------------------------------------------------------------------------------------

REMEDIES = {
    errno.ENOSPC: "free some of that disk, or choose another folder",
    errno.EDQUOT: "free some of your share of that disk, or choose another folder",
    errno.EFBIG: "raise the limit on the size of a file (`ulimit -f`), or choose a folder on another file system",
    errno.EIO: "check that disk, your share of it and the limit on the size of a file, or choose another folder",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ELOOP: "choose another folder",
    errno.EROFS: "choose a folder that is not read-only",
    errno.EACCES: "make the folder writable, or choose another",
    errno.EPERM: "make the folder writable, or choose another",
}


@contextmanager
def telling(path: Path, size: int | None = None) -> Iterator[None]:
    """Turn what the body raises because of the disk into an OSError that says which file, what it needs, what to do.

    It has the number of the operating system's error, also where safetensors or torch raised something else.
    """
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        free = _free(path.parent)
        if (number := _number(error, free is not None and free < (size or 0))) not in REMEDIES:
            raise
        room = [f"{size:,} bytes are needed"] if size is not None else []
        room += [f"{free:,} bytes are free on its disk"] if free is not None else []
        why = "; ".join([os.strerror(number), *room])
        message = f"{printable(path)} cannot be written ({why}). What was there stays; {REMEDIES[number]}"
        raise OSError(number, message) from error


def _number(error: Exception, full: bool) -> int | None:
    """The number of the operating system's error that an exception is, or hides."""
    if isinstance(error, OSError):
        return error.errno
    if said := re.search(r"\(os error (\d+)\)", str(error)):  # safetensors
        return int(said[1])
    if re.search("iostream error|PytorchStreamWriter|inline_container", str(error)):  # torch, which says no number
        return errno.ENOSPC if full else errno.EIO
    return None


def _free(folder: Path) -> int | None:
    """Bytes that may be written to a folder, or to where it would be."""
    with suppress(OSError, ValueError):
        while not folder.exists() and folder != folder.parent:
            folder = folder.parent
        return shutil.disk_usage(folder).free
    return None


def is_file(path: Path) -> bool:
    """Whether a file is there; under a name that none can have there is none."""
    try:
        return path.is_file()
    except (OSError, ValueError):  # too long, a circle of links, or with a zero byte
        return False


def folder_at(folder: Path | str) -> Path:
    """The path of a folder that is there, or can be made.

    Raises:
        TypeError: It is no path.
        ValueError: No folder can be called so.
        FileExistsError: Something else is there.
    """
    if not isinstance(folder, (str, os.PathLike)):
        raise TypeError(f"folder is {shown(folder)}; it must be the path of a folder, a str or a Path")
    folder = Path(folder)
    if "\0" in str(folder):
        raise ValueError(f"{printable(folder)} is no name for a folder: it has a null character")
    place = folder
    while not os.path.lexists(place) and place != place.parent:
        place = place.parent
    if not place.is_dir():
        raise FileExistsError(f"{printable(place)} is there and is no folder; choose another")
    return folder


def check_file(path: Path) -> None:
    """Raise an error if there can be no such file, since something else is there: to open a pipe might never end."""
    with telling(path):
        try:
            mode = os.stat(path).st_mode
        except FileNotFoundError:
            return
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "a pipe or a device"
        raise FileExistsError(
            f"{printable(path)} is {kind}, where a file must be; move it elsewhere, or choose another folder"
        )


# --- Stages -----------------------------------------------------------------------------------------------------------


def _without_record(stage: Path) -> bool:
    return not (stage / RECORD).exists()


@contextmanager
def staging(folder: Path, clear: Callable[[Path], bool] = _without_record) -> Iterator[Path]:
    """A hidden folder in `folder`, which is made if need be, for what is not yet whole; it goes at the end.

    Stages that killed processes left go first: they may fill the disk. Whether a process lives, its lock says, or where
    there are no locks, as on Windows, the age of the stage. Folders that were made and stay empty are removed.

    Args:
        folder: Where what is written will lie.
        clear: Given a stage that ends or was left, removes what else is left of it, and says whether it may go.

    Raises:
        BlockingIOError: Others hold the folder for long.
    """
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    stage, handle = folder / f".zoo-{uuid.uuid4().hex[:8]}.tmp", None
    begun = False
    try:
        with alone(folder) as sure:  # nobody takes a new stage for one that was left
            _clear_left(folder, clear, sure)
            stage.mkdir()
            begun = True
            handle = make_locked(stage / LOCK)
        yield stage
    finally:
        try:
            if begun:
                with suppress(OSError), alone(folder):  # if others hold it for long, the next save clears
                    if clear(stage):
                        _remove(stage)
        finally:
            if handle is not None:
                unlock(handle)
            with suppress(OSError):  # it is not empty
                for path in missing:
                    path.rmdir()


def clear_left(folder: Path, clear: Callable[[Path], bool] = _without_record) -> None:
    """Clear the stages that killed processes left in a folder, unless others hold it; `clear` as for `staging`."""
    with suppress(BlockingIOError), alone(folder) as sure:
        _clear_left(folder, clear, sure)


def _clear_left(folder: Path, clear: Callable[[Path], bool], sure: bool | None) -> None:
    for stage in [path for path in folder.iterdir() if STAGE.fullmatch(path.name)]:
        with suppress(OSError):
            if not stat.S_ISDIR(stage.lstat().st_mode):
                continue
            if not (stage / LOCK).exists():  # killed at the very first or last, or somebody's own
                if sure or time.time() - stage.lstat().st_mtime > STALE:  # without locks it may be just being made
                    stage.rmdir()
                continue
            handle = lock(stage / LOCK) if sure else None
            gone = handle is not None if sure else time.time() - (stage / LOCK).stat().st_mtime > STALE
            try:
                if gone and clear(stage):
                    _remove(stage)
            finally:
                if handle is not None:
                    unlock(handle)


def _remove(stage: Path) -> None:
    """Remove a stage so that, killed at any instant, it is still one."""
    for path in stage.iterdir():
        if path.name not in (LOCK, RECORD):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    (stage / RECORD).unlink(missing_ok=True)
    (stage / LOCK).unlink(missing_ok=True)
    stage.rmdir()


def settle(path: Path) -> None:
    """Give a file in a stage, or all in a folder there, the permissions of new files, and have the disk keep them.

    safetensors makes files that nobody else may read. The umask cannot be asked for without changing it for other
    threads too; what it leaves of a new file's permissions shows the stage's own file.
    """
    stage = next(parent for parent in path.parents if STAGE.fullmatch(parent.name))
    mode = stat.S_IMODE((stage / LOCK).stat().st_mode)
    for entry in [*path.rglob("*"), path]:
        if entry.is_file():
            entry.chmod(mode)
        sync(entry)


def sync(path: Path) -> None:
    """Have the disk keep a file, or the names in a folder."""
    if os.name == "nt" and path.is_dir():
        return  # Windows has no handle for a folder
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, in a tenth or two of a second for 100 MB."""
    digest, buffer = hashlib.sha256(), memoryview(bytearray(2**20))
    with open(path, "rb", buffering=0) as file:
        while count := file.readinto(buffer):
            digest.update(buffer[:count])
    return digest.hexdigest()
