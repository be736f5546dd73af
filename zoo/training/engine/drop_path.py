"""Stochastic depth that changes in the course of a training."""

from dataclasses import dataclass
from typing import Annotated

from timm.layers import DropPath as Layer
from torch import nn

from zoo.checks import Interval
from zoo.training.recipe.schema import LONGEST, Duration, Lasting
from zoo.training.recipe.section import Misfit, Section

Factor = Annotated[float, Interval(0, 1)]


@dataclass(frozen=True)
class DropPath(Section):
    """A factor on the model's own rates of stochastic depth: `first` until `begin`, then evenly to `last` at `end`.

    Source: Liu et al. 2023, "Dropout Reduces Underfitting" (arXiv 2303.01500): early dropout is `{first: 1, last: 0,
    end: 50ep}`, late dropout `{first: 0, last: 1, begin: 50ep, end: 50ep}`.
    """

    first: Factor  # of the model's rates at the beginning
    last: Factor  # of the model's rates at the end
    end: Annotated[Duration, Lasting(0, LONGEST)]  # when `last` is reached
    begin: Annotated[Duration, Lasting(0, LONGEST)] = Duration(0, "st")  # until when `first` holds

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.begin.unit == self.end.unit and self.begin.count > self.end.count:
            raise Misfit(f"begin is {self.begin}; it must be at most end, {self.end}", "begin")

    def factor(self, step: int, steps_per_epoch: int) -> float:
        """The factor of a step."""
        begin, end = (duration.steps(steps_per_epoch) for duration in (self.begin, self.end))
        if step < begin or end <= begin:
            return self.first if step < begin else self.last
        return self.first + (self.last - self.first) * min((step - begin) / (end - begin), 1.0)


class DropPathSchedule:
    """Sets the rates of a model's stochastic depth, from the step alone.

    Raises:
        ValueError: The model has none.
    """

    def __init__(self, model: nn.Module, section: DropPath, steps_per_epoch: int):
        self.section, self.steps_per_epoch = section, steps_per_epoch
        self.layers = [(layer, layer.drop_prob) for layer in model.modules() if isinstance(layer, Layer)]
        if not self.layers:
            raise ValueError(
                "train.drop_path changes the rates of the model's stochastic depth, and it has none: set "
                "model.kwargs.drop_path_rate to the highest rate, or remove train.drop_path"
            )

    def enter(self, step: int) -> None:
        """Set the rates for a step."""
        factor = self.section.factor(step, self.steps_per_epoch)
        for layer, rate in self.layers:
            layer.drop_prob = rate * factor
