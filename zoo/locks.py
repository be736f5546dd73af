"""Locks on files and folders, kept by the kernel: they end with the process that holds them, however it ends.

And those of threads, for what torch and others keep once a process.
"""

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

PATIENCE = 10  # seconds to wait for others, who hold a folder for an instant


@contextmanager
def alone(folder: Path) -> Iterator[bool | None]:
    """Hold a folder for an instant; gives False if others keep it for long, and None where there are no locks.

    There are none on Windows, and on some network file systems.

    Example:
        >>> import tempfile
        >>> with alone(Path(tempfile.mkdtemp())) as sure:
        ...     sure or fcntl is None
        True
    """
    handle = None if fcntl is None else os.open(folder, os.O_RDONLY)
    try:
        yield None if handle is None else _lock(handle, PATIENCE)
    finally:
        if handle is not None:
            unlock(handle)


def make_locked(path: Path) -> int:
    """Make a file and lock it; its handle. The lock is kept where there are locks, until `unlock`."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)  # the kernel applies the umask
    if fcntl is not None:
        _lock(handle)
    return handle


def lock(path: Path) -> int | None:
    """Lock a file, if nobody has; its handle, or None."""
    if fcntl is None:
        return None
    handle = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
    if _lock(handle):
        return handle
    os.close(handle)
    return None


def unlock(handle: int) -> None:
    """Close what was locked; a child that was forked meanwhile does not keep the lock."""
    if fcntl is not None:
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_UN)
    os.close(handle)


def _lock(handle: int, wait: float = 0) -> bool | None:
    end = time.monotonic() + wait
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= end:
                return False
            time.sleep(0.002)
        except OSError:  # there are no locks
            return None


class Turns:
    """Lets one thread of a process at a time change what all of them share.

    A forked process has a lock of its own: nobody is there who could release one that a thread of its parent held.

    Example:
        >>> turns = Turns()
        >>> with turns.mine(), turns.mine():  # a thread does not wait for itself
        ...     turns.mine() is turns.mine()
        True
    """

    def __init__(self):
        self._locks: dict[int, threading.RLock] = {}  # by process

    def mine(self) -> threading.RLock:
        """The lock of this process."""
        return self._locks.setdefault(os.getpid(), threading.RLock())
