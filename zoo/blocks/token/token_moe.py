"""Mixtures of experts over the positions, and a block in another number of positions and channels: Sparse-MLP's."""

from functools import partial

import torch
from torch import Tensor, nn

from zoo.blocks.base import Aux, MetaBlock
from zoo.blocks.channel.mlp import Mlp
from zoo.blocks.linear import Linear, TokenLinear, hidden_width, linear, resample_tokens
from zoo.blocks.mixer import Mixer, trait
from zoo.blocks.moe.layer import MoE
from zoo.blocks.moe.routers.base import Router
from zoo.blocks.moe.routers.remap import Remap
from zoo.blocks.options import placement, pop_options_of, with_options_of
from zoo.checks.ranges import Count, Grid, Ratio, Width
from zoo.slots import SlotLike, build_block
from zoo.slots.table import register


@register("token_mixer", "token_moe")
class TokenMoE(Mixer):
    """A mixture of experts in which channels take the part of tokens: a few perceptrons over positions for each.

    Args:
        num_experts: Number of perceptrons.
        top_k: Number of perceptrons of a channel, where the router does not decide that by itself.
        ratio: Hidden width of a perceptron over `dim` (over the channels, as in `token_mlp`).
        hidden: Hidden width itself, instead of `ratio`.
        router, dispatch: Slots, as in `zoo.blocks.moe.layer.MoE`.
        group: Number of samples whose channels are routed together; None for the whole batch.
        act: An activation slot.
        drop: Dropout in the perceptrons.
        init: A scheme of `zoo.blocks.init`.
        grid: Sizes of the position dimensions of the input.

    Shape: ``(B, *grid, dim) -> (B, *grid, dim)`` and the auxiliary outputs of the mixture.

    Example:
        >>> y, aux = TokenMoE(16, num_experts=4, top_k=2, grid=(3, 3))(torch.randn(2, 3, 3, 16))
        >>> y.shape, aux["stat/load"].shape
        (torch.Size([2, 3, 3, 16]), torch.Size([4]))

    Source: Lou et al., "Cross-token Modeling with Conditional Computation" (arXiv 2109.02008), the first stage of a
        sparse block; no official code.
    Differs: the hidden width follows MLP-Mixer's convention.
    Cost: positions x num_experts MACs a channel, and 2 x positions x hidden for each of its perceptrons.
    Raises: ValueError for a hidden width below 1, and as `MoE`.
    """

    follows = ("init", "act", "drop")

    needs_grid = True
    has_aux = True
    mixture = "moe"  # what the options of this mixer's slot describe, for surgery on it

    @with_options_of(hidden_width, MoE, without=["experts", "shared"], ratio=0.5, num_experts=4, top_k=1, act="gelu")
    def __init__(self, dim: Width, *, grid: Grid, **options):
        super().__init__()
        self.grid = tuple(grid)
        hidden = hidden_width("token_moe", dim, **pop_options_of(hidden_width, options))
        experts = {"name": "mlp", "hidden": hidden}
        self.moe = MoE(torch.Size(grid).numel(), experts=experts, **options)

    @property
    def keywords(self) -> frozenset[str]:
        """Optional keywords that the router declares."""
        return trait(self.moe, "keywords")

    def forward(self, x: Tensor, **keywords) -> tuple[Tensor, Aux]:
        y, aux = self.moe(x.flatten(1, -2).transpose(1, 2), **keywords)
        return y.transpose(1, 2).reshape(x.shape), aux

    def set_grid(self, grid: tuple[int, ...]) -> None:
        """Resample to another grid the inputs of the gates and of the first maps, and the outputs of the second maps.

        Raises:
            ValueError: The router has inputs other than the positions, or a tool has taken a gate's weight.
        """
        old, new = torch.Size(self.grid).numel(), torch.Size(grid).numel()
        gates = [module.gate for module in self.moe.router.modules() if isinstance(module, Router)]
        if any("weight" not in dict(gate.named_parameters(recurse=False)) for gate in gates):
            raise ValueError(
                "a gate of token_moe was quantised, pruned, parametrised or given an adapter, and its weight cannot be "
                "resampled; set the input size before that, or let the tool leave routers out"
            )
        if not gates or any(gate.weight.shape[-1] != old for gate in gates):
            raise ValueError(
                f"the {type(self.moe.router).__name__} router of token_moe has inputs other than the {old} positions "
                "and cannot be resampled; create the model at the size that it is for"
            )
        fc1, fc2 = self.moe.experts.fc1, self.moe.experts.fc2
        with torch.no_grad():
            for layer in (*gates, fc1):  # as in TokenLinear, a constant image gives the same on both grids
                _replace(layer, "weight", self._resampled(layer.weight, grid) * (old / new))
            for module in self.moe.router.modules():
                if isinstance(module, Remap) and module.planes is not None:
                    module.planes = (self._resampled(module.planes, grid) * (old / new)).contiguous()
            _replace(fc2, "weight", self._resampled(fc2.weight.mT, grid).mT)
            _replace(fc2, "bias", self._resampled(fc2.bias, grid))
        for gate in gates:
            if isinstance(gate, nn.Linear):
                gate.in_features = new
        self.grid = tuple(grid)

    def _resampled(self, weight: Tensor, grid: tuple[int, ...]) -> Tensor:
        return resample_tokens(weight.flatten(0, -2), self.grid, grid).unflatten(0, weight.shape[:-1])


def _replace(layer: nn.Module, name: str, value: Tensor) -> None:
    setattr(layer, name, nn.Parameter(value.contiguous(), getattr(layer, name).requires_grad))


@register("token_mixer", "re_represent")
class ReRepresent(Mixer):
    """A whole block in another shape: linear maps to other numbers of positions and channels, the block, and back.

    It mixes both, so that the block around it needs no channel mixer.

    Args:
        tokens: Number of positions within; by default half of them.
        ratio: Number of channels within over `dim`.
        token_mixer, channel_mixer, norm: Slots of the block within.
        act, drop, init: Of the mixers within that do not set their own; `init` of the maps too.
        grid: Sizes of the position dimensions of the input.

    Shape: ``(B, *grid, dim) -> (B, *grid, dim)``, and the auxiliary outputs of the block within, if it has any.

    Example:
        >>> mixer = ReRepresent(16, tokens=4, channel_mixer="moe(num_experts=2)", grid=(3, 3))
        >>> mixer(torch.randn(2, 3, 3, 16))[0].shape
        torch.Size([2, 3, 3, 16])

    Source: Lou et al., "Cross-token Modeling with Conditional Computation" (arXiv 2109.02008), re-represent layers; no
        official code.
    Differs: the block within keeps its residuals to itself, and there is another around all of it; how the paper places
        them is not known here.
    Cost: 2 x dim x tokens x (positions + ratio x dim) MACs, and those of the block within.
    Raises: ValueError if there are no positions or channels within.
    """

    follows = ("init", "act", "drop")

    needs_grid = True
    within = {"token_mixer": "block.token_mixer", "channel_mixer": "block.channel_mixer"}  # where the slots' mixers are

    @with_options_of(Mlp, without=["hidden", "bias", "fc2_bias"])
    def __init__(
        self,
        dim: Width,
        *,
        tokens: Count | None = None,
        ratio: Ratio = 2.0,
        token_mixer: SlotLike = "token_moe(ratio=0.25)",
        channel_mixer: SlotLike = "moe(num_experts=4, top_k=1, experts='mlp(ratio=2)')",
        norm: SlotLike = "layernorm",
        grid: Grid,
        **options,
    ):
        super().__init__()
        positions, width = torch.Size(grid).numel(), int(ratio * dim)
        tokens = max(1, positions // 2) if tokens is None else tokens
        if tokens < 1 or width < 1:
            raise ValueError(f"re_represent has {tokens} positions and {width} channels within; it needs 1 of each")
        self.grid, dd = tuple(grid), placement(options)
        defaults = {name: options[name] for name in self.follows}
        maps = {"init": options["init"], **dd}
        self.fewer_tokens = TokenLinear(positions, tokens, **maps)
        self.more_channels = Linear(dim, width, **maps)
        self.block = MetaBlock(
            width,
            token_mixer=build_block("token_mixer", token_mixer, width, defaults=defaults, grid=(tokens,), **dd),
            channel_mixer=build_block("channel_mixer", channel_mixer, width, defaults=defaults, **dd),
            norm=partial(build_block, "norm", norm, **dd),
        )
        self.has_aux = self.block.has_aux
        self.fewer_channels = Linear(width, dim, **maps)
        self.more_tokens = TokenLinear(tokens, positions, **maps)

    @property
    def keywords(self) -> frozenset[str]:
        """Optional keywords that a mixer of the block within declares."""
        return trait(self.block, "keywords")

    def forward(self, x: Tensor, **keywords) -> Tensor | tuple[Tensor, Aux]:
        y = self.block(linear(self.fewer_tokens(x.flatten(1, -2)), self.more_channels), **keywords)
        y, aux = y if self.has_aux else (y, {})
        y = self.more_tokens(linear(y, self.fewer_channels)).view(x.shape)
        return (y, aux) if self.has_aux else y

    def set_grid(self, grid: tuple[int, ...]) -> None:
        """Resample the maps from and to the positions of another grid; within, their number stays."""
        self.fewer_tokens.resample_(self.grid, grid, inputs=True)
        self.more_tokens.resample_(self.grid, grid, outputs=True)
        self.grid = tuple(grid)
