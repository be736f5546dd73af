"""What an engine finds: multiply-accumulates by module and by operator, and what it has no rule for."""

from collections import Counter
from dataclasses import dataclass


@dataclass
class Counts:
    """What one pass costs, of all samples together.

    Attributes:
        by_module: MACs by module name, with those of the modules inside it; "" is the whole model.
        by_operator: MACs by operator.
        uncounted: Number of calls of each operator that does arithmetic, or may, and has no rule.
    """

    by_module: Counter[str]
    by_operator: Counter[str]
    uncounted: Counter[str]


def short_name(name: str) -> str:
    """torch's own operators without namespace, and `relu_` as `relu`; others as they are."""
    return name[6:].strip("_") if name.startswith("aten::") else name
