"""What the trainer tells of a run as it goes, and to whom that is handed on."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from zoo.training.recipe.recipe import Recipe
from zoo.training.recipe.schema import plain
from zoo.training.watching.progress import Progress
from zoo.training.watching.sessions import Session
from zoo.training.watching.trackers import Trackers, scalars


def watch_of(trainer: Any, *, active: bool = True) -> "Watch":
    """What watches a trainer, whose folder has its recipe already; where it is not active, what does not."""
    vectors = all(splits["train"].kind == "vector" for splits in trainer.data.values())
    about = {"start": trainer.step, "active": active, "unit": "samples" if vectors else "images"}
    return Watch(trainer.recipe, trainer.folder.path, total_steps=trainer.total, **about)


@contextmanager
def unwatched_after(trainer: Any) -> Iterator[None]:
    """After it nothing watches a trainer, however it ends."""
    try:
        yield
    finally:
        if trainer.watch is not None:
            trainer.watch.close()
        trainer.watch = None


class Watch:
    """One session of a run as it is watched: progress, the trackers of the recipe, and `sessions.jsonl`.

    Only the main process has one that is active; in the others, nothing that is told has an effect.

    Args:
        recipe: Of the run.
        folder: Of the run; it must be there.
        total_steps: Of the whole training.
        start: The step that it begins at.
        sinks: Functions that get the step and the numbers of each record, as trackers do.
        unit: What an example is called, in the plural.
        active: Whether this is the main process.

    Raises:
        ValueError: A tracker is not installed or cannot be started.
        OSError: The folder cannot be written.
    """

    def __init__(
        self, recipe: Recipe, folder: Path, *, total_steps: int, start: int = 0, unit="images", sinks=(), active=True
    ):
        self._active, self._sinks = active, tuple(sinks)
        if not active:
            return
        recipe.watch.check()
        self._session = Session(Path(folder), start)
        about = {"config": plain(recipe), "start": start, "identity": self._session.identity}
        self._trackers = Trackers(recipe.watch, Path(folder), **about)
        self._progress = Progress(total_steps, start, batch_size=recipe.train.batch_size, unit=unit)
        # The one call of every step goes straight there.
        self.advance = self._progress.advance

    def advance(self, step: int) -> None:
        """Say that so many steps are done."""

    def log(self, step: int, record: Mapping[str, Any]) -> None:
        """Hand on what is written into metrics.jsonl."""
        if not self._active:
            return
        values = scalars(record)
        losses = [value for name, value in values.items() if name.startswith("train/") and name.endswith("/loss")]
        if losses:
            self._progress.loss = losses[0]
        elif not record.get("final"):  # an evaluation: often enough to know the time of a session that is killed
            self._note(step)
        if values:
            self._trackers.log(step, values)
            for sink in self._sinks:
                sink(step, values)

    @contextmanager
    def paused(self, title: str) -> Iterator[Callable[[int, int], None]]:
        """Within it something else runs than training, as an evaluation; gives what is told of its progress."""
        if not self._active:
            yield lambda done, total: None
            return
        with self._progress.paused(title) as tell:
            yield tell

    def say(self, line: str) -> None:
        """Print a line on stdout."""
        if self._active:
            self._progress.say(line)

    def close(self, metrics: Mapping[str, Any] | None = None) -> None:
        """End it, with what was measured at the end if it got there; a second time, nothing happens."""
        if not self._active:
            return
        step = self._progress.step
        if metrics:
            self.log(step, metrics)
        self._note(step)
        self._active = False
        self._progress.close()
        self._trackers.close()

    def _note(self, step: int) -> None:
        self._session.note(step, self._progress.seconds, self._progress.throughput)
