"""As many experts as a token has positive scores: the router of BlockFFN."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.blocks.base import Aux
from zoo.blocks.moe import losses
from zoo.blocks.moe.routers.base import Router
from zoo.blocks.moe.routing import Routing
from zoo.blocks.options import placement, with_options_of
from zoo.checks.ranges import PositiveEps
from zoo.slots.table import register


@register("router", "relu")
class ReLU(Router):
    """ReLU of linear logits, then an RMS norm over the experts; a token takes every expert with a positive score.

    The choice is differentiable, and its size is learnt: `top_k` is only what the loss `l1` aims at. At the start about
    half of the experts are active.

    Args:
        eps: What the norm adds to the mean square.
        losses: Names of the losses to report: ``l1``, the mean score of each expert times the tokens it got over
            ``S * top_k / E``; ``balance``, ``importance``, ``concentration``, of scores that are divided by their sum.
        init: A scheme of `zoo.blocks.init`.

    Shape: ``(G, S, dim) ->`` a `Routing` of G * S tokens with a choice for each expert, or an empty one.

    Example:
        >>> routing = ReLU(8, 4, 2)(torch.randn(1, 5, 8))
        >>> ((routing.gates > 0) == (routing.experts < 4)).all()
        tensor(True)

    Source: Song et al., "BlockFFN" (arXiv 2507.08771); thunlp/BlockFFN, pretrain/cpm/dragonfly/blockffn.py; the loss
        `l1` from Wang et al., "ReMoE" (arXiv 2412.14711); thunlp/BlockFFN, baseline/cpm/dragonfly/activation.py.
    Differs: the losses of BlockFFN on neighbouring tokens of a text are left out, and the weight of `l1` is not adapted
        in training.
    Cost: dim x num_experts MACs a token.
    Raises: ValueError for an `eps` that is not positive, an unknown loss, or a `top_k` that is not from 1 to the number
        of experts.
    """

    LOSSES = ("l1", "balance", "importance", "concentration")
    no_decay = ("weight",)

    @with_options_of(Router, losses=("l1", "balance"))
    def __init__(self, *args, eps: PositiveEps = 1e-5, **options):
        super().__init__(*args, **options)
        self.eps, self.active = eps, self.num_experts
        self.weight = nn.Parameter(torch.empty(self.num_experts, **placement(options)))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.ones_(self.weight)

    def route(self, logits: Tensor) -> Routing:
        scores = logits.relu()
        ranked, order = scores.detach().sort(dim=-1, descending=True)
        experts = order.masked_fill(ranked <= 0, self.num_experts)
        gates = F.rms_norm(scores, (self.num_experts,), self.weight.to(scores.dtype), self.eps).gather(-1, order)
        return self.routing(experts, gates, self._losses(logits, scores, experts))

    def _losses(self, logits: Tensor, scores: Tensor, experts: Tensor) -> Aux:
        aux = self.common_losses(logits, scores / scores.sum(-1, keepdim=True).clamp_min(1e-10), experts)
        if "l1" in self.losses:
            active = losses.token_mean((scores > 0).to(scores.dtype), self.over)
            aux["loss/l1"] = losses.switch_balance(losses.token_mean(scores, self.over), active / self.top_k)
        return aux
