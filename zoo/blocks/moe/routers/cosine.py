"""Top-k by the angle between a token and learnt directions, one an expert: the cosine router of Swin-MoE."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.blocks.init import InitLike, init_
from zoo.blocks.moe.routers.base import widen
from zoo.blocks.moe.routers.top_k import TopK
from zoo.blocks.options import with_options_of
from zoo.checks.ranges import Count, Width
from zoo.slots.table import register


@register("router", "cosine")
class Cosine(TopK):
    """Top-k whose logits are cosines over a learnt temperature, so that they cannot grow with the tokens.

    The other arguments are those of `TopK`.

    Args:
        width: Width of the space that tokens and experts are compared in.
        init: A scheme of `zoo.blocks.init` for the projection into that space.

    Shape: ``(G, S, dim) ->`` a `Routing` of G * S tokens.

    Example:
        >>> Cosine(8, 4, 2, width=16).logits(torch.randn(1, 5, 8)).abs().max() <= 2  # at the temperature it starts with
        tensor(True)

    Source: Chi et al., "On the Representation Collapse of Sparse Mixture of Experts" (arXiv 2204.09179);
        microsoft/Tutel, tutel/gates/cosine_top.py; microsoft/Swin-Transformer, models/swin_transformer_moe.py.
    Differs: `softmax` is by default ``after`` for more than one choice, as in `TopK`.
    Cost: (dim + num_experts) x width MACs a token.
    Raises: ValueError as `TopK`, and for a width below 1.
    """

    @with_options_of(TopK)
    def __init__(self, *args, width: Width = 256, **options):
        self.width = width  # before super(): its constructor makes the gate
        super().__init__(*args, **options)

    def _make_gate(self, dim: int, **options) -> nn.Module:
        return CosineGate(dim, self.num_experts, self.width, **options)


class CosineGate(nn.Module):
    """Cosines of a projected token with each expert's direction, over a temperature.

    Shape: ``(*, dim) -> (*, num_experts)``, at least fp32.
    """

    no_decay = ("weight", "similarity", "temperature")
    LEAST_TEMPERATURE = 0.01

    def __init__(self, dim: Width, num_experts: Count, width: Width, *, init: InitLike, device=None, dtype=None):
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        self.init = init
        self.weight = nn.Parameter(torch.empty(width, dim, **dd))
        self.bias = nn.Parameter(torch.empty(width, **dd))
        self.similarity = nn.Parameter(torch.empty(width, num_experts, **dd))
        self.temperature = nn.Parameter(torch.empty(1, **dd))  # log(1 / temperature), as in Tutel
        self.reset_parameters()

    def reset_parameters(self) -> None:
        init_(self.weight, self.bias, self.init)
        nn.init.normal_(self.similarity, std=0.01)
        nn.init.constant_(self.temperature, math.log(1 / 0.5))

    def forward(self, x: Tensor) -> Tensor:
        x = widen(x)
        tokens = F.normalize(F.linear(x, self.weight.to(x.dtype), self.bias.to(x.dtype)), dim=-1)
        scale = self.temperature.to(x.dtype).clamp(max=math.log(1 / self.LEAST_TEMPERATURE)).exp()
        return tokens @ F.normalize(self.similarity.to(x.dtype), dim=0) * scale
