"""The ranges of the arguments of blocks and models: each a type with its limits, by the field's names.

A signature says ``drop: Rate = 0.0``; `zoo.checks` holds the value to it, and `zoo.block_info` and docs/blocks.md show
it. Limits of sizes are generous, yet finite: what lies beyond is a slip of the hand, or a file that asks for terabytes.
They are no rule of mathematics, so ``zoo.create_model(…, bounded=False)`` lifts them.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Annotated, Any

from zoo.checks import Interval, Rule, shown

DEEPEST = 1024  # blocks of a model
LIFT = "zoo.create_model(…, bounded=False) lifts that"

_LIFTED = ContextVar("lifted", default=False)  # of this thread alone


@contextmanager
def lifted(lift: bool = True) -> Iterator[None]:
    """Lift the upper ends of sizes in the body, or let them stand as they are.

    Example:
        >>> with lifted():
        ...     Size(1, 1024).check("depth", 2000)
        >>> Size(1, 1024).check("depth", 2000)
        Traceback (most recent call last):
        ValueError: depth is 2000; it must be from 1 to 1024, and zoo.create_model(…, bounded=False) lifts that
    """
    token = _LIFTED.set(lift or _LIFTED.get())
    try:
        yield
    finally:
        _LIFTED.reset(token)


@dataclass(frozen=True)
class Size(Interval):
    """A range whose upper end `lifted` lifts; what it allows is then as large as there is memory."""

    def check(self, label: str, value: float) -> None:
        if self.most is None or value <= self.most:
            super().check(label, value)
        elif _LIFTED.get():
            Interval(self.least, above=self.above).check(label, value)
        else:
            raise ValueError(f"{label} is {shown(value)}; it must be {self}, and {LIFT}")


@dataclass(frozen=True)
class Length(Rule):
    """The number of entries of a sequence."""

    least: int
    most: int
    liftable: bool = False  # whether `lifted` lifts the upper end

    def check(self, label: str, value: Any) -> None:
        beyond = len(value) > self.most and not (self.liftable and _LIFTED.get())
        if len(value) < self.least or beyond:
            remedy = f", and {LIFT}" if beyond and self.liftable else ""
            raise ValueError(f"{label} is {shown(value)}, {len(value)} entries; it must have {self}{remedy}")

    def __str__(self) -> str:
        return f"from {self.least} to {self.most} entries"


@dataclass(frozen=True)
class Odd(Rule):
    """Odd numbers, so that a neighbourhood has a centre."""

    def check(self, label: str, value: Any) -> None:
        if value % 2 == 0:
            raise ValueError(f"{label} is {shown(value)}; it must be odd, so that a neighbourhood has a centre")

    def __str__(self) -> str:
        return "odd"


@dataclass(frozen=True)
class Total(Rule):
    """The sum of a sequence; `lifted` lifts its end."""

    most: int

    def check(self, label: str, value: Any) -> None:
        if sum(value) > self.most and not _LIFTED.get():
            raise ValueError(f"{label} is {shown(value)}, {sum(value)} together; it must have {self}, and {LIFT}")

    def __str__(self) -> str:
        return f"a sum of at most {self.most}"


@dataclass(frozen=True)
class Area(Rule):
    """The product of two sides, or the square of one; `lifted` lifts its end."""

    most: int

    def check(self, label: str, value: Any) -> None:
        area = math.prod(map(int, value)) if isinstance(value, Sequence) else int(value) ** 2
        if area > self.most and not _LIFTED.get():
            raise ValueError(f"{label} is {shown(value)}, an area of {area}; it must have {self}, and {LIFT}")

    def __str__(self) -> str:
        return f"an area of at most {self.most}"


# --- Sizes ------------------------------------------------------------------------------------------------------------

Width = Annotated[int, Size(1, 2**20)]  # channels, features, hidden units
Channels = Annotated[int, Size(1, 2**16)]  # of images
Classes = Annotated[int, Size(0, 2**24)]  # 0 for no classifier
Depth = Annotated[int, Size(1, DEEPEST)]  # blocks
Count = Annotated[int, Size(1, 2**16)]  # heads, groups, experts, samples
Index = Annotated[int, Size(0, 2**16)]
Side = Annotated[int, Size(1, 2**16)]  # of images, patches, windows, in pixels or positions
Sides = Side | tuple[Side, Side]  # one for both, or (height, width)
ImageSides = Annotated[Sides, Area(2**24)]
OddSide = Annotated[int, Size(1, 1023), Odd()]  # of a neighbourhood with a centre
KernelSize = Annotated[int, Size(1, 1023)]
Padding = Annotated[int, Size(0, 1023)]
Grid = Annotated[tuple[Annotated[int, Size(1, 2**24)], ...], Length(1, 3)]  # positions in each direction
Widths = Annotated[Sequence[Width], Length(1, 64, liftable=True)]  # one a stage, or a layer
Depths = Annotated[Sequence[Depth], Length(1, 64, liftable=True), Total(DEEPEST)]

# --- Numbers ----------------------------------------------------------------------------------------------------------

Rate = Annotated[float, Interval(0, 1)]  # of a block's dropout; 1 leaves nothing in training, as torch has it
RateBelowOne = Annotated[float, Interval(0, below=1)]  # of a model's; of stochastic depth, which divides by what stays
Ratio = Annotated[float, Size(above=0, most=1024)]  # of a width to another, of places to tokens
Share = Annotated[float, Interval(above=0, most=1)]
Eps = Annotated[float, Interval(0, 1)]
PositiveEps = Annotated[float, Interval(above=0, most=1)]
Scale = Annotated[float, Interval(-10_000, 10_000)]  # an initial factor
Deviation = Annotated[float, Interval(0, 10_000)]  # of noise or of an initialisation; 0 for none
Temperature = Annotated[float, Interval(above=0, most=10_000)]
Seed = Annotated[int, Interval(0, 2**32 - 1)]

# --- Bases of functions -----------------------------------------------------------------------------------------------

Functions = Annotated[int, Size(2, 4096)]  # centres in a range, both ends among them
Frequencies = Annotated[int, Size(1, 4096)]
Degree = Annotated[int, Size(1, 64)]
Order = Annotated[int, Size(0, 16)]
GridSize = Annotated[int, Size(1, 2**14)]
Coordinate = Annotated[float, Interval(-(10**6), 10**6)]
GridRange = tuple[Coordinate, Coordinate]
Spread = Annotated[float, Interval(above=0, most=10**6)]
