"""One writer a folder: a file that says who it is, locked for as long as the writer lives.

The operating system lets go of the lock when the process ends, however it ends, so a killed run can be gone on with at
once (`zoo.storage.locks`).
"""

import datetime
import json
import os
import socket
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from zoo.checks import printable
from zoo.storage.files import telling
from zoo.storage.locks import hold, unlock

BEGINNING = b'{"pid": '
ASKING = 0.5  # seconds until a lock that is held is an error: those who only ask hold it for an instant


class FolderLock:
    """The right to write into a folder, as a file in it.

    Where the file system knows no locks, as on Windows, the process that the file names is asked after instead.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> with FolderLock(folder / "run.lock").held():
        ...     FolderLock(folder / "run.lock").holder().startswith(f"process {os.getpid()} on ")
        True
        >>> list(folder.iterdir())
        []
    """

    def __init__(self, path: Path):
        self.path = path
        self._held_by: int | None = None  # the process: a fork of it does not hold the lock
        self._handle: int | None = None

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the lock within the body; who holds it already only goes on.

        Raises:
            FileExistsError: somebody else holds it; the message says who, since when, and what to do.
        """
        if self._held_by == os.getpid():
            yield
            return
        self._acquire()
        try:
            yield
        finally:
            self._release()

    def holder(self) -> str | None:
        """Who holds the lock, in words; None if nobody does. Nothing is written."""
        try:
            handle = os.open(self.path, os.O_RDONLY)
        except OSError:
            return None
        try:
            free = hold(handle, shared=True)
            owner = _owner(handle)
        finally:
            unlock(handle)
        free = not _alive(owner) if free is None else free
        return None if free else _described(owner)

    def check(self) -> None:
        """Raise FileExistsError if somebody holds the lock, and is not this object."""
        if self._held_by != os.getpid() and (holder := self.holder()) is not None:
            raise self._refusal(holder)

    def check_kept(self) -> None:
        """Raise FileExistsError if the file was taken away and another process has put its own in its place."""
        if self._held_by == os.getpid() and self.path.exists() and not _same(self._handle, self.path):
            raise FileExistsError(
                f"{printable(self.path)} is no longer the lock of this process but another's: this one stops writing, "
                "since two trainings in one folder would spoil each other"
            )

    def _acquire(self) -> None:
        self._handle = None  # in a fork of a process that held it
        while self._held_by != os.getpid():
            with telling(self.path):
                handle = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                self._take(handle)
            finally:
                if self._handle != handle:
                    unlock(handle)

    def _take(self, handle: int) -> None:
        """Lock the open file and write into it who this is; nothing if the file was removed in between."""
        locked, owner, host = hold(handle, ASKING), _owner(handle), socket.gethostname()
        if locked is False or (locked is None and _alive(owner)):
            raise self._refusal(_described(owner))
        if not _same(handle, self.path):
            return  # there may be another by now
        if not _is_ours(handle):
            raise FileExistsError(
                f"{printable(self.path)} was not written by zoo and would be lost: move it elsewhere, or choose "
                "another output folder"
            )
        if owner and owner.get("host") != host:
            warnings.warn(
                f"{printable(self.path)} was left by {_described(owner)}: taken over, since its lock is free; if that "
                "process still runs, end one of the two",
                stacklevel=2,
            )
        since = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
        text = json.dumps({"pid": os.getpid(), "host": host, "since": since}).encode()
        os.ftruncate(handle, 0)
        os.lseek(handle, 0, os.SEEK_SET)
        os.write(handle, text)
        if locked is None:  # two may have come so far: who wrote last has it
            time.sleep(ASKING / 5)
            if (owner := _owner(handle)).get("pid") != os.getpid():
                raise self._refusal(_described(owner))
        self._held_by, self._handle = os.getpid(), handle

    def _release(self) -> None:
        if self._held_by != os.getpid():
            return
        if os.name == "nt":  # an open file cannot be removed there
            unlock(self._handle)
            self.path.unlink(missing_ok=True)
        else:
            with suppress(OSError):
                if _same(self._handle, self.path):
                    self.path.unlink()
            unlock(self._handle)
        self._held_by = self._handle = None

    def _refusal(self, holder: str) -> FileExistsError:
        return FileExistsError(
            f"{printable(self.path.parent)} is in use by another process, a training that writes into it: {holder}. "
            "Wait for it, end it, or choose another output folder. If that process is gone, "
            f"remove its lock {printable(self.path)} and run again"
        )


def _same(handle: int, path: Path) -> bool:
    """Whether the open file is the one of that name."""
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except OSError:
        return False


def _owner(handle: int) -> dict[str, Any]:
    """What the file says of who wrote it; nothing if nobody did, or it cannot be read."""
    with suppress(OSError, ValueError, RecursionError):
        os.lseek(handle, 0, os.SEEK_SET)
        owner = json.loads(os.read(handle, 4096))
        return owner if isinstance(owner, dict) else {}
    return {}


def _is_ours(handle: int) -> bool:
    """Whether a file is empty, or begins as one that was written here; zeros are what a crash of the machine leaves."""
    os.lseek(handle, 0, os.SEEK_SET)
    content = os.read(handle, 4096).strip(b"\0")
    return content[: len(BEGINNING)] == BEGINNING[: len(content)]


def _alive(owner: dict[str, Any]) -> bool:
    """Whether the process may still run: one of another machine may, and one that is younger than the lock does not."""
    pid, host = owner.get("pid"), owner.get("host")
    if host != socket.gethostname() or not isinstance(pid, int):
        return bool(owner)
    with suppress(psutil.Error, ValueError, TypeError, OverflowError):
        since = datetime.datetime.fromisoformat(owner["since"]).timestamp()
        return psutil.Process(pid).create_time() < since + 1
    return False


def _described(owner: dict[str, Any]) -> str:
    if not owner:
        return "its lock does not say which"
    pid, host, since = (printable(owner.get(key), 100) for key in ("pid", "host", "since"))
    return f"process {pid} on {host}, since {since}"
