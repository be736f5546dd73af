"""A file that names another, or a folder: both are exchanged as one."""

import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from zoo.checks import printable
from zoo.storage.files import RECORD, check_file, clear_left, folder_at, settle, staging, sync, telling
from zoo.storage.locks import alone

T = TypeVar("T")


@dataclass(frozen=True)
class Pointer:
    """How a folder is written in which one file names what belongs to it, such as config.json the weights.

    What is named has a new name each time, which is never given again: who has read the file finds what it was written
    with or nothing, and never what belongs to another. It is the renaming of the file that exchanges the old for the
    new. What a save may leave if it is killed, it has recorded before; nothing else is ever removed.

    Attributes:
        file: Name of the file.
        target: What is named is called so in a new folder; later, it has eight more digits before its suffix. It may
            be an index of several files, which then has ``.index.json`` behind that.
        named: What a file names, given its path; None if nothing.
        remove: Removes what was named, given its path.
        parts: The names of what belongs to what is named and lies beside it, given its path.
    """

    file: str
    target: str
    named: Callable[[Path], str | None]
    remove: Callable[[Path], None]
    parts: Callable[[Path], list[str]] = lambda path: []

    @contextmanager
    def exchanging(self, folder: Path | str, size: int | None = None) -> Iterator[tuple[Path, str]]:
        """Where the body writes both, and how it has to call what the file names; the folder has them when it ends.

        If that is an index, its name and those of its parts begin as this one does.

        Args:
            folder: Where they are to lie; made if it is not there.
            size: How many bytes both have, for the error when there is no room.

        Raises:
            OSError: They cannot be written, or others hold the folder for long.
            FileExistsError: The folder has a file of that name that was not written so, or is itself a file.
            ValueError, TypeError: It cannot be a folder.
        """
        folder = folder_at(folder)
        with telling(folder / self.file, size):
            self.check(folder)
            with staging(folder, self._clear) as stage:
                with alone(folder):
                    name = self._choose(stage)
                    _record(stage, self.file, [])
                yield stage, name
                new = self._all(stage)
                for entry in (*new, self.file):
                    settle(stage / entry)
                with alone(folder):
                    _record(stage, self.file, [*new, *self._all(folder)])
                    for entry in reversed(new):
                        _place(stage / entry, folder / entry)
                    sync(folder)
                    (stage / self.file).replace(folder / self.file)
                    sync(folder)

    def check(self, folder: Path) -> None:
        """Raise FileExistsError if something is in the folder, or in its place, that a save would have to overwrite."""
        folder_at(folder)
        self._named(folder)

    def clear(self, folder: Path) -> None:
        """Clear what killed saves left in a folder."""
        clear_left(folder, self._clear)

    def owns(self, name: str) -> bool:
        """Whether what is named may be called so."""
        stem, dot, suffix = self.target.partition(".")
        part, index = r"-\d{5}-of-\d{5}", r"\.index\.json"
        pattern = rf"{re.escape(stem)}(?:-[0-9a-f]{{8}})?(?:{part})?{re.escape(dot + suffix)}(?:{index})?"
        return re.fullmatch(pattern, name) is not None

    def _named(self, folder: Path) -> str | None:
        if (folder / self.file).is_dir():
            raise FileExistsError(f"{printable(folder / self.file)} is a folder; choose another folder, or remove it")
        check_file(folder / self.file)
        return self.named(folder / self.file)

    def _all(self, folder: Path) -> list[str]:
        """What the file in a folder names, and its parts; the file is checked first."""
        name = self._named(folder)
        return [] if name is None else [name, *self.parts(folder / name)]

    def _choose(self, stage: Path) -> str:
        """The plain name if neither it nor the file is there, nor another save under way that may have chosen it."""
        folder, (stem, dot, suffix) = stage.parent, self.target.partition(".")
        taken = any(os.path.lexists(folder / name) for name in (self.file, self.target, f"{self.target}.index.json"))
        taken = taken or any(folder.glob(f"{stem}-?????-of-?????{dot}{suffix}"))
        if not taken and not any(folder.glob(f".zoo-*/{RECORD}")):
            return self.target
        return f"{stem}-{stage.name.split('-')[1].split('.')[0]}{dot}{suffix}"

    def _clear(self, stage: Path) -> bool:
        """Remove what a save recorded that is over, but not what the file names now; False if it is another kind's."""
        try:
            record = json.loads((stage / RECORD).read_text("utf-8"))
            file, names = record["file"], [name for name in record["names"] if self.owns(name)]
        except (OSError, ValueError, TypeError, KeyError, RecursionError):  # it had not come so far
            return True
        if file != self.file:
            return False
        current = self._all(stage.parent)
        for name in names:
            path, new = stage.parent / name, stage / name
            # What is still in the stage was not given its place, unless it is a file, which is then in both.
            waits = os.path.lexists(new) and not (os.path.lexists(path) and os.path.samefile(new, path))
            if name not in current and not waits and os.path.lexists(path):
                self.remove(path)
        return True


def _record(stage: Path, file: str, names: list[str]) -> None:
    (stage / RECORD).write_text(json.dumps({"file": file, "names": names}), "utf-8")


def _place(new: Path, place: Path) -> None:
    """Give what is new its place, where nothing may be."""
    if os.path.lexists(place):
        raise FileExistsError(f"{printable(place)} was made by another meanwhile; save again")
    if new.is_dir():
        new.rename(place)
        return
    try:
        os.link(new, place)  # never in the place of another, as a renaming would be
    except FileExistsError:
        raise FileExistsError(f"{printable(place)} was made by another meanwhile; save again") from None
    except OSError:  # the file system has no links
        new.rename(place)


def steady(path: Path, read: Callable[[], T], *, twice: bool = False) -> T:
    """What `read` makes of a file and of what it names; it reads again if both were exchanged meanwhile.

    Args:
        path: The file.
        read: Opens what the file names as soon as it knows it: then it can be removed without harm.
        twice: `read` opens the file itself more than once, and what it makes counts only if the file stayed.

    Raises:
        Exception: Whatever `read` raises of a file that stays.
    """
    while True:
        before = _version(path)
        try:
            content = read()
        except Exception:  # torch raises RuntimeError for a file that is gone
            if _version(path) == before:
                raise
        else:
            if not twice or _version(path) == before:
                return content


def _version(path: Path) -> tuple[int, ...] | None:
    with suppress(OSError):
        status = path.stat()
        return status.st_ino, status.st_mtime_ns, status.st_ctime_ns, status.st_size
    return None
