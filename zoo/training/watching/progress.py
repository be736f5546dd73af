"""How far a training is, for people: a bar on a terminal, and plain lines where the output goes into a file."""

import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter

from tqdm import tqdm

REFRESH = 0.2  # seconds between two drawings of the bar
FIRST, GROWTH, LONGEST = 5.0, 1.5, 300.0  # seconds to the first line in a file, and how the next ones move apart
MEMORY = 10.0  # seconds over which the throughput is averaged
FORMAT = "step {n_fmt}/{total_fmt} |{bar}| {desc}"  # of the bar


class Progress:
    """Steps, loss, throughput and the time left.

    The throughput is that of the training alone: what happens within `paused` does not count. The time left does count
    it, since it will happen again. The first step is in neither: it starts worker processes and compiles.

    Args:
        total: Steps of the whole training.
        start: Steps that an earlier session has done.
        batch_size: Examples of a step, over all processes.
        unit: What an example is called, in the plural.
        stream: Where to draw; by default stderr.
        clock: Gives seconds.

    Example:
        >>> import io
        >>> times = iter([0.0, 1.0, 3.0, 7.0, 7.0])
        >>> progress = Progress(50, batch_size=8, stream=(stream := io.StringIO()), clock=lambda: next(times))
        >>> progress.advance(1), progress.advance(5), progress.advance(13)  # the last after more than 5 seconds
        (None, None, None)
        >>> stream.getvalue()
        'step 13/50  16 images/s  00:18 left\\n'
    """

    def __init__(
        self, total: int, start: int = 0, *, batch_size: int, unit: str = "images", stream=None, clock=perf_counter
    ):
        self.total, self.step, self.batch_size, self.unit = total, start, batch_size, unit
        self.stream, self.clock = sys.stderr if stream is None else stream, clock
        self.loss: float | None = None  # as it was last told
        self._bar = None
        if self.stream.isatty():
            options = {"total": total, "initial": start, "bar_format": FORMAT, "dynamic_ncols": True}
            self._bar = tqdm(file=self.stream, **options)
        self._wait = FIRST if self._bar is None else REFRESH
        self._created = clock()
        self._due = self._created + self._wait  # when it is shown next
        self._began: float | None = None  # when the first step was done, which was number `_first`
        self._first = start
        self._paused = 0.0  # seconds since then that were no training
        self._training = 0.0  # and those that were, up to the last step
        self._shown = (start, 0.0)  # the step, and the seconds of training, when it was last shown
        self._speed: float | None = None  # steps a second

    def advance(self, step: int) -> None:
        """Say that so many steps are done; drawn only when it is time."""
        self.step = step
        now = self.clock()
        if self._began is None:
            self._began, self._first, self._shown = now, step, (step, 0.0)
        self._training = now - self._began - self._paused
        if now >= self._due:
            self._show(now)

    @contextmanager
    def paused(self, title: str) -> Iterator[Callable[[int, int], None]]:
        """Within it there is no training; gives a function to be told how much of the title's work is done."""
        before = self.clock()

        def tell(done: int, total: int) -> None:
            if self._bar is not None and (now := self.clock()) >= self._due:
                self._due = now + self._wait
                self._bar.set_description_str(f"{title} {done}/{total}")

        try:
            yield tell
        finally:
            if self._began is not None:
                self._paused += self.clock() - before

    def say(self, line: str) -> None:
        """Print a line on stdout, above the bar if there is one."""
        if self._bar is None:
            print(line, flush=True)
        else:
            tqdm.write(line)

    def close(self) -> None:
        """Show where it ended."""
        if self._bar is not None:
            self._refresh()
            self._bar.close()
        elif self.step > self._first:
            words = [self._words(left=False), f"in {tqdm.format_interval(self.seconds)}"]
            print(*words, sep="  ", file=self.stream, flush=True)

    @property
    def seconds(self) -> float:
        """How long this session has taken."""
        return self.clock() - self._created

    @property
    def throughput(self) -> float | None:
        """Examples a second of the training so far, without pauses; None before the second step is done."""
        if self.step == self._first:
            return None
        return (self.step - self._first) * self.batch_size / max(self._training, 1e-9)

    def _show(self, now: float) -> None:
        self._measure()
        if self._bar is not None:
            self._refresh()
        else:
            print(self._words(), file=self.stream, flush=True)
            self._wait = min(self._wait * GROWTH, LONGEST)
        self._due = now + self._wait

    def _measure(self) -> None:
        steps, seconds = self.step - self._shown[0], self._training - self._shown[1]
        if steps > 0 and seconds > 0:
            weight = 1.0 if self._speed is None else 1 - math.exp(-seconds / MEMORY)
            self._speed = weight * steps / seconds + (1 - weight) * (self._speed or 0.0)
            self._shown = self.step, self._training

    def _refresh(self) -> None:
        self._bar.n = self.step
        self._bar.set_description_str("  ".join(self._facts(True)))

    def _words(self, left: bool = True) -> str:
        return "  ".join([f"step {self.step}/{self.total}", *self._facts(left)])

    def _facts(self, left: bool) -> list[str]:
        facts = [] if self.loss is None else [f"loss {self.loss:.4g}"]
        speed = self._speed * self.batch_size if left and self._speed is not None else self.throughput
        if speed is not None:
            facts.append(f"{speed:,.0f} {self.unit}/s" if speed >= 10 else f"{speed:.2g} {self.unit}/s")
        if left and self.step > self._first and self.step < self.total:
            each = (self.clock() - self._began) / (self.step - self._first)
            facts.append(f"{tqdm.format_interval(each * (self.total - self.step))} left")
        return facts
