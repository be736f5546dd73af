"""What blocks and skeletons can be given: `zoo.block_info`, and docs/blocks.md by `python -m zoo.tools.catalogue`."""

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from zoo.checks import hints_of, shown, unknown, words_of
from zoo.registry.discovery import families
from zoo.slots import OF_THE_MODEL, options_of
from zoo.slots.table import KINDS, blocks_of

HEADER = """\
# Blocks of zoo

Written by `make card` from the signatures of the blocks; do not edit it by hand. A slot sets options by name,
`"mlp(ratio=2)"`; a value of another type, outside its range, NaN or infinite is an error that says so. What is said
here of one block, `zoo.block_info(kind, name)` gives too.
"""


@dataclass(frozen=True)
class Option:
    """One thing that a block or a model can be given: its type with its range in words, and its default."""

    name: str
    type: str
    default: Any = inspect.Parameter.empty

    @property
    def needed(self) -> bool:
        """Whether it has no default."""
        return self.default is inspect.Parameter.empty

    def __str__(self) -> str:
        return f"{self.name}: {self.type}; {'needed' if self.needed else f'default {self.default!r}'}"


@dataclass(frozen=True)
class BlockInfo:
    """What is known of a block; as text, what `zoo.block_info` prints."""

    kind: str
    name: str
    about: str
    options: tuple[Option, ...]

    def __str__(self) -> str:
        return "\n".join([f"{self.kind} {self.name}: {self.about}", *(f"  {option}" for option in self.options)])


def block_info(kind: str, name: str) -> BlockInfo:
    """What a slot can set of a block: options with type, range and default.

    Example:
        >>> print(block_info("token_mixer", "pool"))
        token_mixer pool: The mean of each position's neighbourhood, minus the position itself.
          size: int (from 1 to 1023, odd); default 3
          subtract: bool; default True

    Raises:
        ValueError: The kind or the name is unknown.
    """
    known = blocks_of(kind)
    if name not in known:
        raise ValueError(unknown(f"{kind} {shown(name)}", name, known))
    cls = known[name]
    return BlockInfo(kind, name, _about(cls), tuple(_options(cls, options_of(cls))))


def _about(cls: type) -> str:
    """The first sentence of a class's docstring, in one line."""
    own = cls.__doc__ or "" if cls.__module__.startswith("zoo.") else f"`torch.nn.{cls.__name__}`"
    return " ".join(own.strip().partition("\n\n")[0].split())


def _options(cls: Callable, names: list[str]) -> Iterator[Option]:
    parameters, hints = inspect.signature(cls).parameters, hints_of(cls)
    for name in names:
        if name not in OF_THE_MODEL:
            yield Option(name, words_of(hints.get(name, Any)), parameters[name].default)


def page() -> str:
    """The whole text of docs/blocks.md."""
    lines = [HEADER]
    for kind in KINDS:
        lines += [f"## {kind}", ""]
        for name in blocks_of(kind):
            info = block_info(kind, name)
            lines += [f"**`{name}`** {info.about}", "", *_rows(info.options)]
    lines += ["## Models", "", "What `zoo.create_model` takes beside the slots' own options, by skeleton.", ""]
    for model in sorted({family.model for family in families().values()}, key=lambda model: model.__name__):
        arguments = _options(model, list(inspect.signature(model).parameters))
        lines += [f"**`{model.__name__}`** {_about(model)}", "", *_rows(arguments)]
    return "\n".join(lines).rstrip() + "\n"


def _rows(options: Iterator[Option] | tuple[Option, ...]) -> list[str]:
    """The lines of a table of options; none for a block without any."""
    rows = []
    for option in options:
        default = "" if option.needed else f"`{option.default!r}`"
        rows.append(f"| `{option.name}` | {option.type.replace('|', chr(92) + '|')} | {default} |")
    return ["| option | type and range | default |", "|---|---|---|", *rows, ""] if rows else []


if __name__ == "__main__":
    print(page(), end="")
