"""S-KAN: layers whose nodes choose, by training, the space of functions that their edges are made of."""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from zoo.blocks.base import Aux, merge_aux
from zoo.blocks.kan.bases.base import Basis
from zoo.blocks.kan.bases.spaces import Bases, Spaces
from zoo.blocks.kan.linear import Edges, KANLinear
from zoo.blocks.kan.two_layers import TwoLayers
from zoo.blocks.kernels import cost
from zoo.blocks.kernels.autograd import with_zero_gradients
from zoo.blocks.kernels.reading import reading
from zoo.blocks.kernels.symbolic import as_leaf, is_symbol
from zoo.blocks.options import placement, pop_options_of, with_options_of
from zoo.checks.ranges import Temperature, Width
from zoo.slots import SlotLike, parse_slot
from zoo.slots.table import register

SPACES = ("spline", "rbf", "chebyshev", "fourier", "wavelet")
MOST = 0.5  # a mark above it is a choice
WIDE_SPACES = ("spline(grid_range=(-2.0, 2.0))", *SPACES[1:])  # for numbers of unit variance


class Selection(NamedTuple):
    """What the nodes of a layer chose: the names of the spaces, the likeliest one of each node, and all shares."""

    spaces: tuple[str, ...]
    chosen: list[str]
    probabilities: Tensor


class Choice(NamedTuple):
    """What the nodes of a layer have chosen.

    Attributes:
        groups: Each space that some node chose, and these nodes; empty before `select`.
        place: Where each node is among all groups, one behind the other.
    """

    groups: list[tuple[int, Tensor]]
    place: Tensor | None


@reading(otherwise=None)
def choices(marks: Tensor) -> Choice | None:
    """What the marks of `Gates` say; None if some nodes have chosen and some have not."""
    chosen = [[space for space, mark in enumerate(node) if mark > MOST] for node in marks.tolist()]
    if not any(chosen):
        return Choice([], None)
    if any(len(spaces) != 1 for spaces in chosen):
        return None
    order = sorted(range(len(chosen)), key=lambda node: chosen[node])  # stable
    place = sorted(range(len(chosen)), key=order.__getitem__)
    groups = [(space, [*nodes]) for (space,), nodes in itertools.groupby(order, key=chosen.__getitem__)]
    index = partial(torch.tensor, device=marks.device)
    return Choice([(space, index(nodes)) for space, nodes in groups], index(place))


class Gates(nn.Module):
    """A share of several spaces for each node: the softmax of trained logits, and after `select` one space alone.

    The choice is a state of numbers that can be averaged with the weights: `chosen` has a mark for each node and space,
    all zero before `select`, and after it one for what the node chose. A node has made its choice where a mark is above
    one half. So an average of weights from before the choice and after it has chosen once most of it is from after.

    Args:
        nodes: Number of nodes.
        spaces: Names of the spaces.
        temperature: What the logits are divided by.

    Shape: ``() -> (nodes, spaces)``.
    Raises: ValueError for fewer than 2 spaces, or a temperature that is not positive.
    """

    no_decay = ("logits",)
    reports = ("stat/selection",)

    def __init__(self, nodes: int, spaces: Sequence[str], *, temperature: Temperature, device=None, dtype=None):
        super().__init__()
        self.spaces, self.temperature = tuple(spaces), temperature
        self.logits = nn.Parameter(torch.empty(nodes, len(spaces), device=device, dtype=dtype))
        self.register_buffer("chosen", torch.empty(nodes, len(spaces), device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """All spaces with equal shares."""
        nn.init.zeros_(self.logits)
        self.chosen.zero_()

    def take_sizes(self, state: Mapping[str, Tensor]) -> None:
        """Make room for a choice that was saved as the index of a space for each node."""
        if state["chosen"].ndim == 1:
            self.chosen = torch.full_like(self.chosen[:, 0], -1, dtype=torch.long)

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args) -> None:
        """Take the choice as marks, or as an index for each node, as it was saved before: -1 for none."""
        saved = state_dict.get(f"{prefix}chosen")
        if saved is not None and saved.ndim == 1:
            marks = saved[:, None] == torch.arange(len(self.spaces), device=saved.device)
            state_dict[f"{prefix}chosen"] = marks.to(self.logits.dtype)
        if self.chosen.ndim == 1:
            self.chosen = torch.zeros_like(self.logits)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def choice(self) -> Choice | None:
        """What the nodes have chosen; None if not all have, or the values cannot be read, as in a compiler."""
        if cost.counting():  # what the layer costs depends on it; without values, it is what a new one does
            return Choice([], None) if self.chosen.is_meta else choices.__wrapped__(self.chosen)
        return choices(self.chosen)

    @property
    def selected(self) -> bool:
        """Whether every node has but one space; False too where the values cannot be read."""
        choice = self.choice()
        return choice is not None and bool(choice.groups)

    @property
    def cost_by_value(self) -> bool:
        """For `zoo.count_flops`: whether it must see values, and not only shapes."""
        return self.selected

    def select(self) -> None:
        """Leave each node the space with the largest share. A second call changes nothing."""
        if not self.selected:
            with torch.no_grad():
                best = self().argmax(1, keepdim=True)
                self.chosen.zero_().scatter_(1, best, 1)

    def _shares(self) -> tuple[Tensor, Tensor]:
        """The shares, and the nodes that have chosen, in a form that is right for all values."""
        marks = self.chosen > MOST
        decided = marks.any(1, keepdim=True)
        return torch.where(decided, marks.to(self.logits.dtype), self._softmax()), decided

    def _softmax(self) -> Tensor:
        return (self.logits / self.temperature).softmax(1)

    def forward(self) -> Tensor:
        choice = self.choice()
        if choice is None:
            return self._shares()[0]
        return (self.chosen > MOST).to(self.logits.dtype) if choice.groups else self._softmax()

    def aux(self) -> Aux:
        """``loss/selection``: the entropy of the shares, 1 where they are equal, 0 where each node has made its choice.

        ``stat/selection``: the mean share of each space.
        """
        shares, choice = self(), self.choice()
        if choice is not None and choice.groups:
            entropy = shares.new_zeros(())
        else:
            logs = (self.logits / self.temperature).log_softmax(1)
            if choice is None:
                shares, decided = self._shares()
                logs = logs.masked_fill(decided, 0)
            entropy = (shares * logs).sum(1).mean() / -math.log(len(self.spaces))
        return {"loss/selection": entropy, "stat/selection": shares.detach().mean(0)}

    def extra_repr(self) -> str:
        return f"nodes={len(self.logits)}, spaces={', '.join(self.spaces)}"


class Selectable(nn.Module):
    """What a Kolmogorov-Arnold layer becomes by gates on its nodes; stands before the class of the layer.

    The layer has the weight ``(nodes, rows, ...)``, the methods `edge_weight` and `reset_parameters`, a base function
    or None in `base`, and in `basis` the spaces. Of a training's phases it knows ``select``, see `zoo.blocks.protocol`.
    """

    phases = ("select",)

    def edge_weight(self) -> Tensor:
        """`weight` as the forward pass uses it: times the shares of the spaces. The base term has no gate."""
        weight, gates = super().edge_weight(), self.gates()
        shares = [gates[:, i, None].expand(-1, size) for i, size in enumerate(self.basis.sizes)]
        if self.base is not None:
            shares.insert(0, torch.ones_like(gates[:, :1]))
        return weight * torch.cat(shares, 1).reshape(*weight.shape[:2], *(1,) * (weight.ndim - 2))

    def reset_parameters(self) -> None:
        """Draw the weights so that each space alone is what a layer of it alone would be."""
        super().reset_parameters()
        with torch.no_grad():
            parts = self.coefficients.split(self.basis.sizes, 1)
            for part, size in zip(parts, self.basis.sizes, strict=True):
                part.mul_((self.basis.num / size) ** 0.5)

    def selection(self) -> Selection:
        """What each node would choose now, or has chosen."""
        shares = self.gates().detach()
        return Selection(self.gates.spaces, [self.gates.spaces[i] for i in shares.argmax(1).tolist()], shares)

    def select(self) -> None:
        """Leave each node its best space alone; see `Gates.select`."""
        self.gates.select()

    def enter(self, phase: str) -> None:
        """Let the one phase begin that there is: `select`."""
        self.select()

    def _by_space(self, compute: Callable[["Space"], Tensor]) -> Tensor | None:
        """The outputs of all nodes, computed for each space with the nodes that chose it; None before `select`.

        Parameters that only other spaces use get zeros as gradients.
        """
        choice = self.gates.choice()
        if choice is None or not choice.groups:
            return None
        weight, first, outputs = super().edge_weight(), int(self.base is not None), []
        parts, unused = weight[:, first:].split(self.basis.sizes, 1), dict(enumerate(self.basis.parts))
        for space, nodes in choice.groups:
            own = parts[space].index_select(0, nodes)
            if first:
                own = torch.cat([weight[:, :1].index_select(0, nodes), own], 1)
            outputs.append(compute(Space(self.base, unused.pop(space), own)))
        y = torch.cat(outputs, -1).index_select(-1, choice.place)
        return with_zero_gradients(y, [self.gates.logits, *(p for part in unused.values() for p in part.parameters())])


class Space(Edges):
    """One space of a layer: what KANLinear's forward pass needs to see of a layer, for some of the nodes."""

    forward = KANLinear.forward

    def __init__(self, base: nn.Module | None, basis: Basis, weight: Tensor):
        self.base, self.basis, self.weight, self.bias = base, basis, weight, None
        self.in_features, self.out_features = basis.features, len(weight)

    def edge_weight(self) -> Tensor:
        return self.weight


@register("layer", "select")
class SelectKANLinear(Selectable, KANLinear):
    """A Kolmogorov-Arnold layer whose output nodes choose among several bases.

    First the function of an edge is a sum over all bases, with shares that belong to the node it leads to, a softmax of
    trained numbers. Train so; then with the loss of `aux` too, which sharpens the shares; then call `select`, after
    which each node has its best basis alone, and train on. After it only bases that some node uses are evaluated, and
    each node is multiplied with its own only. The choice is part of the state.

    Args:
        in_features: Number of inputs.
        out_features: Number of outputs, the nodes.
        bases: Slots of `zoo.list_blocks("basis")`, at least 2.
        base: Activation slot of the base function, which has no gate; ``none`` for no base term.
        temperature: What the numbers behind the shares are divided by. With 0.2, a thousand steps of Adam at a rate of
            1e-3 can make one share e^5 times another.
        bias: Add a bias to the outputs.
        scale: As for `KANLinear`, for each basis if it were alone.

    Shape: ``(*, in_features) -> (*, out_features)``.

    Example:
        >>> layer = SelectKANLinear(4, 3, bases=("spline(grid_size=3)", "fourier"))
        >>> layer.select()
        >>> layer(torch.randn(2, 4)).shape, layer.selection().chosen[0]
        (torch.Size([2, 3]), 'spline(grid_size=3)')

    Source: Yang et al., "Activation Space Selectable Kolmogorov-Arnold Networks" (arXiv 2408.08338), no official code.
    Differs: the paper is followed in its idea and its three phases: all spaces, selection, pruning. Shares by softmax,
        their entropy as the loss of the second phase, a base term outside of the choice, and the choice by output node
        are zoo's. The weights of spaces that were not chosen stay in the state, unused, and their gradients are zeros.
    Cost: that of `KANLinear` with all functions in one basis; after `select` only what is used. A program that was
        compiled or exported is right for every choice, and evaluates all spaces.
    Raises: ValueError for fewer than 2 bases, a temperature that is not positive, and what KANLinear refuses.
    """

    @with_options_of(KANLinear, without=["basis", "options"], base="silu")
    def __init__(
        self, in_features: Width, out_features: Width, bases: Bases = SPACES, *, temperature: Temperature = 0.2, **edges
    ):
        super().__init__(in_features, out_features, partial(Spaces, bases=tuple(bases)), **edges)
        self.gates = Gates(out_features, names(bases), temperature=temperature, **placement(edges))

    def forward(self, x: Tensor) -> Tensor:
        if is_symbol(x):
            return as_leaf(self, x)
        y = self._by_space(lambda space: space.forward(x))
        if y is None:
            return super().forward(x)
        return y if self.bias is None else y + self.bias.to(y.dtype)

    def report(self) -> Aux:
        """``loss/selection`` and ``stat/selection``, see `Gates.aux`."""
        return self.gates.aux()


def names(bases: Sequence[SlotLike]) -> list[str]:
    """How the report names the spaces: their slots."""
    return [str(parse_slot(basis)) for basis in bases]


@register("channel_mixer", "select_kan")
class SelectKAN(TwoLayers):
    """Two layers whose nodes choose among several bases; see `SelectKANLinear` for how to train them.

    Returns ``(y, aux)`` with ``loss/selection`` and ``stat/selection``, an entry a layer (see `Gates.aux`).

    Args:
        bases, base, temperature: Of the layers, see `SelectKANLinear`.
        bias: Bias on both layers.
        ratio, hidden, norm, drop: See `zoo.blocks.kan.two_layers.TwoLayers`.

    Shape: ``(*, dim) -> (*, dim)``, and the auxiliary outputs.

    Example:
        >>> y, aux = SelectKAN(8, bases=("rbf", "fourier"))(torch.randn(2, 3, 8))
        >>> y.shape, [round(entropy.item(), 3) for entropy in aux["loss/selection"]]
        (torch.Size([2, 3, 8]), [1.0, 1.0])

    Source: Yang et al., "Activation Space Selectable Kolmogorov-Arnold Networks" (arXiv 2408.08338), no official code.
    Differs: see `SelectKANLinear`; a norm between the layers.
    Cost: that of the two layers.
    Raises: ValueError for a hidden width below 1, and what SelectKANLinear refuses.
    """

    has_aux = True

    @with_options_of(SelectKANLinear, TwoLayers, without=["scale"], bias=True)
    def __init__(self, dim: Width, *, bases: Bases = WIDE_SPACES, **options):
        layer = partial(SelectKANLinear, bases=bases, **pop_options_of(SelectKANLinear, options))
        super().__init__(dim, layer, **options)

    def forward(self, x: Tensor) -> tuple[Tensor, Aux]:
        if is_symbol(x):
            return as_leaf(self, x)
        return super().forward(x), merge_aux([self.fc1.report(), self.fc2.report()])
