"""Functions to fit, sampled: those of the KAN paper, some of Feynman's, and seven of unlike character."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from zoo.checks import Interval, shown, unknown
from zoo.training.data.base import DataSet
from zoo.training.data.splits import TensorSplit
from zoo.training.recipe.schema import Count, Seed
from zoo.training.recipe.section import Misfit
from zoo.training.seeds import SPLIT, generator

PI, TURN = math.pi, 2 * math.pi
NUMBERS = 10_000_000  # of all points of a part, which are held in memory


@dataclass(frozen=True)
class Formula:
    """A function of several numbers, one tensor each, and the box it is sampled from."""

    of: Callable[..., Tensor]
    box: tuple[tuple[float, float], ...]

    def __call__(self, x: Tensor) -> Tensor:
        """Values (N,) at the points (N, inputs), whose coordinates are in [-1, 1] for the whole box."""
        low, high = torch.tensor(self.box, dtype=x.dtype).t()
        return self.of(*(low + (high - low) * (x + 1) / 2).unbind(1))


UNIT = (-1.0, 1.0)

FORMULAS = {
    # Liu et al., "KAN" (arXiv 2404.19756), section 3.1.
    "bessel": Formula(lambda x: torch.special.bessel_j0(20 * x), (UNIT,)),
    "exp_sine": Formula(lambda x, y: torch.exp(torch.sin(PI * x) + y**2), (UNIT,) * 2),
    "product": Formula(lambda x, y: x * y, (UNIT,) * 2),
    "hundred": Formula(lambda *x: torch.exp(sum(torch.sin(PI / 2 * xi) ** 2 for xi in x) / 100), (UNIT,) * 100),
    "nested_sines": Formula(
        lambda a, b, c, d: torch.exp((torch.sin(PI * (a**2 + b**2)) + torch.sin(PI * (c**2 + d**2))) / 2), (UNIT,) * 4
    ),
    # The same, table 2: Feynman's equations without dimensions, under their numbers. The ranges are zoo's.
    "I.6.2": Formula(lambda x, s: torch.exp(-(x**2) / (2 * s**2)) / torch.sqrt(TURN * s**2), (UNIT, (0.5, 2.0))),
    "I.12.11": Formula(lambda a, angle: 1 + a * torch.sin(angle), (UNIT, (0, TURN))),
    "I.27.6": Formula(lambda a, b: 1 / (1 + a * b), ((0.5, 2.0), (0.25, 2.0))),
    "I.29.16": Formula(lambda a, s, t: torch.sqrt(1 + a**2 - 2 * a * torch.cos(s - t)), (UNIT, (0, TURN), (0, TURN))),
    # Seven of unlike character, chosen for zoo.
    "bump": Formula(lambda x: torch.exp(-4 * x**2), (UNIT,)),
    "tone": Formula(lambda x: torch.sin(8 * PI * x), (UNIT,)),
    "steps": Formula(lambda x: (x > -0.5).double() + 2 * (x > 0.2).double(), (UNIT,)),
    "kink": Formula(lambda x: (x - 0.2).abs(), (UNIT,)),
    "burst": Formula(lambda x: torch.cos(40 * (x - 0.3)) * torch.exp(-50 * (x - 0.3) ** 2), (UNIT,)),
    "pole": Formula(lambda x: 1 / (1.1 - x), (UNIT,)),
    "mixed": Formula(lambda x, y: torch.sin(4 * PI * x) * (y - 0.2).abs() + torch.tanh(10 * (x + y)), (UNIT,) * 2),
}


@dataclass(frozen=True)
class Formulas(DataSet):
    """Points drawn evenly from the box of a formula, and its values there; the parts are drawn independently.

    The box is scaled to [-1, 1] in every direction. The values are standardised by mean and standard deviation of the
    training values, so a model that always gives their mean has an error of 1.
    """

    name: ClassVar[str] = "formulas"
    measured_on: ClassVar[tuple[str, ...]] = ("test",)
    formula: str  # its name in `zoo.training.data.formulas.FORMULAS`
    split_seed: Seed = 0  # of the points that are drawn
    train: Annotated[int, Interval(2, 1_000_000)] = 1000  # points of the split, whose values have a deviation
    validation: Count = 1000  # points of the split
    test: Count = 2000  # points of the split

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.formula not in FORMULAS:
            raise Misfit(unknown(f"the formula {shown(self.formula)}", self.formula, FORMULAS), "formula")
        most = NUMBERS // len(FORMULAS[self.formula].box)
        for part in ("train", "validation", "test"):
            if (count := getattr(self, part)) > most:
                raise Misfit(f"{part} is {count}; of {self.formula} it must be at most {most}", part)

    def load(self) -> dict[str, TensorSplit]:
        formula = FORMULAS[self.formula]
        parts = {}
        for number, part in enumerate(("train", "validation", "test")):
            shape = (getattr(self, part), len(formula.box))
            points = 2 * torch.rand(shape, generator=generator(self.split_seed, SPLIT, number)) - 1
            parts[part] = points, formula(points.double())
        std, mean = torch.std_mean(parts["train"][1])
        return {
            part: TensorSplit(points, ((values - mean) / std).float()[:, None], num_classes=1, kind="vector")
            for part, (points, values) in parts.items()
        }
