"""Gates by the Gumbel-softmax: the router of GG-MoE."""

import torch
from torch import Tensor
from torch.nn import functional as F

from zoo.blocks.moe.routers.base import Router
from zoo.blocks.moe.routing import Routing
from zoo.blocks.options import placement, with_options_of
from zoo.checks.ranges import Count, Temperature
from zoo.slots.table import register


@register("router", "gumbel")
class Gumbel(Router):
    """Gumbel-softmax over linear logits: random weights in training, in evaluation their mean over fixed draws.

    With `top_k` the number of experts, as in the paper, every expert works on every token. With fewer, a token takes
    the experts with the highest weights.

    Args:
        temperature: Temperature of the Gumbel-softmax: the lower, the closer a weight is to 0 or 1.
        samples: Number of draws in evaluation, the same for every token.
        losses: Names of the losses to report: ``balance``, ``importance``, ``z``, ``concentration``, of the softmax
            without noise.
        init: A scheme of `zoo.blocks.init`.

    Shape: ``(G, S, dim) ->`` a `Routing` of G * S tokens.

    Example:
        >>> router = Gumbel(8, 4, 4)
        >>> router(torch.randn(1, 5, 8)).gates.sum(-1).allclose(torch.ones(5))
        True

    Source: Chernov, "(GG) MoE vs. MLP on Tabular Data" (arXiv 2502.03608).
    Differs: with fewer choices than experts, but more than one, their weights are divided by their sum. The draws of
        the evaluation are the same in every call, so that it is deterministic.
    Cost: dim x num_experts MACs a token.
    Raises: ValueError for a temperature that is not positive, samples below 1, an unknown loss, or a `top_k` that is
        not from 1 to the number of experts.
    """

    @with_options_of(Router)
    def __init__(self, *args, temperature: Temperature = 1.0, samples: Count = 10, **options):
        super().__init__(*args, **options)
        self.temperature, self.samples = temperature, samples
        draws = torch.empty(samples, self.num_experts, **placement(options))
        self.register_buffer("draws", draws, persistent=False)
        self.reset_parameters()

    @property
    def sums_to_one(self) -> bool:
        """Whether the weights of a token have the sum 1, so that equal experts make a dense layer."""
        return self.top_k > 1 or self.num_experts == 1

    def reset_parameters(self) -> None:
        generator = torch.Generator("cpu").manual_seed(0)
        draws = torch.empty(self.draws.shape, device="cpu", dtype=torch.float32)
        self.draws.copy_(-draws.exponential_(generator=generator).log())

    def route(self, logits: Tensor) -> Routing:
        if self.training:
            weights = F.gumbel_softmax(logits, tau=self.temperature)
        else:
            noisy = logits[..., None, :] + self.draws.to(logits.dtype)
            weights = (noisy / self.temperature).softmax(-1).mean(-2)
        gates, experts = weights.topk(self.top_k, -1)
        if 1 < self.top_k < self.num_experts:
            gates = gates / gates.sum(-1, keepdim=True)
        aux = self.common_losses(logits, logits.softmax(-1), experts)
        return self.routing(experts, gates, aux, full=True)
