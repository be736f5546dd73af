"""KANLinear: a linear map with a learnt function on every edge."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from zoo.blocks.init import init_
from zoo.blocks.kan.bases.base import Basis, finite, wide
from zoo.blocks.kernels import cost
from zoo.blocks.kernels.autograd import held, parameters_of
from zoo.blocks.kernels.functions import expand
from zoo.blocks.kernels.reading import reading
from zoo.blocks.kernels.symbolic import as_leaf, is_symbol
from zoo.blocks.mixer import offers
from zoo.blocks.options import placement, with_options_of
from zoo.checks import checked
from zoo.checks.ranges import Deviation, Width
from zoo.slots import Slot, SlotLike, build_act, build_block, parse_slot


class Edges:
    """What the edges of a layer are made of: a basis, and a base function or None. Layers derive from this."""

    basis: Basis
    base: nn.Module | None
    in_features: int
    weight: nn.Parameter  # (outputs, rows, ...): the base term if there is one, and the functions of the basis
    bias: nn.Parameter | None
    plain: str  # torch's layer without learnt functions

    def _make_edges(
        self,
        shape: tuple[int, ...],
        *,
        basis: SlotLike = "spline",
        base: SlotLike | None = None,
        bias: bool = False,
        scale: Deviation | None = None,
        device=None,
        dtype=None,
        **options,
    ) -> None:
        """Make basis, base function, weight and bias, without drawing these.

        Args:
            shape: Of the weight without its rows: ``(outputs, inputs, ...)``.
            basis, base, bias, scale, options: See `KANLinear`.
        """
        slot, dd = parse_slot(basis), {"device": device, "dtype": dtype}
        slot = Slot(slot.name, {**slot.options, **options}, slot.factory)
        if slot.name == "none":
            raise ValueError(f"{type(self).__name__} needs a basis; for a layer without one use {self.plain}")
        self.basis = build_block("basis", slot, self.in_features, **dd)
        base = self.basis.base if base is None else base
        self.base = None if base == "none" else build_act(parse_slot(base, "base"), **dd)
        self.scale = (1.0 if self.base is None else 0.1) if scale is None else scale
        self.weight = nn.Parameter(torch.empty(shape[0], self.rows, *shape[1:], **dd))
        self.bias = nn.Parameter(torch.empty(shape[0], **dd)) if bias else None

    def _draw(self) -> None:
        """Draw the weights anew; the basis looks after its own."""
        with torch.no_grad():
            self.coefficients.normal_(std=self.scale * self.coefficients[0].numel() ** -0.5)
        if self.base is not None:
            init_(self.weight[:, 0], None, "torch")
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    @property
    def coefficients(self) -> Tensor:
        """Coefficients of the basis, (outputs, num, ...): a view into `weight`."""
        return self.weight[:, int(self.base is not None) :]

    def function_parameters(self) -> tuple[nn.Parameter, ...]:
        """Those of the basis, and of the base function: in the order of the gradients of `pull_back`."""
        return *parameters_of(self.basis), *(() if self.base is None else parameters_of(self.base))

    @property
    def rows(self) -> int:
        """Number of functions of an input."""
        return self.basis.num + (self.base is not None)

    def held(self) -> "Held":
        """The functions with the tensors that they have now, for a backward pass."""
        return Held(self)

    def functions(self, x: Tensor) -> Tensor:
        """The base function and the basis functions of every input, in plain operations.

        Shape: ``(*, features) -> (*, rows, features)``.
        """
        if cost.counting():
            values = cost.evaluation(x, self.basis.num, self.basis.macs)
        else:
            x = finite(x.to(wide(x.dtype)))
            values = self.basis.values(x)
        return values if self.base is None else torch.cat([self.base(x).unsqueeze(-2), values], -2)

    def fill(self, x: Tensor, out: Tensor) -> None:
        """Write `functions` into ``(N, rows, features)``."""
        x = finite(x.to(wide(x.dtype)))
        if self.base is not None:
            out[:, 0] = self.base(x)
        self.basis.fill(x, out[:, int(self.base is not None) :])

    def pull_back(self, x: Tensor, grad: Tensor) -> tuple[Tensor, ...]:
        """Gradients by `x`, by the parameters of the basis, and by those of the base function."""
        x = finite(x.to(wide(x.dtype)))
        if self.base is None:
            return self.basis.pull_back(x, grad)
        by_x, *others = self.basis.pull_back(x, grad[:, 1:])
        with torch.enable_grad():
            value = self.base(x.requires_grad_())
        by_base, *more = torch.autograd.grad(value, (x, *self.base.parameters()), grad[:, 0].to(value.dtype))
        return by_x + by_base, *others, *more


class Held(Edges):
    """The functions of a layer with the tensors that it has now, for its backward pass."""

    def __init__(self, edges: Edges):
        self.basis, self.base = held(edges.basis), None if edges.base is None else held(edges.base)


@checked
class KANLinear(Edges, nn.Module):
    """A Kolmogorov-Arnold layer: each output is a sum of learnt functions, one of each input.

    The function of an edge is a weighted sum of the functions of a basis and of a base function (SiLU). All functions
    are evaluated once an input, and one matrix product does the sums of all edges. In eager mode that happens block by
    block, in training too: if there is more than one, only the input is kept for the backward pass, which evaluates the
    basis again.

    An infinite input gives what a very large finite one gives (see `zoo.blocks.kan.bases.base.finite`); NaN gives NaN.

    Args:
        in_features: Number of inputs.
        out_features: Number of outputs.
        basis: A slot of `zoo.list_blocks("basis")`.
        base: Activation slot of the base function; ``none`` for no base term, and by default what suits the basis.
        bias: Add a bias to the outputs.
        scale: Standard deviation of what the basis contributes to an output at the start, relative to its inputs, for
            functions of size one; by default 0.1, or 1 where there is no base term.
        options: Options of the basis: ``grid_size=5, order=3``.

    Shape: ``(*, in_features) -> (*, out_features)``.

    Example:
        >>> layer = KANLinear(4, 3, basis="spline", grid_size=5, order=3)
        >>> layer(torch.randn(2, 7, 4)).shape, tuple(layer.weight.shape)
        (torch.Size([2, 7, 3]), (3, 9, 4))

    Source: Liu et al., "KAN: Kolmogorov-Arnold Networks" (arXiv 2404.19756), equations 2.10 and 2.11;
        KindXiaoming/pykan, Blealtan/efficient-kan, ZiyaoLi/fast-kan.
    Differs: an edge has one factor for its base term and one a basis function, and no further scales: those of pykan
        and efficient-kan multiply its coefficients and can be multiplied into `weight`.
    Cost: rows x in_features x out_features MACs a position, with a row a basis function and one for the base term;
        and what the basis costs, for each input.
    Raises: ValueError for a basis or an option that is unknown, or inputs of another width or precision.
    """

    plain = "torch.nn.Linear"

    @with_options_of(Edges._make_edges)
    def __init__(self, in_features: Width, out_features: Width, basis: SlotLike = "spline", **edges):
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self._make_edges((out_features, in_features), basis=basis, **edges)
        # 1 for an edge, 0 for one that was pruned. In the precision of the weight, so that it can be averaged with it.
        self.register_buffer("alive", torch.empty(out_features, in_features, **placement(edges)))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weights anew and bring pruned edges back; the basis looks after its own."""
        self.alive.fill_(1)
        self._draw()

    def take_sizes(self, state: Mapping[str, Tensor]) -> None:
        """Take the sizes of a layer whose grid was refined before it was saved; its own weights are lost.

        Args:
            state: The saved layer's tensors, by the names of this layer's `state_dict()`.
        """
        knots = state.get("basis.knots")
        if knots is None or not offers(self.basis, "set_knots") or (knots.ndim, state["weight"].ndim) != (2, 3):
            return  # what does not fit is listed when it is loaded
        rows = state["weight"].shape[1]
        if rows != self.weight.shape[1]:
            self.basis.set_knots(knots)
            shape = (self.out_features, rows, self.in_features)
            self.weight = nn.Parameter(self.weight.new_zeros(shape), self.weight.requires_grad)

    def _load_from_state_dict(self, *args) -> None:
        super()._load_from_state_dict(*args)
        if self.alive.dtype is torch.bool:  # assigned from a state saved when it was of that type
            self.alive = self.alive.to(self.weight.dtype)

    @property
    def pruned(self) -> bool:
        """Whether some edge is not wholly there; True too where the values cannot be read, as in a compiler."""
        return not whole(self.alive)

    def edge_weight(self) -> Tensor:
        """`weight` as the forward pass uses it: without the pruned edges."""
        if cost.counting():  # the mask is no part of what the layer costs
            return self.weight
        return self.weight * self.alive[:, None] if self.pruned else self.weight

    def forward(self, x: Tensor) -> Tensor:
        if is_symbol(x):
            return as_leaf(self, x)
        if x.shape[-1] != self.in_features:
            raise ValueError(f"KANLinear takes {self.in_features} features in the last dimension, got {tuple(x.shape)}")
        weight = self.edge_weight()
        precision = product_precision("KANLinear", x, weight)
        y = expand(self, x, weight, precision)
        return y if self.bias is None else y + self.bias.to(y.dtype)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"


def product_precision(layer: str, x: Tensor, weight: Tensor) -> torch.dtype:
    """The precision that functions are multiplied with a weight in: autocast's, or that of both.

    Raises:
        ValueError: They differ, and no autocast is on; `layer` is the name in the message.
    """
    if not x.is_meta and torch.is_autocast_enabled(x.device.type):
        return torch.get_autocast_dtype(x.device.type)
    if x.dtype != weight.dtype:
        raise ValueError(f"{layer} of {weight.dtype} got {x.dtype}; convert the input, or the layer by .to(dtype)")
    return weight.dtype


@reading(otherwise=False, compare=False)
def whole(alive: Tensor) -> bool:
    """Whether no edge is pruned."""
    return alive.amin().item() == 1 and alive.amax().item() == 1
