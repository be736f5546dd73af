"""A slot -> a checked block: its class found by name, its options held to the class's signature."""

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn

from zoo.checks import Rule, callee, check_argument, hints_of, printable, shown, unboxed, unknown
from zoo.slots.slot import Slot, SlotLike, parse_slot
from zoo.slots.table import KINDS, blocks_of, declared_by, find_block, follows, is_known, kind_of
from zoo.slots.use import USE, watched

OF_THE_MODEL = ("grid", "img_size", "img_shape", "device", "dtype")  # arguments that no slot may set
RANKS = frozenset({1, 2})  # what a token mixer works on that does not say so in `spatial`: sequences and images


def build_block(
    kind: str, slot: SlotLike, *args, defaults: Mapping[str, Any] | None = None, **named
) -> nn.Module | None:
    """Build the block of a slot.

    Args:
        kind: A kind of `zoo.slots.table.KINDS`.
        slot: One slot.
        args: Positional arguments of the class (a mixer's `dim`).
        defaults: The model's own values of options, passed to a class that names them in ``follows`` unless the slot
            has others.
        named: Arguments that belong to the model (`grid`, `device`, `dtype`), passed only if the class takes them; a
            slot may not set them.

    Returns:
        The module, or None for a mixer called ``none``.

    Raises:
        ValueError: The name, or an option, is unknown; the nearest one and all there are is said.
        TypeError: An option has a value of the wrong type.
    """
    slot = parse_slot(slot, slot.where or kind if isinstance(slot, Slot) else kind)
    cls, title = _class_of(kind, slot)
    if cls is None:
        if outer := USE.get():
            outer.taken.add(kind)  # to leave a block out is an effect too
        return None
    parameters = _parameters_of(cls)
    _check_options(title, cls, slot.options, options_of(cls, len(args)))
    if kind == "token_mixer" and "grid" in named:
        check_rank(title, cls, named["grid"])
    anything = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    followed = follows(cls)
    passed = {k: v for k, v in (defaults or {}).items() if k in followed and (k in parameters or anything)}
    passed |= {k: v for k, v in named.items() if k in parameters or anything}
    if slot.name is None:
        _check_call(title, kind, cls, args, {**passed, **slot.options})
    with watched() as within:
        block = cls(*args, **{**passed, **slot.options})
    if not isinstance(block, makes := KINDS[kind].makes):
        needed = "a module" if makes is nn.Module else f"a {makes.__name__}"
        raise TypeError(f"{kind} {title} made {shown(block)}, a {type(block).__name__}; it must make {needed}")
    if outer := USE.get():
        outer.note(kind, defaults or (), {k for k in passed if k not in slot.options}, within)
    return block


def _check_call(title: str, kind: str, cls: Callable, args: Sequence, named: Mapping[str, Any]) -> None:
    """Check that what a user gave as a block can be called as one.

    Raises:
        TypeError: It takes other arguments.
    """
    try:
        inspect.signature(cls).bind(*args, **named)
    except TypeError as error:
        raise TypeError(
            f"{kind} {printable(title, 200)} cannot be called as the model calls it ({error}); let it take "
            f"{len(args)} by position{' and ' * bool(named)}{', '.join(named)}"
        ) from None


def _class_of(kind: str, slot: Slot) -> tuple[Callable[..., nn.Module] | None, str]:
    """What builds the block of a slot, None for no block, and what errors call it."""
    where = slot.where or kind
    if slot.name is None:
        cls = callee(slot.factory)  # a partial goes by the name of its class
        if isinstance(cls, type) and not issubclass(cls, kind_of(kind).makes):
            raise TypeError(
                f"{where} is the class {shown(cls)}, which makes no module; give a subclass of torch.nn.Module, or a "
                "name of zoo.list_blocks"
            )
        try:
            _parameters_of(slot.factory)
        except ValueError:  # as of what is written in C
            raise TypeError(f"{where} is {shown(cls)}, and what it takes cannot be known; give a class") from None
        return slot.factory, getattr(cls, "__name__", repr(cls))
    if slot.name == "none" and kind_of(kind).optional and "none" not in blocks_of(kind):
        if slot.options:
            raise ValueError(f"{where} none has no options, and {shown(str(slot))} gives some; leave them out")
        return None, "none"
    return find_block(kind, slot.name, where), f"{where} {slot.name}"


def _check_options(title: str, cls: Callable, chosen: Mapping[str, Any], options: Sequence[str]) -> None:
    """Check the names and values of what a slot, or a caller, sets of a block.

    Raises:
        ValueError: A name is none of the options, or a value is out of its range.
        TypeError: A value is of the wrong type.
    """
    hints = hints_of(cls)
    for name, value in chosen.items():
        if name not in options:
            raise ValueError(unknown(f"{title} has no option {shown(name)}", name, options, "options"))
        check_argument(f"{title}: {name}", name, value, hints)


@functools.lru_cache(maxsize=1024)
def _parameters_of(cls: Callable[..., nn.Module]) -> Mapping[str, inspect.Parameter]:
    """What builds a block takes; a class without a constructor of its own, such as `nn.Tanh`, takes nothing."""
    own = cls if not isinstance(cls, type) or cls.__init__ is not nn.Module.__init__ else lambda: None
    return inspect.signature(own).parameters


def options_of(cls: Callable[..., nn.Module], args: int = 0) -> list[str]:
    """Names of what a slot can set of a block: the arguments that are given by keyword only.

    Of those that can be given by position too it is what has a default, beyond the first `args`.

    A torch class such as `nn.GELU` has none of these; all its arguments but the first `args` are options.
    """
    parameters = _parameters_of(cls)
    options = [name for name, p in parameters.items() if p.kind is p.KEYWORD_ONLY]
    if options:
        placed = [name for name, p in parameters.items() if p.kind is p.POSITIONAL_OR_KEYWORD][args:] if args else []
        options = [*(name for name in placed if parameters[name].default is not parameters[name].empty), *options]
    else:
        options = [n for n, p in parameters.items() if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)][args:]
    return [name for name in options if name not in OF_THE_MODEL]


def check_rank(title: str, cls: Callable[..., nn.Module], grid: Sequence[int]) -> None:
    """Check that a token mixer works on grids of so many dimensions: those in its `spatial`, else one and two.

    Raises:
        ValueError: It does not.
    """
    ranks = declared_by(cls, "spatial", RANKS)
    if len(grid) not in ranks:
        raise ValueError(
            f"{title} works on grids of {' or '.join(map(str, sorted(ranks)))} dimensions, and the grid {tuple(grid)} "
            f"has {len(grid)}; choose another token_mixer, or another grid"
        )


def create_block(kind: str, slot: SlotLike, dim: int | None = None, **kwargs) -> nn.Module | None:
    """A block alone, by name.

    Example:
        >>> mixer = create_block("channel_mixer", "glu(act='gelu')", dim=12)
        >>> mixer(nn.Identity()(__import__("torch").ones(2, 12))).shape
        torch.Size([2, 12])
        >>> create_block("act", "gelu")
        GELU(approximate='none')

    Args:
        kind: A kind of `list_blocks`.
        slot: Name with options, mapping or class.
        dim: Number of channels, or of the features of a basis. An activation and a dispatch fit any number.
        kwargs: What else the block needs: ``grid`` for a mixer whose weights depend on it; ``in_chans`` for a stem,
            ``in_dim`` for downsampling; ``num_experts`` for experts, with ``top_k`` for a router. Besides, its options,
            ``device`` and ``dtype``.

    Returns:
        The module, or None for a mixer called ``none``.

    Raises:
        ValueError: The name or an option is unknown, or something that the block needs was not given.
        TypeError: An option has a value of the wrong type.
    """
    slot = parse_slot(slot, slot.where or kind if isinstance(slot, Slot) else kind)
    dim, kwargs = unboxed(dim), {name: unboxed(value) for name, value in kwargs.items()}
    cls, title = _class_of(kind, slot)
    if cls is None:
        return None
    parameters = _parameters_of(cls)
    options = options_of(cls)
    placed = [n for n, p in parameters.items() if p.kind is p.POSITIONAL_OR_KEYWORD and n not in options]
    first = [n for n in placed if parameters[n].default is parameters[n].empty] if options else placed
    options += [n for n in placed if n not in first]
    width = "dim" if "dim" in first else "features" if "features" in first else None
    if width and dim is not None:
        kwargs.setdefault(width, dim)
    needed = [*first, *(n for n, p in parameters.items() if p.kind is p.KEYWORD_ONLY and p.default is p.empty)]
    missing = [n for n in needed if n not in kwargs and n not in slot.options]
    if "grid" in missing:
        raise ValueError(
            f"{kind} {printable(slot, 200)} has weights for a grid of positions; give grid=(height, width) or "
            "grid=(length,)"
        )
    if missing:
        names = ["dim" if name == width else name for name in missing]
        raise ValueError(
            f"{kind} {printable(slot, 200)} needs {', '.join(names)}; give create_block({kind!r}, {shown(str(slot))}, "
            f"{', '.join(f'{name}=…' for name in names)})"
        )
    anything = kwargs if any(p.kind is p.VAR_KEYWORD for p in parameters.values()) else ()
    _check_options(title, cls, kwargs, [*first, *options, *OF_THE_MODEL, *anything])
    if kind == "act":
        place = {name: kwargs.pop(name, None) for name in ("device", "dtype")}
        return build_block("act", Slot(slot.name, {**slot.options, **kwargs}, slot.factory)).to(**place)
    return build_block(kind, slot, *(kwargs.pop(name) for name in first), **kwargs)


def list_blocks(kind: str) -> list[str]:
    """Names of all blocks of a kind, such as ``token_mixer``, ``norm`` or ``basis``; `create_block` makes each of them.

    Which kinds there are, `zoo.slots.table.KINDS` says.

    Example:
        >>> "attention" in list_blocks("token_mixer")
        True
    """
    return sorted({*blocks_of(kind), *(("none",) if kind_of(kind).optional else ())})


def build_act(slot: SlotLike, *, device=None, dtype=None) -> nn.Module:
    """The activation of a slot, as a part of a block.

    Few have parameters, and classes such as `nn.Tanh` take no device: it is moved. It never writes into its input,
    whatever its ``inplace`` says, for a block may read that again, and the caller too; its values are the same.
    """
    act = build_block("act", slot).to(device=device, dtype=dtype)
    for module in act.modules():
        if getattr(module, "inplace", False):
            module.inplace = False
    return act


class OfKind(Rule):
    """A slot of a kind, as an entry of ``Annotated``: its name is one of the table, and its options are that block's.

    Args:
        kind: The kind.
        beside: Names that are right too.

    Example:
        >>> from typing import Annotated
        >>> from zoo.checks import check_type
        >>> check_type("mlp: init", "xaver", Annotated[SlotLike, OfKind("init")])  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ValueError: mlp: init 'xaver' is unknown; did you mean 'xavier'? Known: lecun, ...
    """

    def __init__(self, kind: str, *beside: str):
        self.kind, self.beside = kind, beside

    def check(self, label: str, value: SlotLike) -> None:
        if isinstance(value, str) and (value in self.beside or is_known(self.kind, value)):
            return
        slot = parse_slot(value, label)
        if slot.name is None or (slot.name in self.beside and not slot.options):
            return
        if self.beside and slot.name not in blocks_of(self.kind):
            names = (*self.beside, *blocks_of(self.kind))
            raise ValueError(unknown(f"{label} {shown(slot.name)}", slot.name, names))
        cls, title = _class_of(self.kind, slot)
        _check_options(title, cls, slot.options, options_of(cls))

    def __str__(self) -> str:
        return " or ".join((*self.beside, f"a name of zoo.list_blocks({self.kind!r})"))
