"""Trackers that others wrote, by way of accelerate: TensorBoard, Weights & Biases, trackio."""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from accelerate.tracking import GeneralTracker, TensorBoardTracker, TrackioTracker, WandBTracker

from zoo.checks import printable
from zoo.training.watching.settings import Watching

PARTS = ("train", "validation", "test")
LARGEST = 2**63  # whole numbers from there on are none that was measured


def scalars(record: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a record by names that begin with a part of the data; lists, one entry a layer, are spread.

    Of several tasks the part is followed by the task. What is no number, as NaN in a file is none, is left out.

    Example:
        >>> scalars({"step": 3, "loss": 0.5, "stat/load": [[0.25, 0.75], [1.0, None]]})
        {'train/loss': 0.5, 'train/stat/load/0/0': 0.25, 'train/stat/load/0/1': 0.75, 'train/stat/load/1/0': 1.0}
        >>> scalars({"task": "ink", "loss": 0.5}), scalars({"validation/top1": 97.5, "final": True})
        ({'train/ink/loss': 0.5}, {'validation/top1': 97.5})
    """
    found: dict[str, float] = {}
    prefix = "/".join(["train", *([record["task"]] if isinstance(record.get("task"), str) else [])])
    for key, value in record.items():
        if key != "step":
            name = key if key.split("/")[0] in PARTS and "/" in key else f"{prefix}/{key}"
            found |= _spread(name, value)
    return found


def _spread(name: str, value: Any) -> Iterator[tuple[str, float]]:
    if isinstance(value, (list, tuple)):
        for number, entry in enumerate(value):
            yield from _spread(f"{name}/{number}", entry)
    elif isinstance(value, float) or (type(value) is int and abs(value) < LARGEST):
        yield name, value


class Trackers:
    """The trackers of a run, each started; one that fails while the training runs is left out from then on.

    Args:
        settings: Which.
        folder: The run's folder.
        config: What the run is: its recipe as plain values.
        start: The step that it begins at.
        identity: Of the run, the same whenever it goes on: Weights & Biases knows it by that.

    Raises:
        ValueError: One is not installed, or cannot be started, as without an account.
    """

    def __init__(self, settings: Watching, folder: Path, *, config: Mapping, start: int = 0, identity: str = ""):
        settings.check()
        name = settings.name or folder.resolve().name
        project = settings.project
        self.started: list[GeneralTracker] = []
        for kind in settings.trackers:
            if kind == "tensorboard":
                # What an earlier session wrote of later steps is not shown.
                tracker = TensorBoardTracker("tensorboard", folder, purge_step=start + 1 if start else None)
            elif kind == "wandb":
                # Its copy of what is printed would replace sys.stdout.
                options = {"dir": str(folder), "name": name, "id": identity or None, "settings": {"console": "off"}}
                options |= {"resume": "allow"} if identity else {}
                options |= {"mode": "offline"} if settings.offline else {}
                tracker = WandBTracker(project, **options)
            else:
                tracker = TrackioTracker(project, name=name, resume="allow")
            try:
                tracker.start()
                if kind == "tensorboard":  # its table of options would be a second run beside this one
                    tracker.log({"recipe": _as_text(config)}, step=start)
                else:
                    tracker.store_init_configuration(dict(config))
            except Exception as error:  # of many kinds, by tracker
                self.close()
                advice = " (without an account, watch.offline=true)" if kind == "wandb" else ""
                raise ValueError(
                    f"watch.trackers names {kind}, which cannot be started ({type(error).__name__}: "
                    f"{printable(error, 1000)}): set it up{advice}, or remove it there"
                ) from error
            self.started.append(tracker)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Tell each of the numbers at a step."""
        for tracker in list(self.started):
            with self._going_on(tracker):
                tracker.log(dict(values), step=step)

    def close(self) -> None:
        """End each of them."""
        for tracker in list(self.started):
            with self._going_on(tracker):
                tracker.finish()
        self.started.clear()

    @contextmanager
    def _going_on(self, tracker: GeneralTracker) -> Iterator[None]:
        """A training does not end because it cannot be watched."""
        try:
            yield
        except Exception as error:  # of many kinds, by tracker
            self.started.remove(tracker)
            warnings.warn(
                f"{tracker.name} is no longer told of this run: {type(error).__name__}: {printable(error, 500)}. "
                "metrics.jsonl has all numbers",
                stacklevel=4,
            )


def _as_text(config: Mapping[str, Any]) -> str:
    """YAML as Markdown shows it: indented by four."""
    import yaml

    return "".join(f"    {line}\n" for line in yaml.safe_dump(dict(config), sort_keys=False).splitlines())
