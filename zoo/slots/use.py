"""What the blocks of a model take of the options that the model offers to all of them."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field


@dataclass
class Use:
    """What blocks took of the defaults that they were offered, as ``kind`` and ``kind.option``."""

    offered: set[str] = field(default_factory=set)
    taken: set[str] = field(default_factory=set)

    def note(self, kind: str, defaults: Iterable[str], passed: set[str], within: "Use") -> None:
        """Note a block that was built; what it only hands on to blocks within it counts if one of these took it."""
        options = lambda parts: {part.split(".")[-1] for part in parts}
        handed_on, arrived = options(within.offered), options(within.taken)
        self.taken.add(kind)
        for name in defaults:
            self.offered.add(f"{kind}.{name}")
            if name in passed and (name not in handed_on or name in arrived):
                self.taken.add(f"{kind}.{name}")


USE: ContextVar[Use | None] = ContextVar("use", default=None)


@contextmanager
def watched() -> Iterator[Use]:
    """Notes what the blocks that are built meanwhile take of the defaults that they are offered."""
    use = Use()
    token = USE.set(use)
    try:
        yield use
    finally:
        USE.reset(token)
