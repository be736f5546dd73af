"""Writing files so that a kill at any instant leaves the old one or the new one, whole."""

import os
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None


@contextmanager
def replacing(path: Path | str) -> Iterator[Path]:
    """A temporary file beside `path`, to be written in the body; it takes `path`'s place when the body has ended.

    The data is on the disk before the name changes. If the body fails, `path` is as it was and the temporary is gone.

    Example:
        >>> folder = Path(tempfile.mkdtemp())
        >>> with replacing(folder / "note.txt") as new:
        ...     _ = new.write_text("whole")
        >>> (folder / "note.txt").read_text(), len(list(folder.iterdir()))
        ('whole', 1)
    """
    path = Path(path)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    os.close(handle)
    new = Path(name)
    try:
        yield new
        _sync(new)
        new.chmod(0o666 & ~_umask())  # mkstemp's files are private; a model is not
        new.replace(path)
        _sync(path.parent)
    finally:
        new.unlink(missing_ok=True)


def temporaries(folder: Path | str, pattern: str) -> list[Path]:
    """What `replacing` was writing in place of files whose name matches the pattern, and left there if it was killed.

    Example:
        >>> folder = Path(tempfile.mkdtemp())
        >>> with replacing(folder / "note.txt") as new:
        ...     temporaries(folder, "note.*") == [new], temporaries(folder, "other.*")
        (True, [])
    """
    ours = re.compile(rf"\.(?:{pattern})\.[a-z0-9_]{{8}}\.tmp")
    return [path for path in Path(folder).iterdir() if ours.fullmatch(path.name)]


@contextmanager
def writing(folder: Path | str) -> Iterator[Callable[[], bool]]:
    """Make a folder and hold it while files in it are written; gives a function that says whether nobody else does.

    Only who is alone may take files for those of a process that was killed. It is asked last: to ask may give up one's
    own hold. Where a folder cannot be locked, as on Windows and some network file systems, nobody is ever alone. A
    folder that was made and stays empty is removed.

    Example:
        >>> folder = Path(tempfile.mkdtemp())
        >>> with writing(folder) as alone:
        ...     with writing(folder):
        ...         together = alone()
        ...     together, alone() or fcntl is None
        (False, True)
    """
    folder = Path(folder)
    made = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    handle = None if fcntl is None else os.open(folder, os.O_RDONLY)
    if handle is not None and not _locked(handle, fcntl.LOCK_SH):
        os.close(handle)
        handle = None
    try:
        yield lambda: handle is not None and _locked(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        if handle is not None:
            os.close(handle)
        if made:
            with suppress(OSError):  # it is not empty
                folder.rmdir()


def _locked(handle: int, kind: int) -> bool:
    try:
        fcntl.flock(handle, kind)
    except OSError:
        return False
    return True


def _sync(path: Path) -> None:
    if os.name == "nt" and path.is_dir():
        return  # Windows has no handle for a folder
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
