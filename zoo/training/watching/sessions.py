"""`sessions.jsonl` in a run's folder: when, where, for how long and how fast it was trained, session by session.

A run that is resumed has several. What they say differs from run to run, and so it is not in metrics.jsonl, which is
the same whenever the training is.
"""

import datetime
import os
import platform
import re
import uuid
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil
import torch
from accelerate import PartialState

from zoo.training.runs.records import append_record, read_records
from zoo.version import __version__

FILE = "sessions.jsonl"
BEGINS = {
    "id": str,
    "began": str,
    "machine": dict,
    "versions": dict,
}  # what the record of a beginning has, and its types
PACKAGES = ("torch", "torchvision", "timm", "accelerate", "numpy")


class Session:
    """One session of a run, written down as it begins, when it is noted, and at its end.

    Args:
        folder: The run's folder.
        start: The step that it begins at.

    Attributes:
        identity: Of the run: that of its first session.
    """

    def __init__(self, folder: Path, start: int = 0):
        self.path = folder / FILE
        earlier = read_sessions(folder)
        self.identity = earlier[0]["id"] if earlier else uuid.uuid4().hex
        began = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
        facts = {"machine": machine(), "versions": versions()}
        append_record(self.path, {"step": start, "id": self.identity, "began": began} | facts)

    def note(self, step: int, seconds: float, throughput: float | None) -> None:
        """Write down how far it is, after how long, and at how many examples a second."""
        speed = throughput and round(throughput, 3)
        append_record(self.path, {"step": step, "seconds": round(seconds, 3), "throughput": speed})


def read_sessions(folder: Path) -> list[dict[str, Any]]:
    """Every session of a run: `start`, `step`, `began`, `seconds`, `throughput`, `machine`, `versions`, `id`.

    The last step, the seconds and the throughput are those that were noted last. There are none in a folder of a
    version that wrote none.
    """
    sessions: list[dict[str, Any]] = []
    for record in read_records(folder / FILE) if (folder / FILE).is_file() else []:
        begins = {key: record.get(key) for key, kind in BEGINS.items() if isinstance(record.get(key), kind)}
        if begins.keys() == BEGINS.keys():
            sessions.append(
                {"start": record["step"], "step": record["step"], "seconds": 0.0, "throughput": None} | begins
            )
        elif sessions and isinstance(record.get("seconds"), float):
            speed = record.get("throughput")
            noted = {"throughput": speed if isinstance(speed, float) else None}
            sessions[-1] |= {"step": record["step"], "seconds": record["seconds"]} | noted
    return sessions


def machine() -> dict[str, Any]:
    """What this machine is, and how many processes train together."""
    facts = {"system": platform.platform(), "processor": _processor(), "cores": os.cpu_count()}
    facts |= {"memory_gb": round(psutil.virtual_memory().total / 1e9, 1), "threads": torch.get_num_threads()}
    if torch.cuda.is_available():
        facts["gpus"] = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    return facts | {"processes": PartialState().num_processes}


def versions() -> dict[str, str]:
    """Versions of what a training runs on."""
    found = {"zoo": __version__, "python": platform.python_version()}
    for name in PACKAGES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found | ({"cuda": torch.version.cuda} if torch.version.cuda else {})


def _processor() -> str:
    with suppress(OSError):
        if named := re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text("utf-8"), re.M):
            return named[1]
    return platform.processor() or platform.machine()
