"""Speed and memory, side by side: `compare` times models, `by_block` the blocks of one; ``python -m zoo.bench``."""

from zoo.bench.blocks import by_block
from zoo.bench.compare import compare
from zoo.bench.report import SpeedReport, Timing
from zoo.bench.ways import WAYS

__all__ = ["WAYS", "SpeedReport", "Timing", "by_block", "compare"]
