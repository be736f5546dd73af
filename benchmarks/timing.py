"""What the benchmarks of layers share: calls that take turns in one process, and the median time of each."""

import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from zoo.bench.timing import take_turns

Calls = dict[str, Callable[[], object]]


def rounds_of(calls: Calls, rounds: int, device: str = "cpu") -> dict[str, list[float]]:
    """Seconds of each call in each round of turns, see `zoo.bench.timing.take_turns`.

    With one thread on a CPU the clock counts processor time, which other work on the machine leaves alone.
    """
    alone = torch.get_num_threads() == 1 and device == "cpu"
    clock = time.process_time if alone else time.perf_counter
    return {name: list(times) for name, times in take_turns(calls, rounds, torch.device(device), clock).items()}


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
