"""HyperMixer's token mixer: a perceptron over the positions, whose weights small networks make of the positions."""

import math
from typing import Literal

import torch
from torch import Tensor, fx, nn

from zoo.blocks.linear import hidden_width
from zoo.blocks.mixer import Mixer
from zoo.blocks.norm import LayerNorm
from zoo.blocks.options import pop_options_of, with_options_of
from zoo.checks.ranges import Count, Grid, Width
from zoo.slots import SlotLike, build_act
from zoo.slots.table import register

POSITIONS = ("sinusoid", "none")


@register("token_mixer", "hypermixing")
class HyperMixing(Mixer):
    """A two-layer perceptron over the positions; networks make each position's row of both its maps of the position.

    So it is made for no number of positions, costs in proportion to it, and without `positions` exchanges its outputs
    as its inputs are exchanged. A layer norm comes last. Of a batch with positions that are none, the keyword ``mask``
    of the forward pass, ``(B, *S)``, is true where there is one: what stands elsewhere reaches no other position.

    Args:
        ratio: Hidden width of the perceptron over `dim`; it is ``int(ratio * dim)``.
        hidden: Hidden width itself, instead of `ratio`.
        heads: Perceptrons side by side, each on as many channels, with as many networks.
        positions: What the networks are told beside the content: a sinusoid of the position's number, or nothing.
        tied: One network makes both maps.
        act: An activation slot, of the perceptron and of the networks.
        grid: Sizes of the position dimensions of the input, of which sinusoids are kept; others come too.

    Shape: ``(B, *S, dim) -> (B, *S, dim)``, any numbers of positions.

    Example:
        >>> mixer = HyperMixing(8, heads=2, grid=(3, 4))
        >>> x, mask = torch.randn(2, 5, 8), torch.ones(2, 5, dtype=torch.bool)
        >>> mask[1, 3:] = False
        >>> y = mixer(x, mask=mask)
        >>> torch.allclose(y[1, :3], mixer(x[1:, :3])[0], atol=1e-6)
        True

    Source: Mai et al., "HyperMixer" (arXiv 2203.03691), section 3; heads from Mai et al., "HyperConformer";
        idiap/hypermixing, hypermixing/hypermixing.py.
    Differs: queries, keys and values are the same positions. The code refuses `tied` for want of a truth value. Its
        sinusoids have twice the exponents of a Transformer's, and begin at 1; these are the same. Of a grid the
        positions are numbered row by row.
    Cost: a position (2 x dim x dim + 4 x dim x hidden) / heads MACs, half of it but for 2 x dim x hidden if `tied`.
    Raises: ValueError for a width, or a hidden width, that is not a multiple of the heads.
    """

    needs_grid = True
    any_grid = True
    mixes_prefix = True
    keywords = frozenset({"mask"})

    @with_options_of(hidden_width)
    def __init__(
        self,
        dim: Width,
        *,
        heads: Count = 1,
        positions: Literal[POSITIONS] = "sinusoid",
        tied: bool = False,
        act: SlotLike = "gelu",
        grid: Grid,
        device=None,
        dtype=None,
        **options,
    ):
        super().__init__()
        hidden = hidden_width("hypermixing", dim, **pop_options_of(hidden_width, options))
        for name, width in (("dim", dim), ("hidden width", hidden)):
            if width % heads:
                raise ValueError(
                    f"hypermixing has {heads} heads and a {name} of {width}; it must be a multiple of heads"
                )
        dd = {"device": device, "dtype": dtype}
        self.heads, self.positions = heads, positions
        self.w1 = HyperNetwork(dim // heads, hidden // heads, heads, act, **dd)
        self.w2 = self.w1 if tied else HyperNetwork(dim // heads, hidden // heads, heads, act, **dd)
        self.act = build_act(act, **dd)
        self.norm = LayerNorm(dim, eps=1e-5, **dd)
        self.register_buffer("table", torch.empty(0, dim, **dd) if positions == "sinusoid" else None, persistent=False)
        self.set_grid(grid)

    def set_grid(self, grid: tuple[int, ...]) -> None:
        """Keep the sinusoids of another grid, and of a class token before it."""
        self.grid = tuple(grid)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Make the sinusoids; the networks draw themselves."""
        if self.table is not None:
            self.table = sinusoids(math.prod(self.grid) + 1, self.table.shape[1]).to(self.table)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        tokens = x.flatten(1, -2)
        told = tokens if self.table is None else with_positions(tokens, self.table)
        first = self.w1(told)
        second = first if self.w2 is self.w1 else self.w2(told)
        if mask is not None:
            first, second = (masked(weights, mask) for weights in (first, second))
        values = tokens.unflatten(-1, (self.heads, -1)).permute(2, 0, 1, 3)  # heads first: one product for all images
        mixed = self.act(first.mT @ values)  # (heads, B, hidden / heads, dim / heads)
        y = (second @ mixed).permute(1, 2, 0, 3).flatten(2)
        return self.norm(y).view(x.shape)


class HyperNetwork(nn.Module):
    """As many two-layer perceptrons as there are heads, each on its channels; no biases.

    Args:
        dim, hidden: Channels, and outputs, of one head.
        heads: How many.
        act: An activation slot.

    Shape: ``(B, N, heads * dim) -> (heads, B, N, hidden)``.
    """

    def __init__(self, dim: int, hidden: int, heads: int, act: SlotLike, **dd):
        super().__init__()
        self.fc1 = nn.Parameter(torch.empty(heads, dim, dim, **dd))
        self.fc2 = nn.Parameter(torch.empty(heads, hidden, dim, **dd))
        self.act = build_act(act, **dd)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """As published: Xavier's scheme of a tensor of three dimensions, whose bounds are those of far larger maps."""
        for weight in (self.fc1, self.fc2):
            nn.init.xavier_uniform_(weight, gain=math.sqrt(2.0))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.einsum("bnhi,hoi->hbno", x.unflatten(-1, (self.fc1.shape[0], -1)), self.fc1)
        return torch.einsum("hbni,hoi->hbno", self.act(x), self.fc2)


def sinusoids(count: int, dim: int) -> Tensor:
    """Of the positions 1, 2, …: sines in the even channels, cosines in the odd ones, ``(count, dim)``.

    Example:
        >>> sinusoids(2, 2)
        tensor([[0.8415, 1.0000],
                [0.9093, 1.0000]])
    """
    place, channel = torch.arange(1, count + 1, dtype=torch.float64), torch.arange(dim, dtype=torch.float64)
    angle = place[:, None] / 10_000 ** (2 * channel / dim)
    return torch.where(channel % 2 == 0, angle.sin(), angle.cos()).float()


@fx.wrap
def with_positions(x: Tensor, table: Tensor) -> Tensor:
    """``(B, N, C)``, larger by the root of C, plus the sinusoids of its positions: of a table, as far as it goes."""
    count, dim = x.shape[1], x.shape[2]
    known = table[:count] if count <= table.shape[0] else sinusoids(count, dim).to(table)
    return x * math.sqrt(dim) + known


@fx.wrap
def masked(weights: Tensor, mask: Tensor) -> Tensor:
    """``(heads, B, N, hidden)`` with zeros for the positions where a mask ``(B, *S)`` is false."""
    mask = mask.flatten(1)
    if mask.shape[1] != weights.shape[2]:
        raise ValueError(
            f"mask is {tuple(mask.shape)} for {weights.shape[2]} positions an image; give one truth value for each"
        )
    return weights * mask[..., None].to(weights.dtype)
