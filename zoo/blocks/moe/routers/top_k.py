"""Each token goes to the experts with its highest scores: the router of V-MoE, Swin-MoE, Mixtral and Switch."""

from typing import Literal

import torch
from torch import Tensor

from zoo.blocks.base import Aux
from zoo.blocks.moe import losses
from zoo.blocks.moe.routers.base import Router, log_sum, noisy, softmax
from zoo.blocks.moe.routing import Routing
from zoo.blocks.options import with_options_of
from zoo.checks.ranges import Deviation
from zoo.slots.table import register


@register("router", "top_k")
class TopK(Router):
    """Softmax over linear logits; each token takes the `top_k` experts with the highest.

    Args:
        softmax: ``after`` the choice, over the chosen logits alone, so that the weights of a token have the sum 1
            (Mixtral; the same as dividing by the sum of the chosen); or ``before`` it, over all experts (V-MoE, Tutel,
            Switch). By default ``after``, but ``before`` for a `top_k` of 1, whose weight would be 1 and teach nothing.
        noise: Standard deviation, times the number of experts, of noise on the logits in training; choice and weights
            follow the noisy logits, the losses `importance` and `z` the clean ones.
        losses: Names of the losses to report: ``balance``, ``importance``, ``z``, ``concentration``, and where there is
            noise ``load`` (in training) and ``load_importance``: the mean of both as Tutel has it, with unbiased
            variances, and with probabilities where `load` compares logits with the noisy logit of the last choice.
        init: A scheme of `zoo.blocks.init`.

    Shape: ``(G, S, dim) ->`` a `Routing` of G * S tokens.

    Example:
        >>> TopK(8, 4, 2)(torch.randn(1, 5, 8)).experts.shape
        torch.Size([5, 2])

    Source: Riquelme et al., "Scaling Vision with Sparse Mixture of Experts" (arXiv 2106.05974), equation 2 and appendix
        A; Jiang et al., "Mixtral of Experts" (arXiv 2401.04088), section 2.1; google-research/vmoe, vmoe/nn/routing.py;
        microsoft/Tutel, tutel/impls/moe_layer.py and losses.py.
    Differs: none known.
    Cost: dim x num_experts MACs a token.
    Raises: ValueError for an unknown softmax or loss, negative noise, a loss of the load without noise, or a `top_k`
        that is not from 1 to the number of experts.
    """

    LOSSES = (*Router.LOSSES, "load", "load_importance")

    @with_options_of(Router)
    def __init__(self, *args, softmax: Literal["before", "after"] | None = None, noise: Deviation = 0.0, **options):
        super().__init__(*args, **options)
        for name in self.losses:
            if noise == 0 and name in ("load", "load_importance"):
                raise ValueError(f"the loss {name!r} is about chances under noise; set noise=1.0 or leave it out")
        self.softmax, self.noise = softmax or ("before" if self.top_k == 1 else "after"), noise

    @property
    def sums_to_one(self) -> bool:
        """Whether the weights of a token have the sum 1, so that equal experts make a dense layer."""
        return self.softmax == "after" or self.top_k == self.num_experts

    def route(self, logits: Tensor) -> Routing:
        return self.choose(logits, noisy(logits, self.noise, self.training))

    def choose(self, logits: Tensor, scores: Tensor) -> Routing:
        """The choices by noisy logits, and losses that know the clean ones too; both ``(G, S, E)``."""
        total = log_sum(scores)
        probs = softmax(scores, total)
        top, experts = (probs if self.softmax == "before" else scores).topk(self.top_k, -1)
        gates = top if self.softmax == "before" else softmax(top)
        priority = None if self.softmax == "before" else probs.detach().gather(-1, experts[..., :1])
        aux = self._losses(logits, scores, probs, experts, total)
        return self.routing(experts, gates, aux, full=True, priority=priority)

    def _losses(self, logits: Tensor, scores: Tensor, probs: Tensor, experts: Tensor, total: Tensor) -> Aux:
        clean, total = (probs, total) if scores is logits else (softmax(logits), None)
        aux = self.common_losses(logits, clean, experts, total)
        if "load" in self.losses and scores is not logits:
            aux["loss/load"] = self._variation(self.chances(logits, scores, experts))
        if "load_importance" in self.losses:
            load = self._variation(self.chances(clean, scores, experts), unbiased=True)
            aux["loss/load_importance"] = (load + self._variation(clean, unbiased=True)) / 2
        return aux

    def _variation(self, x: Tensor, unbiased: bool = False) -> Tensor:
        return losses.squared_variation(losses.token_mean(x, self.over), unbiased)

    def chances(self, values: Tensor, scores: Tensor, experts: Tensor) -> Tensor:
        """Chance of each expert's value, with new noise, to reach a token's last chosen score, ``(G, S, E)``."""
        threshold = scores.gather(-1, experts[..., -1:])
        return torch.special.ndtr((values - threshold) * (self.num_experts / self.noise))
