"""Top-k for the important tokens of a group, nothing for the others: the routing of Sparse-MLP."""

import dataclasses
from typing import Literal

import torch
from torch import Tensor

from zoo.blocks.moe import sizes
from zoo.blocks.moe.routers.top_k import TopK
from zoo.blocks.moe.routing import Routing
from zoo.blocks.options import with_options_of
from zoo.checks.ranges import Share
from zoo.slots.table import register


@register("router", "importance")
class Importance(TopK):
    """Top-k for those tokens of a group that are most important to it; the others get no expert.

    The tokens of a group compete: whether a token gets a place depends on the others, and so on the other samples
    unless the layer's `group` is 1. The other arguments are those of `TopK`.

    Args:
        share: Share of the tokens of a group that get places.
        importance: What makes a token important: ``max``, its highest probability of an expert; or ``sum``, that of all
            experts it would choose.
        noise: As in `TopK`.

    Shape: ``(G, S, dim) ->`` a `Routing` of G * S tokens.

    Example:
        >>> (Importance(8, 4, 1, share=0.25)(torch.randn(1, 12, 8)).experts < 4).sum()
        tensor(3)

    Source: Lou et al., "Cross-token Modeling with Conditional Computation" (arXiv 2109.02008); no official code. Scores
        of importance: Riquelme et al., "Scaling Vision with Sparse Mixture of Experts" (arXiv 2106.05974), section 4.1.
    Differs: the paper's abstract names the strategy, and what is here is zoo's reading of it: the scores of the work
        that the paper takes its gates, noise and losses from, with places for a share of the tokens.
    Cost: dim x num_experts MACs a token.
    Raises: ValueError as `TopK`, and for a share that is not in (0, 1] or an unknown importance.
    """

    @with_options_of(TopK, without=["softmax"], noise=1.0, losses=("importance", "load"))
    def __init__(self, *args, share: Share = 0.5, importance: Literal["max", "sum"] = "max", **options):
        super().__init__(*args, softmax="before", **options)
        self.share, self.importance, self.active = share, importance, self.top_k * share

    @property
    def sums_to_one(self) -> bool:
        """Whether the weights of a token have the sum 1, so that equal experts make a dense layer."""
        return self.share == 1 and super().sums_to_one

    def choose(self, logits: Tensor, scores: Tensor) -> Routing:
        wanted = super().choose(logits, scores)
        gates = wanted.gates.detach().unflatten(0, logits.shape[:2])
        score = gates[..., 0] if self.importance == "max" else gates.sum(-1)
        tokens = score.shape[1]
        places = sizes.least(tokens, sizes.most(1, sizes.floor(self.share * sizes.wide(tokens) + 0.5)))
        placed = sizes.highest(score, places).flatten()[:, None]
        experts = torch.where(placed, wanted.experts, self.num_experts)
        return dataclasses.replace(wanted, experts=experts, chosen=score.shape[0] * places * self.top_k, full=False)
