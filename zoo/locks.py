"""Locks on files and folders, kept by the kernel: they end with the process that holds them, however it ends."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

PATIENCE = 10  # seconds to wait for others, who hold a folder for an instant
_kept: set[int] = set()  # what this process holds for long


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
