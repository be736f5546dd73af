"""Token mixers that are matrices over the positions: MLP-Mixer's, gMixer's and ResMLP's."""

import torch
from torch import Tensor, nn

from zoo.blocks.linear import TokenLinear, hidden_width
from zoo.blocks.mixer import Mixer
from zoo.blocks.options import placement, pop_options_of, with_options_of
from zoo.checks.ranges import Grid, Rate, Width
from zoo.slots import SlotLike, build_act
from zoo.slots.table import register


@register("token_mixer", "token_mlp")
class TokenMlp(Mixer):
    """A two-layer perceptron over the positions, the same for every channel; gated if asked for.

    Args:
        ratio: Hidden width over `dim` (over the channels, as published, not over the tokens).
        hidden: Hidden width itself, instead of `ratio`.
        act: An activation slot.
        gated: Multiply the first half of a doubled hidden layer by the activation of the second half (gMixer); the
            gate starts with weights N(0, 1e-6) and biases 1.
        drop: Dropout after the activation and after the second map.
        init: A scheme of `zoo.blocks.init`.
        grid: Sizes of the position dimensions of the input.

    Shape: ``(B, *grid, dim) -> (B, *grid, dim)``.

    Example:
        >>> TokenMlp(16, grid=(4, 4))(torch.randn(2, 4, 4, 16)).shape
        torch.Size([2, 4, 4, 16])

    Source: Tolstikhin et al., "MLP-Mixer" (arXiv 2105.01601), equation 1, token mixing; gated: timm's gMixer.
    Differs: written as ``W @ x``; the transpositions of the official code are not made. Exact GELU by default.
    Cost: 2 x tokens x hidden x dim MACs, 3 x when gated.
    Raises: ValueError for a hidden width below 1.
    """

    follows = ("init", "act", "drop")

    needs_grid = True

    @with_options_of(hidden_width, TokenLinear, ratio=0.5)
    def __init__(
        self, dim: Width, *, act: SlotLike = "gelu", gated: bool = False, drop: Rate = 0.0, grid: Grid, **options
    ):
        super().__init__()
        hidden = hidden_width("token_mlp", dim, **pop_options_of(hidden_width, options))
        tokens = torch.Size(grid).numel()
        self.grid, self.gated = tuple(grid), gated
        first = {"init": (options["init"], "open_gate")} if gated else {}
        self.fc1 = TokenLinear(tokens, 2 * hidden if gated else hidden, **(options | first))
        self.act = build_act(act, **placement(options))
        self.drop = nn.Dropout(drop) if drop > 0 else None
        self.fc2 = TokenLinear(hidden, tokens, **options)

    def forward(self, x: Tensor) -> Tensor:
        shape = x.shape
        x = self.fc1(x.flatten(1, -2))
        if self.gated:
            value, gate = x.chunk(2, dim=1)
            x = value * self.act(gate)
        else:
            x = self.act(x)
        x = self.fc2(x) if self.drop is None else self.drop(self.fc2(self.drop(x)))
        return x.view(shape)

    def set_grid(self, grid: tuple[int, ...]) -> None:
        """Resample the weights to another grid: the inputs of the first map and the outputs of the second."""
        self.fc1.resample_(self.grid, grid, inputs=True)
        self.fc2.resample_(self.grid, grid, outputs=True)
        self.grid = tuple(grid)


@register("token_mixer", "resmlp_linear")
class ResMlpLinear(Mixer):
    """One linear map over the positions, the same for every channel: no hidden layer, no activation.

    Args:
        init: A scheme of `zoo.blocks.init`.
        grid: Sizes of the position dimensions of the input.

    Shape: ``(B, *grid, dim) -> (B, *grid, dim)``.

    Example:
        >>> ResMlpLinear(16, grid=(9,))(torch.randn(2, 9, 16)).shape
        torch.Size([2, 9, 16])

    Source: Touvron et al., "ResMLP" (arXiv 2105.03404), equation 2; facebookresearch/deit, resmlp_models.py.
    Differs: written as ``W @ x``; the transpositions of the official code are not made.
    Cost: tokens x tokens x dim MACs.
    Raises: nothing of its own.
    """

    follows = ("init",)

    needs_grid = True

    @with_options_of(TokenLinear)
    def __init__(self, dim: Width, *, grid: Grid, **options):
        super().__init__()
        tokens = torch.Size(grid).numel()
        self.grid = tuple(grid)
        self.proj = TokenLinear(tokens, tokens, **options)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x.flatten(1, -2)).view(x.shape)

    def set_grid(self, grid: tuple[int, ...]) -> None:
        """Resample inputs and outputs of the map to another grid."""
        self.proj.resample_(self.grid, grid, inputs=True, outputs=True)
        self.grid = tuple(grid)
