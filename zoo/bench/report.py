"""What a comparison of speeds says."""

import dataclasses
import json
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from zoo.bench.timing import Spread, percentile, spread

LEGEND = (
    "ratio: how many times as fast as the first row of the batch size, round by round, with quartiles. of ceiling: "
    "share of the speed of the machine's own matrix products. difference: of the outputs to those of the same model "
    "in eager mode and fp32, over the largest."
)


@dataclass(frozen=True)
class Contender:
    """One model in one way, precision and batch size."""

    candidate: str
    way: str
    precision: str
    batch_size: int

    def __str__(self) -> str:
        return f"{self.candidate} {self.way} {self.precision} x{self.batch_size}"


@dataclass(frozen=True)
class Timing:
    """The times of one contender.

    Attributes:
        seconds: Of a batch, one a round.
        macs: Multiply-accumulates of a batch; with those of the backward pass where that is timed.
        difference: The largest difference of an output to the model in eager mode and fp32, over the largest output;
            NaN where a training step is timed.
        ceiling: FLOPs a second of the machine's matrix products in this precision.
        peak_bytes: Peak memory, or None where it was not measured.
    """

    contender: Contender
    seconds: tuple[float, ...]
    macs: int
    difference: float
    ceiling: float
    peak_bytes: int | None = None

    @property
    def median(self) -> float:
        """Seconds of a batch."""
        return spread(self.seconds).median

    @property
    def p90(self) -> float:
        """Seconds that nine of ten batches do not exceed."""
        return percentile(self.seconds, 0.9)

    @property
    def throughput(self) -> float:
        """Samples a second."""
        return self.contender.batch_size / self.median

    @property
    def share_of_ceiling(self) -> float:
        """How much of the speed of the machine's matrix products the multiply-accumulates reach."""
        return 2 * self.macs / self.median / self.ceiling


@dataclass(frozen=True)
class SpeedReport:
    """Times of several contenders that took turns.

    Attributes:
        rows: One a contender that could be built.
        skipped: The reason why, of each that could not.
        conditions: On what, with what.
    """

    rows: tuple[Timing, ...]
    skipped: Mapping[Contender, str]
    conditions: str

    def ratio(self, row: Timing, to: Timing | None = None) -> Spread:
        """How many times as fast a row is as another, by default the first of its batch size; round by round."""
        to = next(r for r in self.rows if r.contender.batch_size == row.contender.batch_size) if to is None else to
        rate = row.contender.batch_size / to.contender.batch_size
        return spread([rate * b / a for a, b in zip(row.seconds, to.seconds, strict=True)])

    def fastest(self, candidate: str, batch_size: int) -> Timing:
        """The row of a candidate with the least median.

        Raises:
            ValueError: There is none of that name and size.
        """
        rows = [r for r in self.rows if (r.contender.candidate, r.contender.batch_size) == (candidate, batch_size)]
        if not rows:
            raise ValueError(f"no row is of {candidate!r} with a batch of {batch_size}")
        return min(rows, key=lambda row: row.median)

    def __str__(self) -> str:
        return self.table()

    def table(self) -> str:
        """A Markdown table; a ratio above 1 is faster than the first row of the same batch size."""
        memory = any(row.peak_bytes is not None for row in self.rows)
        head = ["model", "way", "precision", "batch", "ms, median", "ms, p90", "samples/s", "ratio", "of ceiling"]
        lines = [head + ["difference"] + ["peak MB"] * memory]
        for row in self.rows:
            c = row.contender
            times = [f"{1e3 * row.median:.2f}", f"{1e3 * row.p90:.2f}", f"{row.throughput:.1f}"]
            cells = [c.candidate, c.way, c.precision, str(c.batch_size), *times, str(self.ratio(row))]
            cells += [
                f"{row.share_of_ceiling:.0%}",
                "" if row.difference != row.difference else f"{row.difference:.0e}",
            ]
            lines.append(cells + ["" if row.peak_bytes is None else f"{row.peak_bytes / 1e6:.3g}"] * memory)
        lines.insert(1, ["---"] * len(lines[0]))
        text = [f"{self.conditions}", "", *("| " + " | ".join(cells) + " |" for cells in lines)]
        text += ["", *textwrap.wrap(LEGEND, 120)]
        text += ["", *(f"- {contender}: left out, {reason}" for contender, reason in self.skipped.items())]
        return "\n".join(text).strip()

    def to_json(self) -> str:
        """Everything, every round too, as JSON."""
        rows = [dataclasses.asdict(row) for row in self.rows]
        for row in rows:  # JSON has no NaN
            row["difference"] = None if row["difference"] != row["difference"] else row["difference"]
        skipped: list[Any] = [{**dataclasses.asdict(c), "reason": reason} for c, reason in self.skipped.items()]
        return json.dumps({"conditions": self.conditions, "rows": rows, "skipped": skipped}, indent=1)
