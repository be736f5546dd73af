"""What the benchmarks of layers share: calls that take turns in one process, and the median time of each."""

import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

Calls = dict[str, Callable[[], object]]


def rounds_of(calls: Calls, rounds: int, device: str = "cpu") -> dict[str, list[float]]:
    """Seconds of each call in each round, after two rounds that do not count.

    The calls take turns, and each round begins with another one: what comes after a call that frees much memory pays
    for having it mapped again, so it must not always be the same. With one thread the clock counts processor time,
    otherwise wall time; a GPU is waited for.
    """
    clock = time.process_time if torch.get_num_threads() == 1 and device == "cpu" else time.perf_counter
    wait = torch.cuda.synchronize if device != "cpu" else lambda: None
    times: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(rounds + 2):
        turn = number % len(calls)
        for name, call in [*calls.items()][turn:] + [*calls.items()][:turn]:
            wait()
            start = clock()
            call()
            wait()
            if number > 1:
                times[name].append(clock() - start)
    return times


def medians(calls: Calls, rounds: int) -> dict[str, float]:
    """Median seconds of each call (see `rounds_of`)."""
    return {name: statistics.median(seconds) for name, seconds in rounds_of(calls, rounds).items()}


def forward_of(function: Callable[[Tensor], Tensor], x: Tensor) -> Callable[[], object]:
    """A forward pass without gradients."""

    def call() -> None:
        with torch.no_grad():
            function(x)

    return call


def step_of(function: Callable[[Tensor], Tensor], x: Tensor, parameters: list[Tensor]) -> Callable[[], object]:
    """A forward and backward pass with the gradients of all parameters and of the input."""
    x = x.clone().requires_grad_()
    return lambda: torch.autograd.grad(function(x).sum(), (x, *parameters))
