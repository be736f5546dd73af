"""RaftMLP's token mixers: a perceptron over each column, or each row, of several channels at once."""

from typing import Literal

from torch import Tensor, fx, nn

from zoo.blocks.kernels.linear import product
from zoo.blocks.linear import TokenLinear, hidden_width
from zoo.blocks.mixer import Mixer
from zoo.blocks.options import placement, pop_options_of, with_options_of
from zoo.blocks.token.partition import image_of_grid
from zoo.checks.ranges import Count, Grid, Rate, Width
from zoo.slots import SlotLike, build_act
from zoo.slots.table import register

fx.wrap("image_of_grid")


class RaftLinear(TokenLinear):
    """A linear map over the positions of rafts, which come last.

    It is not of torch's own class: tools that quantise would take that, and then it could not be resampled.

    Shape: ``(*, in_tokens) -> (*, out_tokens)``.
    """

    def forward(self, x: Tensor) -> Tensor:
        return product(x, self.weight, self.bias)


@register("token_mixer", "raft")
class Raft(Mixer):
    """A two-layer perceptron over the positions of a column, or of a row, in `size` groups of the channels at once.

    The channels are cut into as many groups as `size` says; channels at the same place of their groups are a raft, and
    the perceptron, the same for all rafts, sees the positions of all its channels. One direction after the other, in
    two blocks, mixes the whole grid.

    Args:
        axis: ``vertical``, over columns, or ``horizontal``, over rows.
        size: Channels of a raft; it divides `dim`.
        ratio: Hidden width over `dim`.
        hidden: Hidden width itself, instead of `ratio`; published are twice the positions of a raft.
        act: An activation slot.
        drop: Dropout after the activation and after the second map.
        init: A scheme of `zoo.blocks.init`.
        grid: Sizes of the position dimensions of the input; a sequence is one row.

    Shape: ``(B, *grid, dim) -> (B, *grid, dim)``.

    Example:
        >>> import torch
        >>> x = torch.randn(2, 6, 5, 8)
        >>> y = x.clone()
        >>> y[:, 0] = 0
        >>> mixer = Raft(8, axis="horizontal", grid=(6, 5))
        >>> torch.equal(mixer(x)[:, 1:], mixer(y)[:, 1:])  # rows are mixed each by itself
        True

    Source: Tatsunami, Taki, "RaftMLP" (arXiv 2108.04384), section 3.1; okojoalg/raft-mlp, libs/modules.py,
        PermutedBlock.
    Differs: for images of another size the weights are resampled, once; the official code resamples what comes and
        goes, in every block.
    Cost: 2 x hidden x dim MACs a position.
    Raises: ValueError if `dim` is not a multiple of `size`, or for a hidden width below 1.
    """

    follows = ("init", "act", "drop")

    needs_grid = True

    @with_options_of(hidden_width, RaftLinear, ratio=0.5)
    def __init__(
        self,
        dim: Width,
        *,
        axis: Literal["vertical", "horizontal"] = "vertical",
        size: Count = 2,
        act: SlotLike = "gelu",
        drop: Rate = 0.0,
        grid: Grid,
        **options,
    ):
        super().__init__()
        if dim % size:
            raise ValueError(f"raft has rafts of {size} channels for a width of {dim}; choose a size that divides it")
        hidden = hidden_width("raft", dim, **pop_options_of(hidden_width, options))
        self.grid, self.size, self.vertical = tuple(grid), size, axis == "vertical"
        tokens = size * self._length(grid)
        self.fc1 = RaftLinear(tokens, hidden, **options)
        self.act = build_act(act, **placement(options))
        self.drop = nn.Dropout(drop) if drop > 0 else None
        self.fc2 = RaftLinear(hidden, tokens, **options)

    def _length(self, grid: tuple[int, ...]) -> int:
        """Positions of a column, or of a row."""
        return (1, *grid)[-2 if self.vertical else -1]

    def forward(self, x: Tensor) -> Tensor:
        image = image_of_grid(x, self.grid)
        y = self.act(self.fc1(rafts(image, self.size, self.vertical)))
        y = self.fc2(y) if self.drop is None else self.drop(self.fc2(self.drop(y)))
        return image_of_rafts(y, self.size, self.vertical).reshape(x.shape)

    def set_grid(self, grid: tuple[int, ...]) -> None:
        """Resample the weights to another grid: the inputs of the first map and the outputs of the second."""
        old, new = ((self.size, self._length(sizes)) for sizes in (self.grid, grid))
        self.fc1.resample_(old, new, inputs=True)
        self.fc2.resample_(old, new, outputs=True)
        self.grid = tuple(grid)

    def extra_repr(self) -> str:
        return f"axis={'vertical' if self.vertical else 'horizontal'}, size={self.size}"


@fx.wrap
def rafts(x: Tensor, size: int, vertical: bool) -> Tensor:
    """The rafts of each column, or row: ``(B, H, W, C) -> (B, W, C / size, size * H)``, or with H and W exchanged.

    Of a raft all positions of one channel come after those of another. A copy, so that all rafts are one product:
    without it every row is a product of its own, which takes 1.7 times as long (torch 2.15, Zen 4).
    """
    x = x.transpose(1, 2) if vertical else x
    return x.unflatten(-1, (size, x.shape[-1] // size)).permute(0, 1, 4, 3, 2).flatten(3)


@fx.wrap
def image_of_rafts(x: Tensor, size: int, vertical: bool) -> Tensor:
    """The images ``(B, H, W, C)`` whose `rafts` these are."""
    x = x.unflatten(-1, (size, x.shape[-1] // size)).permute(0, 1, 4, 3, 2).flatten(3)
    return x.transpose(1, 2) if vertical else x
