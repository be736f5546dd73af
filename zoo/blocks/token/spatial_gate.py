"""gMLP's gated unit: token mixer and channel mixer at once."""

import torch
from torch import Tensor, nn

from zoo.blocks.linear import Linear, TokenLinear, linear, linear_act_halves
from zoo.blocks.mixer import Mixer
from zoo.blocks.norm import LayerNorm
from zoo.blocks.options import placement, with_options_of
from zoo.checks.ranges import Grid, Rate, Ratio, Width
from zoo.slots import SlotLike, build_act
from zoo.slots.table import register


@register("token_mixer", "spatial_gate")
class SpatialGate(Mixer):
    """Widen the channels, gate one half by a linear map over the positions of the other half, narrow them again.

    It mixes tokens and channels both: a gMLP block has this as token mixer and no channel mixer.

    Args:
        ratio: Hidden width over `dim`, before it is split in two; the split width is ``int(ratio * dim) // 2``.
        act: An activation slot, applied before the split.
        drop: Dropout after the gating and after the last map.
        init: A scheme of `zoo.blocks.init` for the channel projections. The map over positions starts as a
            gate of one: weights N(0, 1e-6), biases 1.
        grid: Sizes of the position dimensions of the input.

    Shape: ``(B, *grid, dim) -> (B, *grid, dim)``.

    Example:
        >>> SpatialGate(16, grid=(4, 4))(torch.randn(2, 4, 4, 16)).shape
        torch.Size([2, 4, 4, 16])

    Source: Liu et al., "Pay Attention to MLPs" (arXiv 2105.08050), equations 2 to 5; no official vision code, checked
        against timm's SpatialGatingBlock.
    Differs: none known from timm. The gate's norm has eps 1e-5, unlike the block's 1e-6.
    Cost: a position 1.5 x dim x hidden MACs, and tokens x tokens x hidden / 2, hidden being ``ratio * dim``.
    Raises: ValueError if the hidden width is odd or below 2.
    """

    follows = ("init", "act", "drop")

    needs_grid = True

    @with_options_of(Linear, init="xavier")
    def __init__(
        self, dim: Width, *, ratio: Ratio = 6.0, act: SlotLike = "gelu", drop: Rate = 0.0, grid: Grid, **options
    ):
        super().__init__()
        hidden = int(ratio * dim)
        if hidden < 2 or hidden % 2:
            raise ValueError(
                f"spatial_gate splits its hidden width int({ratio} * {dim}) = {hidden} in two; choose a ratio "
                "that makes it even and at least 2"
            )
        dd = placement(options)
        tokens = torch.Size(grid).numel()
        self.grid = tuple(grid)
        self.fc1 = Linear(dim, hidden, **options)
        self.act = build_act(act, **dd)
        self.norm = LayerNorm(hidden // 2, eps=1e-5, **dd)
        self.gate = TokenLinear(tokens, tokens, init="open_gate", **dd)
        self.drop = nn.Dropout(drop) if drop > 0 else None
        self.fc2 = Linear(hidden // 2, dim, **options)

    def forward(self, x: Tensor) -> Tensor:
        shape = x.shape
        x = x.flatten(1, -2)
        u, v = linear_act_halves(x, self.fc1, self.act)
        x = u * self.gate(self.norm(v))
        x = linear(x, self.fc2) if self.drop is None else self.drop(linear(self.drop(x), self.fc2))
        return x.view(shape)

    def set_grid(self, grid: tuple[int, ...]) -> None:
        """Resample inputs and outputs of the map over positions to another grid."""
        self.gate.resample_(self.grid, grid, inputs=True, outputs=True)
        self.grid = tuple(grid)
