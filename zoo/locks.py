"""Locks on files and folders, kept by the kernel: they end with the process that holds them."""

import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from zoo.checks import printable, shown

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

PATIENCE = 10  # seconds to wait for others who hold a folder for an instant


@contextmanager
def hold(path: Path | str) -> Iterator[None]:
    """Hold a lock file, which says who holds it and since when, and is removed at the end.

    The lock ends with the process, however that ends (with its last child, if it has forked), and a file that it left
    is taken over in silence. Where files cannot be locked, as on Windows, the file itself is the lock: one that a
    killed process left has to be removed by hand, as the error says.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / ".lock"
        >>> with hold(path):
        ...     sorted(json.loads(path.read_text())), path.exists()
        (['host', 'pid', 'since'], True)
        >>> path.exists()
        False

    Raises:
        FileExistsError: Another holds it, in this process or elsewhere, or the file was not written so.
    """
    path = Path(path)
    handle = take(path)
    if handle is None:
        raise FileExistsError(
            f"{printable(path.parent)} is in use by {owner(path)}. Wait until that has ended, or choose another "
            f"folder; if there is no such process any more, nor a child of it, remove {printable(path)}"
        )
    try:
        yield
    finally:
        let_go(path, handle)


def take(path: Path) -> int | None:
    """Lock a file, made if it is not there, and write into it whose it is; its handle, or None if another holds it.

    Raises:
        FileExistsError: The file was not written so.
    """
    flags = os.O_RDWR | getattr(os, "O_NOFOLLOW", 0)
    while True:
        try:
            handle, made = os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o666), True
        except FileExistsError:
            try:
                handle, made = os.open(path, flags), False
            except FileNotFoundError:  # its holder has just let go
                continue
        locked = lock(handle)
        if not (made if locked is None else locked):
            os.close(handle)
            return None
        if not _is_at(handle, path):  # its holder let go, and removed it, after it was opened here
            unlock(handle)
            continue
        if os.fstat(handle).st_size and _read(path) is None:
            unlock(handle)
            raise FileExistsError(f"{printable(path)} was not written by zoo and would be lost; choose another folder")
        mine = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S %z")}
        os.ftruncate(handle, 0)
        os.write(handle, json.dumps(mine).encode())
        return handle


def let_go(path: Path, handle: int) -> None:
    """Remove a file that `take` has locked, and give up the lock."""
    if fcntl is None:
        unlock(handle)  # Windows removes no open file
        path.unlink(missing_ok=True)
    else:
        path.unlink(missing_ok=True)  # while it is locked: nobody else's can be meant
        unlock(handle)


def owner(path: Path) -> str:
    """Who holds a file that `take` has locked."""
    if (found := _read(path)) is None:
        return "another process"
    return f"process {shown(found['pid'])} on {printable(found['host'], 100)} since {printable(found['since'], 40)}"


@contextmanager
def alone(folder: Path) -> Iterator[bool]:
    """Hold a folder for an instant; gives False where it cannot be locked, or another keeps it for seconds."""
    handle = None if fcntl is None else os.open(folder, os.O_RDONLY)
    try:
        yield handle is not None and lock(handle, PATIENCE) is True
    finally:
        if handle is not None:
            unlock(handle)


def lock(handle: int, wait: float = 0) -> bool | None:
    """Whether an open file or folder could be locked within so many seconds; None where there are no locks."""
    end = time.monotonic() + wait
    while fcntl is not None:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= end:
                return False
            time.sleep(0.002)
        except OSError:
            return None
    return None


def unlock(handle: int) -> None:
    """Close what was opened and perhaps locked; a child that was forked meanwhile does not keep the lock."""
    if fcntl is not None:
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_UN)
    os.close(handle)


def _is_at(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except FileNotFoundError:
        return False


def _read(path: Path) -> dict[str, Any] | None:
    try:
        with path.open(encoding="utf-8") as file:
            found = json.loads(file.read(1000))
    except (OSError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) and {"pid", "host", "since"} <= found.keys() else None
