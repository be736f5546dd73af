"""Locks on files and folders, kept by the kernel: they end with the process that holds them, however it ends.

And those of threads, for what torch and others keep once a process.
"""

import errno
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from zoo.checks import printable

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

PATIENCE = 10  # seconds to wait for others, who hold a folder for an instant
_kept: set[int] = set()  # what this process holds for long


@contextmanager
def alone(folder: Path) -> Iterator[bool | None]:
    """Hold a folder for an instant; gives None where there are no locks, as on Windows and some network file systems.

    Example:
        >>> import tempfile
        >>> with alone(Path(tempfile.mkdtemp())) as sure:
        ...     sure or fcntl is None
        True

    Raises:
        BlockingIOError: Others keep it for long; the error says who.
    """
    handle = None if fcntl is None else os.open(folder, os.O_RDONLY)
    try:
        sure = None if handle is None else _lock(handle, PATIENCE)
        if sure is False:
            raise BlockingIOError(
                errno.EAGAIN,
                f"{printable(folder)} is held by {_holder(handle)} since more than {PATIENCE} seconds, and cannot be "
                "written meanwhile; let it end, or end it, and try again",
            )
        yield sure
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
    _kept.discard(handle)
    os.close(handle)


def hold(handle: int, wait: float = 0, *, shared: bool = False) -> bool | None:
    """Lock an open file for long, until `unlock`; False if others keep it, and None where there are no locks.

    Children that are forked meanwhile, such as the workers of a data loader, may outlive a process that is killed: they
    do not hold the lock.

    Args:
        handle: The file.
        wait: Seconds that others may take.
        shared: Whether others may hold it too, all of them shared.
    """
    locked = None if fcntl is None else _lock(handle, wait, shared=shared)
    if locked:
        _kept.add(handle)
    return locked


def _lock(handle: int, wait: float = 0, *, shared: bool = False) -> bool | None:
    end = time.monotonic() + wait
    while True:
        try:
            fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= end:
                return False
            time.sleep(0.002)
        except OSError:  # there are no locks
            return None


def _let_go() -> None:
    """In a process that was just forked."""
    for handle in _kept:
        with suppress(OSError):
            os.close(handle)
    _kept.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)


def _holder(handle: int) -> str:
    """Who has locked what a handle is of, as Linux tells it; other systems do not."""
    with suppress(OSError, ValueError, IndexError):
        inode = str(os.fstat(handle).st_ino)
        for line in Path("/proc/locks").read_text().splitlines():
            _, kind, _, _, pid, place, *_ = line.split()
            if kind == "FLOCK" and place.rpartition(":")[2] == inode and int(pid) > 0:
                return "this process" if int(pid) == os.getpid() else f"the process {pid}"
    return "another process"


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
