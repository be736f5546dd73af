"""Speed and memory, measured side by side: `compare` in Python, ``python -m zoo.bench`` at a prompt."""

from zoo.bench.blocks import by_block
from zoo.bench.compare import compare
from zoo.bench.report import SpeedReport, Timing
from zoo.bench.ways import WAYS

__all__ = ["WAYS", "SpeedReport", "Timing", "by_block", "compare"]
