"""The best model of a training beside the last, and an end before the end when there is none better for long."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from zoo.checks import Interval, shown, unknown
from zoo.training.recipe.section import Misfit, Section


@dataclass(frozen=True)
class Best(Section):
    """What the best model is told by; the run keeps it in `best/`, beside the last one in `model/`."""

    metric: str = "validation/top1"  # as an evaluation in the course of the training reports it
    mode: Literal["max", "min"] | None = None  # which value is the better; null: as the task says
    min_delta: Annotated[float, Interval(0, 1_000_000)] = 0.0  # by how much better it must be
    # Evaluations in a row without a better one after which the training ends; null: it never ends before its time.
    patience: Annotated[int, Interval(1, 1_000_000)] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.metric.startswith("validation/"):
            raise Misfit(
                f"metric is {shown(self.metric)}; a model is chosen on the validation part, by a metric such as "
                "validation/top1",
                "metric",
            )


class BestSoFar:
    """The best value so far, and for how many evaluations there was none better."""

    def __init__(self, section: Best, directions: Mapping[str, bool]):
        """`directions` says of each metric that is reported whether a higher value is the better.

        Raises:
            ValueError: The metric is not among them, or which value is the better is not known.
        """
        if section.metric not in directions:
            message = unknown(f"train.best.metric {shown(section.metric)}", section.metric, directions, "reported")
            raise ValueError(message)
        higher = directions[section.metric] if section.mode is None else section.mode == "max"
        if higher is None:
            raise ValueError(
                f"the task does not say whether a higher {section.metric} is the better one: set train.best.mode to "
                "max or min"
            )
        self.section, self.sign = section, 1 if higher else -1
        self.value: float | None = None
        self.step = self.worse = 0

    def better(self, metrics: Mapping[str, float], step: int) -> bool:
        """Take an evaluation into account; whether it is the best so far."""
        value = metrics[self.section.metric]
        least = -math.inf if self.value is None else self.sign * self.value + self.section.min_delta
        if math.isfinite(value) and self.sign * value > least:
            self.value, self.step, self.worse = value, step, 0
            return True
        self.worse += 1
        return False

    @property
    def exhausted(self) -> bool:
        """Whether the patience is over."""
        return self.section.patience is not None and self.worse >= self.section.patience

    def __str__(self) -> str:
        metric = self.section.metric
        if self.value is None:
            return f"no {metric} that is a number in {self.worse} evaluations"
        return f"no better one than {metric} {self.value:.4g} of step {self.step} for {self.worse} evaluations"

    def state(self) -> dict[str, Any]:
        """What a checkpoint has of it."""
        value = {} if self.value is None else {"value": self.value}
        return {"best": value | {"step": self.step, "worse": self.worse}}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Put back what `state` gave."""
        if "best" in state:
            self.value = state["best"].get("value")  # none if every evaluation so far gave a NaN
            self.step, self.worse = (state["best"][name] for name in ("step", "worse"))
