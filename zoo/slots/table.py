"""The table of blocks: kind and name -> class, filled by discovery of files in `zoo.blocks` and from outside.

A kind of block is declared once, by whoever builds blocks of it; the table itself knows none.
"""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import Any, TypeVar

from torch import nn

from zoo.checks import callee, checked, shown, unknown
from zoo.discovery import modules_of, modules_outside

T = TypeVar("T", bound=Callable[..., Any])


@dataclass(frozen=True)
class Kind:
    """A kind of block.

    Attributes:
        name: What it is called in `register`, `create_block` and `list_blocks`.
        about: What blocks of it do, in a sentence.
        optional: Whether a slot may be ``none``, which leaves the block out.
        assumed: Whether None in its place stands for no argument at all, so that a model has its own.
        makes: The class of what is built; a callable that is no module, such as a scheme of initialisation, says so.
    """

    name: str
    about: str
    optional: bool = False
    assumed: bool = False
    makes: type = nn.Module


_KINDS: dict[str, Kind] = {}
_BLOCKS: dict[str, dict[str, Callable[..., Any]]] = {}
KINDS: Mapping[str, Kind] = MappingProxyType(_KINDS)


def declare(kind: Kind) -> Kind:
    """Make a kind of block known, so that blocks can be registered under it; twice the same does nothing.

    Raises:
        ValueError: Another kind has the name already.
    """
    if _KINDS.setdefault(kind.name, kind) != kind:
        raise ValueError(f"the kind of block {shown(kind.name)} is declared already, otherwise; choose another name")
    _BLOCKS.setdefault(kind.name, {})
    return kind


def kind_of(name: str) -> Kind:
    """A kind by its name.

    Raises:
        ValueError: No such kind was declared.
    """
    if name not in _KINDS:
        _modules()  # it may be one of a package from outside
    if name not in _KINDS:
        raise ValueError(f"kind {shown(name)} is not one of {', '.join(_KINDS)}")
    return _KINDS[name]


def register(kind: str, name: str) -> Callable[[T], T]:
    """Class decorator that makes a block known under `name`, so that a slot string can ask for it.

    What is given to the constructor of one of zoo's own classes is checked from then on, as a slot's options are (see
    `zoo.checks.checked`); a class from elsewhere stays as it is, and is checked where a slot builds it. What it takes
    of the options that a model has for all its blocks, a class says in its attribute ``follows``.

    Raises:
        ValueError: The kind was not declared, or another class has the name already.
        TypeError: It is no class and no function, but a partial, say.
    """
    if kind not in _KINDS:
        raise ValueError(f"kind {shown(kind)} is not one of {', '.join(_KINDS)}; zoo.slots.table.declare makes another")

    def add(cls: T) -> T:
        if not hasattr(cls, "__qualname__"):
            raise TypeError(
                f"{kind} {shown(name)} is a {type(cls).__name__}, which has no name of its own; register a class or a "
                "function, a subclass with other defaults for instance"
            )
        known = _BLOCKS[kind].setdefault(name, cls)
        if known is not cls and _is_own(cls) and not _is_own(known):  # a package from outside was read before
            warnings.warn(
                f"{known.__module__}.{known.__qualname__} is left out: {kind} {shown(name)} is zoo's own name",
                stacklevel=2,
            )
            known = cls
        if (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
            raise ValueError(
                f"{kind} {shown(name)} is taken by {known.__module__}.{known.__qualname__}; choose another name"
            )
        _BLOCKS[kind][name] = block = checked(cls) if _is_own(cls) else cls
        return block

    return add


def _is_own(block: Callable[..., Any]) -> bool:
    return block.__module__.startswith("zoo.")


def blocks_of(kind: str) -> dict[str, Callable[..., Any]]:
    """All classes of a kind by name. Reads the folders on first use."""
    name = kind_of(kind).name
    _modules()
    return dict(sorted(_BLOCKS[name].items()))


def is_known(kind: str, name: str) -> bool:
    """Whether a block of that kind and name has been read already; the folders are not."""
    return name in _BLOCKS.get(kind, ())


def find_block(kind: str, name: str, where: str) -> Callable[..., Any]:
    """What builds a block by its kind and name; the folders are read only for one that is not known yet.

    Args:
        kind: Its kind.
        name: Its name.
        where: What errors call it.

    Raises:
        ValueError: There is none of that name; the nearest and all there are are said.
    """
    known = _BLOCKS.get(kind, {})
    if name not in known and name not in (known := blocks_of(kind)):
        raise ValueError(unknown(f"{where} {shown(name)}", name, known))
    return known[name]


def declared_by(block: Callable[..., Any], name: str, default: Any) -> Any:
    """What the class of a block, or of a partial, declares, as `zoo.blocks.mixer.Mixer` has it."""
    return getattr(callee(block), name, default)


def follows(block: Callable[..., Any]) -> tuple[str, ...]:
    """Those of a model's options for all its blocks that a block takes: what its class says in ``follows``."""
    return declared_by(block, "follows", ())


def find_class(name: str) -> type[nn.Module]:
    """A public block class by its Python name, wherever in this folder it is defined."""
    for module in _modules():
        candidate = vars(module).get(name)
        if isinstance(candidate, type) and candidate.__module__ == module.__name__:
            return candidate
    raise AttributeError(f"module 'zoo.blocks' has no attribute {shown(name)}")


@cache  # what a file finds that asks while it is read itself is replaced by the whole
def _modules() -> tuple:
    """Every module below `zoo.blocks`: a new block is one more file, and nothing else is edited.

    A file that cannot be imported is left out, with a warning that names it; its blocks are unknown then.
    """
    return (*modules_of("zoo.blocks"), *modules_outside())
