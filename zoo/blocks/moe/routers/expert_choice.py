"""Each expert chooses its tokens, so that all experts get as many."""

import torch
from torch import Tensor

from zoo.blocks.moe import sizes
from zoo.blocks.moe.routers.base import Router, noisy
from zoo.blocks.moe.routing import Routing
from zoo.blocks.options import with_options_of
from zoo.checks.ranges import Count, Deviation, Ratio
from zoo.slots.table import register


@register("router", "expert_choice")
class ExpertChoice(Router):
    """Softmax over linear logits; each expert takes the tokens of a group that want it most, always as many.

    A token may get any number of experts, and none. The tokens of a group compete: what a token gets depends on the
    others, and so on the other samples unless the layer's `group` is 1.

    Args:
        capacity_factor: Tokens that an expert takes over the even share ``S * top_k / E`` of a group of S.
        multiple: The number of tokens is raised to a multiple of this (V-MoE: 4).
        noise: Standard deviation, times the number of experts, of noise on the logits in training.
        losses: Names of the losses to report: ``importance``, ``z``, ``concentration``; the load needs none.
        init: A scheme of `zoo.blocks.init`.

    Shape: ``(G, S, dim) ->`` a `Routing` of G * S tokens with a choice for each expert, or an empty one.

    Example:
        >>> routing = ExpertChoice(8, 4, 1)(torch.randn(1, 12, 8))
        >>> [(routing.experts == e).sum().item() for e in range(4)]
        [3, 3, 3, 3]

    Source: Zhou et al., "Mixture-of-Experts with Expert Choice Routing" (arXiv 2202.09368), section 3.2;
        google-research/vmoe, vmoe/nn/routing.py, whose capacity factor is `top_k` times the one here.
    Differs: the number of tokens is rounded up, and there is no bound on the experts of a token (section 3.3).
    Cost: dim x num_experts MACs a token.
    Raises: ValueError for a capacity factor that is not positive, a multiple below 1, negative noise, an unknown loss,
        or a `top_k` that is not from 1 to the number of experts.
    """

    LOSSES = ("importance", "z", "concentration")

    @with_options_of(Router, losses=())
    def __init__(self, *args, capacity_factor: Ratio = 1.0, multiple: Count = 1, noise: Deviation = 0.0, **options):
        super().__init__(*args, **options)
        self.capacity_factor, self.multiple, self.noise = capacity_factor, multiple, noise
        self.active = min(self.num_experts, self.top_k * capacity_factor)

    def room(self, tokens: sizes.Size) -> sizes.Size:
        """Number of tokens that an expert takes from a group of so many."""
        room = sizes.ceil(sizes.wide(tokens) * self.top_k * self.capacity_factor / self.num_experts)
        return sizes.least(tokens, sizes.ceil_of_quotient(room, self.multiple) * self.multiple)

    def route(self, logits: Tensor) -> Routing:
        return self.choose(logits, noisy(logits, self.noise, self.training))

    def choose(self, logits: Tensor, scores: Tensor) -> Routing:
        """The choices by noisy logits, and losses by the clean ones; both ``(G, S, E)``."""
        probs = scores.softmax(-1)
        room = self.room(probs.shape[1])
        ranked, experts = torch.where(sizes.highest(probs, room), probs, -1.0).sort(dim=-1, descending=True)
        empty = ranked < 0
        experts = experts.masked_fill(empty, self.num_experts)
        aux = self.common_losses(logits, probs if scores is logits else logits.softmax(-1), experts)
        chosen = probs.shape[0] * room * self.num_experts
        return self.routing(experts, ranked.masked_fill(empty, 0.0), aux, chosen=chosen)
