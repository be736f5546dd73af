"""Annealed noise on the gradients."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import nn

from zoo.checks import Interval
from zoo.training.methods.base import Effect, Method, Setting
from zoo.training.seeds import derive_seed


@dataclass(frozen=True)
class GradientNoise(Method):
    """Gaussian noise on every gradient, of variance `eta / (1 + step)^gamma` (arXiv 1511.06807).

    It is added after the clipping, so that its size is what is said here. All processes draw the same, from the
    recipe's seed and the number of the step.
    """

    name: ClassVar[str] = "gradient_noise"
    any_task: ClassVar[bool] = True
    any_form: ClassVar[bool] = True
    eta: Annotated[float, Interval(above=0, most=1_000_000)]  # variance at the first step; in the paper 0.01, 0.3 or 1
    gamma: Annotated[float, Interval(0, 100)] = 0.55  # how fast it falls

    def deviation(self, step: int) -> float:
        """The standard deviation of the noise of a step.

        Example:
            >>> noise = GradientNoise(eta=0.01)
            >>> noise.deviation(0), round(noise.deviation(1000), 4)
            (0.1, 0.015)
        """
        return (self.eta / (1 + step) ** self.gamma) ** 0.5

    def begin(self, setting: Setting) -> Effect:
        return Noise(self, setting)


class Noise(Effect):
    """The noise of the steps of a training."""

    def __init__(self, method: GradientNoise, setting: Setting):
        super().__init__()
        self.method, self.seed = method, setting.seed
        self.generator = torch.Generator(setting.device)

    @torch.no_grad()
    def change_gradients(self, step: int, parameters: Sequence[nn.Parameter]) -> None:
        self.generator.manual_seed(derive_seed(self.seed, step))
        deviation = self.method.deviation(step)
        for parameter in parameters:
            if (gradient := parameter.grad) is not None:
                noise = torch.empty_like(gradient).normal_(0, deviation, generator=self.generator)
                gradient.add_(noise)
