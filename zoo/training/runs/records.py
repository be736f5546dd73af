"""The records of a run: `metrics.jsonl`, one JSON object a line, each with its `step`.

JSON has no NaN and no infinity: such a number is written as null, and read as None. A line that is no record, as a full
disk, a crash of the machine or an editor may leave one, is passed over with a warning that names file and line.
"""

import json
import math
import os
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from zoo.checks import printable, some
from zoo.storage.files import check_file, replacing, telling


def append_record(path: Path, record: dict[str, Any]) -> None:
    """Add a record at the end of the file, on a line of its own even where a kill has cut off the one before.

    Raises:
        OSError: it cannot be written, as when the disk is full; what was written before stays.
    """
    line = _line(record)
    with telling(path, len(line)), path.open("ab+") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            line = line if file.read(1) == b"\n" else b"\n" + line
        file.write(line)  # at the end, wherever it was read


def read_records(path: str | Path) -> list[dict[str, Any]]:
    """The records of the file, without lines that are none.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "metrics.jsonl"
        >>> append_record(path, {"step": 1, "loss": float("nan")})
        >>> path.read_text(), read_records(path)
        ('{"step": 1, "loss": null}\\n', [{'step': 1, 'loss': None}])
    """
    path, records, damaged = Path(path), [], []
    check_file(path)
    lines = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines[:-1] if lines[-1] == b"" else lines, 1):
        try:
            record = json.loads(line, parse_constant=lambda _: None)  # NaN, which Python writes and reads
        except (ValueError, RecursionError):
            record = None
        if isinstance(record, dict) and type(record.get("step")) is int:
            records.append(record)
        else:
            damaged.append(number)
    if damaged:
        which = f"line {damaged[0]} is no record" if len(damaged) == 1 else f"lines {some(damaged)} are no records"
        warnings.warn(f"{printable(path)}: {which} of a run as JSON with its step: passed over", stacklevel=2)
    return records


def keep_records(path: Path, keep: Callable[[dict[str, Any]], bool]) -> None:
    """Leave in the file the records that are wanted, and what is no record out."""
    content = b"".join(_line(record) for record in read_records(path) if keep(record))
    if content != path.read_bytes():
        with replacing(path) as file:
            file.write_bytes(content)


def as_numbers(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record as JSON has it: of tensors the numbers, and of tuples of them, such as one a layer, lists."""
    return {key: _number(entry) for key, entry in record.items()}


def _number(entry: Any) -> Any:
    if isinstance(entry, tuple):
        return [layer.tolist() for layer in entry]
    return entry.tolist() if isinstance(entry, Tensor) else entry


def _line(record: dict[str, Any]) -> bytes:
    return json.dumps(_finite(record), allow_nan=False).encode() + b"\n"


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, (list, tuple)) else value
