"""What commands print: tables and JSON on stdout, progress on stderr. Only a terminal gets colours and bars."""

import contextlib
import json
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from zoo.checks import printable

Progress = Callable[[int, int], None]  # called with how much is done, and of how much


def print_json(value: Any) -> None:
    """Print JSON; what is no finite number is null."""
    print(json.dumps(_plain(value), indent=1))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)


def print_table(head: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> None:
    """Print a table: ruled on a terminal; else lines of plain text, nothing of which is cut.

    Args:
        head: Titles of the columns.
        rows: What is in them.
        right: Numbers of the columns that are aligned to the right.
    """
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.table import Table

        table = Table(header_style="bold", box=None, pad_edge=False)
        for number, title in enumerate(head):
            table.add_column(title, justify="right" if number in right else "left", overflow="fold")
        for row in rows:
            table.add_row(*(printable(cell) for cell in row))
        Console(markup=False, highlight=False).print(table)
        return
    lines = [head, *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    for line in lines:
        cells = [cell.rjust(widths[i]) if i in right else cell.ljust(widths[i]) for i, cell in enumerate(line)]
        print("  ".join(cells).rstrip())


@contextlib.contextmanager
def progress(title: str) -> Iterator[Progress]:
    """A bar on stderr while something runs, if that is a terminal.

    It is drawn when it is told of progress, and never in between: a thread that draws would disturb what is timed.
    """
    if not sys.stderr.isatty():
        yield lambda done, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    columns = TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Bar(*columns, console=Console(stderr=True), transient=True, auto_refresh=False) as bar:
        task = bar.add_task(title, total=None)
        bar.refresh()

        def tell(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total, refresh=True)

        yield tell


@contextlib.contextmanager
def waiting(title: str) -> Iterator[None]:
    """A spinner on stderr while something runs that tells nothing of itself, if that is a terminal."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console

    with Console(stderr=True).status(title):
        yield


def check_picture(option: str, path: Path) -> None:
    """Refuse a picture that cannot be written before anything is computed for it.

    Raises:
        ValueError: It is no .png file, or its folder is not there.
    """
    if path.suffix != ".png" or not path.parent.is_dir():
        raise ValueError(
            f"{option} {printable(path, 500)} cannot be written; name a .png file in a folder that is there"
        )
