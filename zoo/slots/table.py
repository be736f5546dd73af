"""The table of blocks: kind and name -> class, filled by discovery of the files in this folder."""

from collections.abc import Callable
from functools import lru_cache
from typing import TypeVar

from torch import nn

from zoo.checks import checked, shown
from zoo.discovery import modules_of, modules_outside

KINDS = (
    *("token_mixer", "channel_mixer", "norm", "act", "stem", "downsample"),
    *("basis", "router", "dispatch", "experts"),  # parts of mixers
)

_BLOCKS: dict[str, dict[str, type[nn.Module]]] = {kind: {} for kind in KINDS}
T = TypeVar("T", bound=type[nn.Module])


def register(kind: str, name: str) -> Callable[[T], T]:
    """Class decorator that makes a block known under `name`, so that a slot string can ask for it.

    What is given to the constructor of one of zoo's own classes is checked from then on, as a slot's options are (see
    `zoo.checks.checked`); a class from elsewhere stays as it is, and is checked where a slot builds it.

    Raises:
        ValueError: The kind is not one of `KINDS`, or another class has the name already.
    """
    if kind not in KINDS:
        raise ValueError(f"kind {shown(kind)} is not one of {', '.join(KINDS)}")

    def add(cls: T) -> T:
        known = _BLOCKS[kind].setdefault(name, cls)
        if (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
            raise ValueError(
                f"{kind} {shown(name)} is taken by {known.__module__}.{known.__qualname__}; choose another name"
            )
        _BLOCKS[kind][name] = cls
        return checked(cls) if cls.__module__.startswith("zoo.") else cls

    return add


def blocks_of(kind: str) -> dict[str, type[nn.Module]]:
    """All classes of a kind by name. Reads the folder on first use."""
    if kind not in KINDS:
        raise ValueError(f"kind {shown(kind)} is not one of {', '.join(KINDS)}")
    _modules()
    return dict(sorted(_BLOCKS[kind].items()))


def find_class(name: str) -> type[nn.Module]:
    """A public block class by its Python name, wherever in this folder it is defined."""
    for module in _modules():
        found = vars(module).get(name)
        if isinstance(found, type) and found.__module__ == module.__name__:
            return found
    raise AttributeError(f"module 'zoo.blocks' has no attribute {shown(name)}")


@lru_cache(maxsize=1)
def _modules() -> tuple:
    """Every module below `zoo.blocks`: a new block is one more file, and nothing else is edited.

    A file that cannot be imported is left out, with a warning that names it; its blocks are unknown then.
    """
    return (*modules_of("zoo.blocks"), *modules_outside())
