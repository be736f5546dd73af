"""Calls that take turns in one process, and what their times say."""

import statistics
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch

K = TypeVar("K", bound=Hashable)
WARM_UP = 2  # rounds that do not count


def take_turns(
    calls: Mapping[K, Callable[[], object]],
    rounds: int,
    device: torch.device,
    clock: Callable[[], float] = time.perf_counter,
    settle: float = 0.0,
    after_round: Callable[[], object] = lambda: None,
) -> dict[K, tuple[float, ...]]:
    """Seconds of each call in each round, by a clock; between two rounds, who follows it may say so.

    Each round begins with another call: what comes after one that frees much memory pays for having it mapped again,
    so it must not always be the same. A GPU is waited for.

    Args:
        settle: Seconds for which a call runs at each turn before the one that counts, once at least; 0 for none.
            Runtimes need it: the threads of the one before (OpenMP's, ONNX Runtime's) wait for more by spinning, for
            up to some 15 ms, and its weights are in the caches.
    """
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    times: dict[K, list[float]] = {name: [] for name in calls}
    for number in range(rounds + WARM_UP):
        turn = number % max(1, len(calls))
        for name, call in [*calls.items()][turn:] + [*calls.items()][:turn]:
            until = time.perf_counter() + settle
            while settle:
                call()
                if time.perf_counter() >= until:
                    break
            wait()
            start = clock()
            call()
            wait()
            if number >= WARM_UP:
                times[name].append(clock() - start)
        after_round()
    return {name: tuple(seconds) for name, seconds in times.items()}


@dataclass(frozen=True)
class Spread:
    """A median and the quartiles around it."""

    low: float
    median: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f} to {self.high:.2f})"


def spread(values: Sequence[float]) -> Spread:
    """Median and quartiles of one value or more."""
    if len(values) == 1:
        return Spread(*values * 3)
    return Spread(*statistics.quantiles(values, n=4, method="inclusive"))


def percentile(values: Sequence[float], share: float) -> float:
    """The value that a share of all do not exceed."""
    return sorted(values)[min(len(values) - 1, round(share * (len(values) - 1)))]
