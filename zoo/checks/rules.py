"""What an annotation says of a value beyond its type: a range, or a word of a table."""

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Any

from zoo.checks.errors import shown, unknown


class Rule:
    """What an annotation says beyond a type, as an entry of ``Annotated``; as text it goes on after "it must be"."""

    def check(self, label: str, value: Any) -> None:
        """Raises ValueError if the value, which is of the type that stands before the rule, breaks it."""
        raise NotImplementedError


@dataclass(frozen=True)
class Interval(Rule):
    """A range of numbers, which stands where the type stands: ``drop: Annotated[float, Interval(0, 1)] = 0.0``.

    Args:
        least, most: Bounds that belong to it; None for none.
        above, below: Bounds that do not.

    Example:
        >>> print(Interval(0, 1), "|", Interval(1), "|", Interval(above=0), "|", Interval(0, below=1))
        from 0 to 1 | at least 1 | above 0 | at least 0 and below 1
    """

    least: float | None = None
    most: float | None = None
    _: KW_ONLY
    above: float | None = None
    below: float | None = None

    def check(self, label: str, value: float) -> None:
        inside = (
            (self.least is None or value >= self.least)
            and (self.most is None or value <= self.most)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
        )
        if not inside:
            raise ValueError(f"{label} is {shown(value)}; it must be {self}")

    def __str__(self) -> str:
        if self.least is not None and self.most is not None:
            return f"from {_number(self.least)} to {_number(self.most)}"
        bounds = {"at least": self.least, "above": self.above, "at most": self.most, "below": self.below}
        return " and ".join(f"{words} {_number(bound)}" for words, bound in bounds.items() if bound is not None)


class Known(Rule):
    """A word of a table, which may still grow: it is read when a value is checked.

    Args:
        table: The table, by word.
        beside: Words that are right too.

    Example:
        >>> Known({"xavier": 1, "zeros": 2}).check("mlp: init", "xaver")
        Traceback (most recent call last):
        ValueError: mlp: init 'xaver' is unknown; did you mean 'xavier'? Known: xavier, zeros
    """

    def __init__(self, table: Mapping[str, Any], *beside: str):
        self.table, self.beside = table, beside

    def check(self, label: str, value: str) -> None:
        if value not in self.table and value not in self.beside:
            raise ValueError(unknown(f"{label} {shown(value)}", value, (*self.beside, *self.table)))

    def __str__(self) -> str:
        return f"one of {', '.join((*self.beside, *self.table))}"


def _number(bound: float) -> str:
    """A bound in words: large powers of two, and what is one below, by their exponent."""
    for less in (0, 1):
        power = bound + less
        if power >= 2**20 and power == int(power) and int(power).bit_count() == 1:
            return f"2**{int(power).bit_length() - 1}{' - 1' * less}"
    return str(bound)
