"""What became of a model's tensors when it was given weights, as `model.loaded` tells it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal, get_args

from zoo.checks import printable

How = Literal["loaded", "converted", "new", "left out"]
HOWS: tuple[How, ...] = get_args(How)


@dataclass(frozen=True)
class Fate:
    """What became of one tensor.

    Attributes:
        how: ``loaded`` as it was in the weights; ``converted`` from them; ``new``, as the model began; or ``left out``,
            a tensor of the weights that the model has no place for.
        numbers: How many it has.
        note: How it was converted, or why not.
    """

    how: How
    numbers: int
    note: str = ""


@dataclass(frozen=True)
class LoadedPart:
    """A kind of part of a model, and one fate of tensors in all parts of that kind.

    Attributes:
        name: The parts, such as ``stages.*.blocks.*.channel_mixer``.
        how: The fate, of `Fate`.
        tensors: How many tensors had it.
        numbers: How many numbers these have.
        note: How they were converted, or why not.
    """

    name: str
    how: How
    tensors: int
    numbers: int
    note: str = ""


@dataclass(frozen=True, repr=False)
class Loaded:
    """What a model was given of some weights when it was created, part by part; printed it is a table.

    Example:
        >>> norms = [(f"blocks.{i}.norm1.weight", Fate("new", 4)) for i in range(2)]
        >>> loaded = Loaded.of("w.pt", [("stem.weight", Fate("loaded", 8)), *norms])
        >>> print(loaded)
        w.pt            fate    tensors  numbers
        stem            loaded        1        8
        blocks.*.norm1  new           2        8
        >>> loaded.count("new")
        (2, 8)

    Attributes:
        source: What the weights are called: a path, an address or a repository.
        fates: What became of each tensor, by its name.
    """

    source: str
    fates: tuple[tuple[str, Fate], ...]

    @classmethod
    def of(cls, source: str, fates: Iterable[tuple[str, Fate]]) -> "Loaded":
        """The fates of tensors by their names."""
        return cls(source, tuple(fates))

    def resampled(self, sizes: Mapping[str, int], note: str) -> "Loaded":
        """The same after the model was moved to another size of images.

        Args:
            sizes: How many numbers those tensors have now that were resampled, by their names.
            note: From which size to which.
        """

        def of(key: str, fate: Fate) -> Fate:
            if key not in sizes or fate.how not in ("loaded", "converted"):
                return replace(fate, numbers=sizes[key]) if key in sizes and fate.how == "new" else fate
            return Fate("converted", sizes[key], f"{fate.note}, {note}" if fate.note else note)

        return Loaded.of(self.source, [(key, of(key, fate)) for key, fate in self.fates])

    @property
    def parts(self) -> tuple[LoadedPart, ...]:
        """The parts, in the model's order: the fates joined for all blocks."""
        sums: dict[str, dict[tuple[How, str], list[int]]] = {}
        for key, fate in self.fates:
            numbers = sums.setdefault(part_of(key), {}).setdefault((fate.how, fate.note), [0, 0])
            numbers[0] += 1
            numbers[1] += fate.numbers
        rows = ((name, how, *n, note) for name, part in sums.items() for (how, note), n in part.items())
        return tuple(LoadedPart(*row) for row in rows)

    def count(self, *hows: How) -> tuple[int, int]:
        """Number of tensors, and of numbers in them, that had one of some fates."""
        parts = [part for part in self.parts if part.how in hows]
        return sum(part.tensors for part in parts), sum(part.numbers for part in parts)

    def __str__(self) -> str:
        rows = [(p.name, p.how, f"{p.tensors:,}", f"{p.numbers:,}", p.note) for p in self.parts]
        return "\n".join(_aligned([(printable(self.source, 60), "fate", "tensors", "numbers", ""), *rows]))

    def __repr__(self) -> str:
        counts = ", ".join(f"{self.count(how)[0]} {how}" for how in HOWS if self.count(how)[0])
        return f"<Loaded from {printable(self.source, 60)}: {counts or 'nothing'}>"


def _aligned(rows: list[tuple[str, ...]]) -> Iterable[str]:
    """The rows of a table: words to the left, the numbers in the third and fourth column to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for name, how, *numbers, note in rows:
        cells = [name.ljust(widths[0]), how.ljust(widths[1]), *map(str.rjust, numbers, widths[2:4]), note]
        yield "  ".join(cells).rstrip()


def part_of(key: str) -> str:
    """The part that a tensor belongs to, by its name: the same for all blocks.

    Example:
        >>> part_of("stages.0.blocks.1.channel_mixer.fc1.weight"), part_of("stem.norm.bias")
        ('stages.*.blocks.*.channel_mixer', 'stem')
    """
    *names, _ = key.split(".")
    kept = []
    while len(names) > 1 and names[1].isdigit():
        kept += [names[0], "*"]
        names = names[2:]
    return ".".join([*kept, *names[:1]]) or key
