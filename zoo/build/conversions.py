"""What the weights of a block become in a block of another kind: only where that is exact, or published.

Blocks of two kinds may have weights of one name that mean nothing to each other. So nothing is taken by name between
them: what is taken, a function of `RULES` says.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.blocks.channel.glu import Glu
from zoo.blocks.channel.gr_kan import GRKAN, GroupRational
from zoo.blocks.channel.grn_mlp import GrnMlp
from zoo.blocks.channel.mlp import Hourglass, Mlp
from zoo.blocks.mixer import trait
from zoo.blocks.moe.dispatch import Dropless
from zoo.blocks.moe.experts.grouped import GluExperts, MlpExperts
from zoo.blocks.moe.layer import MoE
from zoo.blocks.moe.routers.base import Router
from zoo.blocks.norm import GroupNorm, LayerNorm, RMSNorm
from zoo.blocks.token.heads import SelfAttention
from zoo.slots import Slot

STACKED = {Mlp: MlpExperts, Hourglass: MlpExperts, Glu: GluExperts}  # perceptrons, and their form as experts
COPIED = "each expert a copy"  # what is said of an upcycled mixture
NORMS = (LayerNorm, RMSNorm, GroupNorm)
NEAREST = {nn.GELU: "gelu", nn.SiLU: "swish", nn.Sigmoid: "sigmoid", nn.Tanh: "tanh", nn.Identity: "identity"}


@dataclass(frozen=True)
class Conversion:
    """Weights of one block for another.

    Attributes:
        tensors: By their names in the new block; what it has beside them stays as it began.
        note: What was done, for the reader of `model.loaded`.
        used: Names of what they were made of in the old block.
    """

    tensors: dict[str, Tensor]
    note: str
    used: frozenset[str]


def convert(old: nn.Module, new: nn.Module, slot: Slot | None = None) -> Conversion | None:
    """The weights of a block for one of another kind; None where nobody says how.

    Args:
        old: The block that has the weights.
        new: The block that is to have them.
        slot: The new block's, for what it says itself; None if that is not known.

    Example:
        >>> found = convert(Mlp(8, ratio=2), GRKAN(8, ratio=2))
        >>> found.note, sorted(found.used)
        ('mlp -> gr_kan, its activation as the nearest rational', ['fc1.bias', 'fc1.weight', 'fc2.bias', 'fc2.weight'])
        >>> convert(Mlp(8, ratio=2), Glu(8, ratio=2)) is None
        True
    """
    return next((found for rule in RULES if (found := rule(old, new, slot)) is not None), None)


def _maps(old: nn.Module, new: nn.Module, names: tuple[str, ...]) -> dict[str, Tensor] | None:
    """Linear maps of one block for another, where they have the same widths; a bias that is not there is zero."""
    ours, theirs = new.state_dict(), old.state_dict()
    found = {}
    for name in names:
        weight, bias = f"{name}.weight", f"{name}.bias"
        if weight not in theirs or ours[weight].shape != theirs[weight].shape or (bias in theirs and bias not in ours):
            return None
        found[weight] = theirs[weight]
        if bias in ours:
            found[bias] = theirs.get(bias, torch.zeros_like(theirs[weight][:, 0]))
    return found


def _used(old: nn.Module, *prefixes: str) -> frozenset[str]:
    return frozenset(name for name in old.state_dict() if name.startswith(prefixes))


def _rationals(old: nn.Module, new: nn.Module, slot: Slot | None) -> Conversion | None:
    """KAT from ViT: the maps stay, the first rational is the identity, the second nearest to the activation.

    Source: Yang and Wang, "Kolmogorov-Arnold Transformer" (arXiv 2409.10594), section 4.3.
    """
    if type(old) is not Mlp or not isinstance(new, GRKAN) or (maps := _maps(old, new, ("fc1", "fc2"))) is None:
        return None
    told = slot is not None and "rational" in slot.options
    groups, channels = len(new.act2.denominator), new.fc2.in_features
    start = new.act2.init if told else NEAREST.get(type(old.act), new.act2.init)
    acts = {"act1": new.act1, "act2": GroupRational(channels, groups=groups, init=start)}
    rationals = {f"{name}.{key}": value for name, act in acts.items() for key, value in act.state_dict().items()}
    near = NEAREST.get(type(old.act)) == start
    how = "its activation as the nearest rational" if near else f"rationals from identity and {start}"
    return Conversion(maps | rationals, f"mlp -> gr_kan, {how}", _used(old, "fc1.", "fc2."))


def _gates(old: nn.Module, new: nn.Module, slot: Slot | None) -> Conversion | None:
    """A gated perceptron whose gate is the other half of the first map: the halves change places."""
    if type(old) is not Glu or type(new) is not Glu or (maps := _maps(old, new, ("fc1", "fc2"))) is None:
        return None
    halves = {key: torch.cat(value.chunk(2)[::-1]) for key, value in maps.items() if key.startswith("fc1.")}
    same = repr(old.act) == repr(new.act)
    acts = {key: value for key, value in old.state_dict().items() if same and key.startswith("act.")}
    return Conversion(
        maps | halves | acts,
        "the other half is the gate" + same * ", the same function",
        _used(old, "fc1.", "fc2.", *acts),
    )


def copies_for(experts: nn.Module, mixer: nn.Module) -> dict[str, Tensor] | None:
    """A perceptron's weights for stacked experts, each a copy of it; None where these have another form or width.

    Source: Komatsuzaki et al., "Sparse Upcycling" (arXiv 2212.05055), section 3.
    """
    if STACKED.get(type(mixer)) is not type(experts):
        return None
    ours, theirs = experts.state_dict(), mixer.state_dict()
    copies = {}
    for key, value in theirs.items():
        if not key.startswith(("fc1.", "fc2.")):
            continue
        if isinstance(mixer, Glu) and mixer.gate_last and key.startswith("fc1."):
            value = torch.cat(value.chunk(2)[::-1])
        if key not in ours or ours[key].shape[1:] != value.shape:
            return None
        copies[key] = value.expand_as(ours[key])
    copies |= {key: torch.zeros_like(value) for key, value in ours.items() if key[4:] == "bias" and key not in theirs}
    if type(experts.act) is type(mixer.act):
        copies |= {key: value for key, value in theirs.items() if key.startswith("act.")}
    return copies


def keeps_function(mixture: MoE) -> bool:
    """Whether equal experts make a mixture a dense layer: a token's weights have the sum 1, and none is dropped."""
    return trait(mixture.router, "sums_to_one", Router) and isinstance(mixture.dispatch, Dropless)


def _mixture(old: nn.Module, new: nn.Module, slot: Slot | None) -> Conversion | None:
    if not isinstance(new, MoE) or (copies := copies_for(new.experts, old)) is None:
        return None
    tensors = {f"experts.{key}": value for key, value in copies.items()}
    same = keeps_function(new) and new.shared is None and repr(new.experts.act) == repr(old.act)
    note = f"{COPIED} of {type(old).__name__}" + same * ", the same function"
    return Conversion(tensors, note, frozenset(copies) & old.state_dict().keys())


def _response_norm(old: nn.Module, new: nn.Module, slot: Slot | None) -> Conversion | None:
    """A perceptron with a norm in it that begins as the identity.

    Source: Woo et al., "ConvNeXt V2" (arXiv 2301.00808), algorithm 1: its factors begin at zero.
    """
    fits = type(old) is Mlp and isinstance(new, GrnMlp) and new.norm is None and type(old.act) is type(new.act)
    if not fits or (maps := _maps(old, new, ("fc1", "fc2"))) is None:
        return None
    rest = {key: value for key, value in new.state_dict().items() if key.startswith("grn.")}
    acts = {key: value for key, value in old.state_dict().items() if key.startswith("act.")}
    return Conversion(maps | rest | acts, "mlp -> grn_mlp, the same function", frozenset(old.state_dict()))


def _norm(old: nn.Module, new: nn.Module, slot: Slot | None) -> Conversion | None:
    """A norm with another statistic: its factors, and its shifts where it has such, are an initial guess."""
    if type(old) not in NORMS or type(new) not in NORMS:
        return None
    theirs = old.state_dict()
    tensors = {key: theirs[key] for key, value in new.state_dict().items() if key in theirs}
    if any(tensors[key].shape != value.shape for key, value in new.state_dict().items() if key in theirs):
        return None
    return Conversion(tensors, f"{type(old).__name__} -> {type(new).__name__}, same factors", frozenset(tensors))


def _attention(old: nn.Module, new: nn.Module, slot: Slot | None) -> Conversion | None:
    """Attention over all positions or within windows: the same maps; biases by position start anew.

    Source: Li et al., "Exploring Plain Vision Transformer Backbones for Object Detection" (arXiv 2203.16527), which
        takes maps of global attention for attention in windows.
    """
    plain = [isinstance(m, SelfAttention) and getattr(m, "logit_scale", None) is None for m in (old, new)]
    if not all(plain) or (maps := _maps(old, new, ("qkv", "proj"))) is None:
        return None
    return Conversion(maps, "the maps of attention over other positions", _used(old, "qkv.", "proj."))


RULES: tuple[Callable[[nn.Module, nn.Module, Slot | None], Conversion | None], ...] = (
    _rationals,
    _gates,
    _mixture,
    _response_norm,
    _norm,
    _attention,
)


# --- Layers of one kind and another size ------------------------------------------------------------------------------


def enlarged(old: nn.Module, new: nn.Module) -> Tensor | None:
    """The kernel of a convolution with zeros around it, for one of the same kind whose kernel is larger; else None.

    It is the same function, where the larger kernel has its centre at the same place.
    """
    alike = ("in_channels", "out_channels", "stride", "dilation", "groups", "padding_mode")
    if type(old) is not nn.Conv2d or any(getattr(old, name) != getattr(new, name) for name in alike):
        return None
    if isinstance(old.padding, str) or isinstance(new.padding, str) or old.padding_mode != "zeros":
        return None
    borders = [(n - o, d) for n, o, d in zip(new.kernel_size, old.kernel_size, new.dilation, strict=True)]
    moved = [n - o for n, o in zip(new.padding, old.padding, strict=True)]
    if any(more < 0 or more % 2 or pad != d * more // 2 for (more, d), pad in zip(borders, moved, strict=True)):
        return None
    (rows, _), (columns, _) = borders
    return F.pad(old.weight.detach(), (columns // 2, columns // 2, rows // 2, rows // 2))
