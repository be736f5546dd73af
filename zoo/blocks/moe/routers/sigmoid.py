"""Sigmoid scores, balanced by a bias on the choice instead of a loss: the router of DeepSeek-V3."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from zoo.blocks.moe.routers.base import Router
from zoo.blocks.moe.routing import Routing
from zoo.blocks.options import with_options_of
from zoo.checks.ranges import Deviation, Scale
from zoo.slots.table import register


@register("router", "sigmoid")
class Sigmoid(Router):
    """Sigmoids of linear logits; each token takes the `top_k` experts with the highest sum of score and bias.

    The bias is no parameter: `after_step` moves it after each step of the optimizer, up where an expert got less than
    its share and down where it got more. Zoo's trainings call it; in other loops `zoo.tools.moe.balance.rebalance`
    does the same. The bias acts on the choice alone, not on the weights, and is kept in fp32 whatever the model is
    moved to.

    Args:
        normalize: The weights of a token are divided by their sum; by default where there is more than one, since a
            single weight would be 1 and teach nothing.
        scale: Factor on the weights.
        rate: Step of the bias.
        losses: Names of the losses to report, of scores that are divided by their sum: ``balance`` (with the layer's
            ``group=1`` the sequence-wise balance loss of the paper), ``importance``, ``z``, ``concentration``.
        init: A scheme of `zoo.blocks.init`.

    Shape: ``(G, S, dim) ->`` a `Routing` of G * S tokens.

    Example:
        >>> router = Sigmoid(8, 4, 2)
        >>> router.bias += torch.tensor([9.0, 0.0, 9.0, 0.0])
        >>> router(torch.randn(1, 5, 8)).experts.unique()
        tensor([0, 2])

    Source: DeepSeek-AI, "DeepSeek-V3 Technical Report" (arXiv 2412.19437), equations 12 to 20; Wang et al.,
        "Auxiliary-Loss-Free Load Balancing Strategy for Mixture-of-Experts" (arXiv 2408.15664), algorithm 1.
    Differs: experts are not grouped by the machines they are on.
    Cost: dim x num_experts MACs a token.
    Raises: ValueError for a negative rate, an unknown loss, or a `top_k` that is not from 1 to the number of experts.
    """

    @with_options_of(Router, losses=())
    def __init__(self, *args, normalize: bool | None = None, scale: Scale = 1.0, rate: Deviation = 0.001, **options):
        super().__init__(*args, **options)
        self.normalize, self.scale, self.rate = self.top_k > 1 if normalize is None else normalize, scale, rate
        self.register_buffer("bias", torch.empty(self.num_experts, device=options.get("device"), dtype=torch.float32))
        self.reset_parameters()

    @property
    def sums_to_one(self) -> bool:
        """Whether the weights of a token have the sum 1, so that equal experts make a dense layer."""
        return self.normalize and self.scale == 1

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.bias)

    def after_step(self, aux: Mapping[str, Tensor]) -> None:
        """Balance by the load of the step, see `zoo.blocks.protocol`."""
        self.balance(aux["stat/load"])

    def balance(self, load: Tensor, rate: float | None = None) -> None:
        """Move the bias by `rate` towards an even load, up or down, however large the difference.

        Args:
            load: The share of each expert, or a multiple of it.
            rate: Step of the bias, instead of the router's own.
        """
        if load.shape != self.bias.shape:
            raise ValueError(f"the load is of {load.numel()} experts, and the router has {len(self.bias)}")
        self.bias.add_((load.mean() - load).sign(), alpha=self.rate if rate is None else rate)

    def route(self, logits: Tensor) -> Routing:
        scores = logits.sigmoid()
        experts = (scores.detach() + self.bias).topk(self.top_k, -1).indices
        gates = scores.gather(-1, experts)
        if self.normalize:
            gates = gates / gates.sum(-1, keepdim=True).clamp_min(1e-20)
        aux = self.common_losses(logits, scores / scores.sum(-1, keepdim=True).clamp_min(1e-20), experts)
        return self.routing(experts, gates * self.scale, aux, full=True)

    def _apply(self, fn, recurse=True):
        bias = self.bias
        super()._apply(fn, recurse)
        if self.bias.dtype is not torch.float32:  # bf16 would swallow the steps
            self.bias = bias.to(self.bias.device)
        return self
