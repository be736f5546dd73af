"""What is measured of a split: added up batch by batch, over all processes, and computed once at the end."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:  # it takes a while to import, and a recipe is read without it
    from torchmetrics import CatMetric, MeanMetric, Metric


class Meter(ABC):
    """Base of what tasks measure with: some metrics of torchmetrics, and what they are told of a batch.

    The metrics know this process alone: those of several are put together by `sum_up`.

    Args:
        parts: The metrics by name.
    """

    def __init__(self, **parts: "Metric"):
        self.parts = parts
        for part in parts.values():
            alone(part)

    @abstractmethod
    def update(self, outputs: Tensor, targets: Tensor) -> None:
        """Add the outputs of a batch, in float32, and its targets."""

    @abstractmethod
    def compute(self) -> dict[str, float]:
        """The numbers that the task reports, of all that was added."""

    def tables(self) -> dict[str, Tensor]:
        """What is no single number, on the CPU: ``class_...`` has one a class, `confusion` labelled by predicted."""
        return {}

    def to(self, device: torch.device) -> "Meter":
        """Keep what is added up on a device, which must be that of the batches; returns itself."""
        for part in self.parts.values():
            if part.device == device:
                continue
            is_precise = part.dtype == torch.float64
            part.to(device)
            if is_precise:
                part.set_dtype(torch.float64)  # which torchmetrics forgets when it moves
        return self

    def state(self) -> Any:
        """All that was added, on the CPU, for the `sum_up` of several."""
        return {name: _on_cpu(part.metric_state) for name, part in self.parts.items()}

    def sum_up(self, states: Sequence[Any]) -> None:
        """Take what several have added, as `state` gives it, in the place of what this one has."""
        self.to(torch.device("cpu"))
        for name, part in self.parts.items():
            *others, last = (state[name] for state in states)
            for key, value in last.items():
                setattr(part, key, value)
            for state in reversed(others):
                part.merge_state(state)  # which puts it before what is there


def alone(metric: "Metric") -> "Metric":
    """The metric, which from now on does not ask other processes.

    It would add up again what `Meter.sum_up` has, and from a CPU's memory, from where NCCL sends nothing.
    """
    metric.distributed_available_fn = _never
    return metric


def _never() -> bool:
    return False


def _on_cpu(state: Any) -> Any:
    if isinstance(state, dict):
        return {name: _on_cpu(value) for name, value in state.items()}
    return [value.cpu() for value in state] if isinstance(state, list) else state.cpu()


def mean() -> "MeanMetric":
    """A mean over images that does not depend on how they were batched, up to the rounding of float64."""
    from torchmetrics import MeanMetric

    return MeanMetric(nan_strategy="disable").set_dtype(torch.float64)


def every() -> "CatMetric":
    """All values, one after the other."""
    from torchmetrics import CatMetric

    return CatMetric(nan_strategy="disable")


def values_of(metric: "CatMetric") -> Tensor:
    """What `every` has kept, on the CPU."""
    return torch.as_tensor(metric.compute()).cpu()


def value_of(metric: "Metric") -> float:
    """A metric of one number."""
    return metric.compute().item()


def percent_of(metric: "Metric") -> float:
    """A metric that is a share, in percent."""
    return 100 * value_of(metric)


class SumMeter(Meter):
    """Measures by a task's `metrics`, whose values it adds up over the images, and `summarise`."""

    def __init__(self, task: Any):
        super().__init__()
        self.task, self.sums, self.images = task, {}, 0

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        self.images += len(targets)
        for name, values in self.task.metrics(outputs, targets).items():
            self.sums[name] = self.sums.get(name, 0) + values.double().sum(0)

    def compute(self) -> dict[str, float]:
        return self.task.summarise({name: total.cpu() for name, total in self.sums.items()}, self.images)

    def state(self) -> Any:
        return _on_cpu(self.sums), self.images

    def sum_up(self, states: Sequence[Any]) -> None:
        self.images = sum(images for _, images in states)
        self.sums = {name: sum(sums[name] for sums, _ in states) for name in states[0][0]}
