"""A recombined model with the weights of the plain one: what fits is loaded, what a slot replaced is new or converted.

Weights are fitted as strictly as ever to the model that they were made for; it is on the meta device and holds nothing
but them. From there they go to the recombined model, part by part. A part whose slot is the same must fit; in
one whose slot was exchanged a layer is loaded where its block is of the same class and its shape is the same, converted
where `zoo.build.conversions` knows how, and stays as it began elsewhere.
"""

import itertools
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from timm.layers import resize_rel_pos_bias_table
from torch import Tensor, nn

from zoo.blocks.base import MetaBlock, PatchesOnly
from zoo.blocks.channel.glu import Glu
from zoo.blocks.kan.linear import Edges
from zoo.blocks.moe.experts.mixers import MixerExperts
from zoo.blocks.moe.layer import MoE
from zoo.blocks.token.heads import SelfAttention
from zoo.blocks.token.window import WindowAttention
from zoo.build.conversions import COPIED, convert, enlarged
from zoo.checks import printable, some
from zoo.skeletons.model import Model
from zoo.slots import Slot
from zoo.weights import (
    HEAD,
    HOWS,
    Fate,
    Fit,
    Loaded,
    Resizable,
    WeightSource,
    check_real,
    fit_weights,
    load_weights,
    misfits,
)

# The arguments whose slot makes a part of a model, by the part's name; other parts may be made by any.
MADE_BY = {"stem": "stem", "tokens": "embed", "norm": "final_norm", "head": "head"}
IN_BLOCKS = ("token_mixer", "channel_mixer", "norm")


@dataclass(frozen=True)
class Twins:
    """What tells on the meta device which model some weights are for.

    Attributes:
        recombined: The model that is asked for.
        plain: The same without the exchanged slots.
    """

    recombined: Model
    plain: Model


def recombine(model: Model, source: WeightSource, twins: Twins, *, head: bool = True) -> Loaded:
    """Load weights into a model whose slots were exchanged: those of the model without that, or such as fit it.

    Weights that fit both by names and shapes are taken for those of the plain model, since names may agree by chance;
    ``checkpoint_path`` of `zoo.create_model` takes a file as it is.

    Args:
        model: The recombined model, on a real device.
        source: The weights.
        twins: The two models that they may be for. One is given them.
        head: Whether the model's classifier is wanted at all.

    Returns:
        What became of each tensor. A warning says how much starts anew.

    Raises:
        ValueError: The weights fit neither; what is said is of the one that they fit better. Or a part of the
            recombined model does not fit that was not exchanged, as one whose size follows from the stem. Or all that
            has weights was exchanged.
    """
    check_real(model, source.name)
    state = source.read()
    source = replace(source, read=lambda: state)
    of_plain = misfits(twins.plain, source, head=head)
    if of_plain and misfits(twins.recombined, source, head=head) <= of_plain:
        return load_weights(model, source, head=head)
    tensors, notes, told = fit_weights(twins.plain, source, head=head)
    twins.plain.load_state_dict(tensors, strict=False, assign=True)
    loaded = transplant(twins.plain, model, source.name, notes=notes, head=head)
    kept, converted, new, left = (loaded.count(how) for how in HOWS)
    if not kept[0] + converted[0]:
        raise ValueError(
            f"{printable(source.name)}: nothing of these weights can be used, since all that has weights was "
            "exchanged; leave pretrained out, or exchange less"
        )
    if converted[0] or new[0] or left[0]:
        warnings.warn(
            f"{printable(source.name)}: of the recombined model's tensors {kept[0]} are loaded, {converted[0]} "
            f"converted and {new[0]} start anew ({new[1]:,} of {kept[1] + converted[1] + new[1]:,} numbers); "
            f"{left[0]} tensors of the weights have no place. print(model.loaded) says which" + (told and f"; {told}"),
            stacklevel=2,
        )
    return loaded


def transplant(
    plain: Model, model: Model, name: str, *, notes: dict[str, str] | None = None, head: bool = True
) -> Loaded:
    """Give a model the weights of another one, from which it differs in slots.

    Args:
        plain: The model that has the weights; what is on meta in it counts as not there.
        model: The model that is given them.
        name: What the weights are called.
        notes: What was done already to tensors, by their names.
        head: Whether the classifier is wanted.

    Returns:
        What became of each tensor.

    Raises:
        ValueError: A part whose slot is the same does not fit.
    """
    move = _Move(head=head)
    for part in _parts(plain, model):
        move.part(part)
    _check_unchanged(move.fit, name)
    tensors, fates = move.fit.tensors, move.fates
    for key, note in (notes or {}).items():
        if key in fates and fates[key].how == "loaded":
            fates[key] = Fate("converted", fates[key].numbers, note)
    theirs = plain.state_dict(keep_vars=True).items()
    left = [
        (key, Fate("left out", value.numel()))
        for key, value in theirs
        if id(value) not in move.used and not value.is_meta and move.wanted(key)
    ]
    model.load_state_dict(model.state_dict() | tensors, strict=True)
    return Loaded.of(name, [*fates.items(), *left])


def _check_unchanged(fit: Fit, name: str) -> None:
    """Check that all fits whose slot was not exchanged.

    Raises:
        ValueError: Something does not; all of it is listed.
    """
    shapes = [f"{key}: {tuple(theirs)} and {tuple(ours)}" for key, (_, theirs, ours) in fit.shapes.items()]
    if misfits := [*shapes, *fit.missing]:
        raise ValueError(
            f"{printable(name)}: what was exchanged changes the size of parts that were not, in the weights and in the "
            f"model: {some(misfits)}; exchange these too, or leave the stem and what makes the grid as they are"
        )


# --- Parts ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Part:
    """A part of the plain model and of the recombined one.

    Attributes:
        name: Its name in both.
        old, new: It; None where a model has none.
        same: The slots that make it are the same in both.
        slot: The one of the recombined model that makes a mixer.
    """

    name: str
    old: nn.Module | None
    new: nn.Module | None
    same: bool
    slot: Slot | None = None


def _parts(plain: Model, model: Model) -> Iterator[_Part]:
    """The parts of two models that differ in slots, in the order of the modules."""
    before, now = plain.config, model.config
    same_act = before.get("act") == now.get("act")
    alike = {key: before.get(key) == now.get(key) for key in model.slots}
    blocks = itertools.count()

    def below(old: nn.Module, new: nn.Module, path: str) -> Iterator[_Part]:
        for name in dict.fromkeys([*dict(new.named_children()), *dict(old.named_children())]):
            ours, theirs, where = getattr(new, name, None), getattr(old, name, None), f"{path}{name}"
            if isinstance(ours, MetaBlock):
                yield from of_block(theirs, ours, f"{where}.", next(blocks))
            elif _has_blocks(ours):
                yield from below(theirs, ours, f"{where}.")
            else:
                argument = "downsample" if name == "downsample" else MADE_BY.get(where)
                same = alike[argument] if argument in alike else all(alike.values())
                yield _Part(where, theirs, ours, same and same_act)

    def of_block(old: MetaBlock, new: MetaBlock, path: str, i: int) -> Iterator[_Part]:
        same = {key: before[key][i] == now[key][i] for key in IN_BLOCKS}
        for name in dict.fromkeys([*new._modules, *old._modules]):
            parts = getattr(old, name), getattr(new, name)
            if name in same:
                yield _Part(f"{path}{name}", *parts, same[name] and same_act, now[name][i])
            else:  # a norm or a scale, which is there if its mixer is
                yield _Part(f"{path}{name}", *parts, all(same.values()))

    return below(plain, model, "")


def _has_blocks(module: nn.Module | None) -> bool:
    """Whether a module holds blocks of the model: not those that a mixer has within."""
    children = [] if module is None or isinstance(module, MetaBlock) else list(module.children())
    return any(isinstance(child, MetaBlock) or _has_blocks(child) for child in children)


# --- From module to module --------------------------------------------------------------------------------------------


@dataclass
class _Move:
    """What goes from one model to the other.

    Attributes:
        head: Whether the classifier is wanted.
        fit: The tensors, by their names in the recombined model; and what should fit and does not.
        fates: What became of each of its tensors.
        used: Identities of the plain model's tensors that something was made of.
    """

    head: bool
    fit: Fit = field(default_factory=Fit)
    fates: dict[str, Fate] = field(default_factory=dict)
    used: set[int] = field(default_factory=set)

    def wanted(self, key: str) -> bool:
        return self.head or not key.startswith(HEAD)

    def part(self, part: _Part) -> None:
        """Move a part, and note what of an unchanged one does not fit."""
        if self.wanted(f"{part.name}."):
            self._move(part.old, part.new, part.name, part)

    def _move(self, old: nn.Module | None, new: nn.Module | None, name: str, part: _Part, note: str = "") -> None:
        """Move what is in a module and below it.

        Args:
            old, new: It in both models.
            name: Its name in the recombined one.
            part: The part that it belongs to.
            note: What its tensors that fit are said to be; empty for loaded.
        """
        if isinstance(old, PatchesOnly):
            old = old.mixer
        if isinstance(new, PatchesOnly):
            new, name = new.mixer, f"{name}.mixer"
        if new is None:
            return
        if old is None or not (_alike(old, new) or (part.same and type(old) is type(new))):
            self._convert(old, new, name, part)
            return
        if part.same and isinstance(new, Resizable):
            new.take_sizes(old.state_dict())
        note = note or _remark(old, new)
        self._own(old, new, name, part, note)
        for child, module in new.named_children():
            self._move(getattr(old, child, None), module, f"{name}.{child}", part, note)

    def _own(self, old: nn.Module, new: nn.Module, name: str, part: _Part, note: str) -> None:
        """Move the tensors that modules of one class have themselves; a layer is moved whole or not at all."""
        theirs, ours = _own_tensors(old), _own_tensors(new)
        found = {key: (theirs[key], note) for key in ours if key in theirs and theirs[key].shape == ours[key].shape}
        if made := _resized(old, new):
            found |= {key: (value, said) for key, (value, said) in made.items() if key not in found}
            self.used |= {id(theirs[key]) for key in made}
        both = [key for key in ours if key in theirs]
        if not list(new.children()) and not all(key in found for key in both):
            found = {}
        for key, value in ours.items():
            place = f"{name}.{key}"
            if key in found and not found[key][0].is_meta:
                self._put(place, *found[key])
                if key in theirs:
                    self.used.add(id(theirs[key]))
            else:
                self.fates[place] = Fate("new", value.numel())
                if part.same and key not in theirs:
                    self.fit.missing.append(place)
                elif part.same and not theirs[key].is_meta and theirs[key].shape != value.shape:
                    self.fit.shapes[place] = (place, theirs[key].shape, value.shape)

    def _convert(self, old: nn.Module | None, new: nn.Module, name: str, part: _Part) -> None:
        """Make what can be made of a module of another class; the rest stays as it began."""
        found = None if old is None or any(p.is_meta for p in old.parameters()) else convert(old, new, part.slot)
        for key, value in new.state_dict().items():
            self.fates[f"{name}.{key}"] = Fate("new", value.numel())
            if part.same:
                self.fit.missing.append(f"{name}.{key}")
        if found is not None:
            theirs = old.state_dict(keep_vars=True)
            self.used |= {id(theirs[key]) for key in found.used}
            for key, value in found.tensors.items():
                self._put(f"{name}.{key}", value, found.note)
        elif isinstance(new, MoE) and isinstance(new.experts, MixerExperts) and old is not None:
            for i, expert in enumerate(new.experts.mixers):
                self._move(old, expert, f"{name}.experts.mixers.{i}", part, f"{COPIED} of {type(old).__name__}")

    def _put(self, key: str, value: Tensor, note: str) -> None:
        self.fit.tensors[key] = value.detach()
        self.fates[key] = Fate("converted" if note else "loaded", value.numel(), note)


def _own_tensors(module: nn.Module) -> dict[str, Tensor]:
    """The parameters and buffers of a module's state that are its own, and not those of modules within it."""
    return {key: value for key, value in module.state_dict(keep_vars=True).items() if "." not in key}


def _alike(old: nn.Module, new: nn.Module) -> bool:
    """Whether weights of one name mean the same in two modules: of one class, learnt functions of one basis too."""
    if isinstance(old, WindowAttention) and isinstance(new, WindowAttention):
        return True  # shifted or not
    if type(old) is not type(new) or (isinstance(new, Glu) and old.gate_last != new.gate_last):
        return False
    return not isinstance(new, Edges) or _settings(old) == _settings(new)


def _settings(module: nn.Module) -> list[tuple]:
    """What learnt functions depend on beside their weights: kinds of bases, their ranges and numbers."""
    plain = (bool, int, float, str, tuple)
    known = lambda m: {key: value for key, value in vars(m).items() if isinstance(value, plain) and key != "training"}
    return [(type(m), known(m)) for m in module.modules()]


def _remark(old: nn.Module, new: nn.Module) -> str:
    """What is to be said of weights that fit, and compute something else there."""
    if isinstance(new, SelfAttention) and old.heads != new.heads:
        return f"heads {old.heads} -> {new.heads}, same maps"
    return ""


def _resized(old: nn.Module, new: nn.Module) -> dict[str, tuple[Tensor, str]]:
    """Tensors of a layer of another size, where the same function, or nearly, has them; and what was done."""
    if isinstance(new, nn.Conv2d) and old.kernel_size != new.kernel_size:
        kernel, sizes = enlarged(old, new), [" x ".join(map(str, m.kernel_size)) for m in (old, new)]
        note = f"kernel {sizes[0]} -> {sizes[1]}, zeros around it"
        return {} if kernel is None else {"weight": (kernel, note)}
    if isinstance(new, WindowAttention) and new.relative_position_bias_table is not None:
        name, table = "relative_position_bias_table", old.relative_position_bias_table
        if table is None or table.is_meta or old.heads != new.heads or old.window == new.window:
            return {}
        shape = tuple(new.relative_position_bias_table.shape)
        resized = resize_rel_pos_bias_table(table.detach(), new.window, shape, old.window)
        return {name: (resized, f"window {old.window} -> {new.window}, resampled")}
    return {}
