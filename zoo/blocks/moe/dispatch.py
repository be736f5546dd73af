"""Which of the choices are carried out: all of them, or as many as each expert has room for."""

import dataclasses
from typing import Literal

import torch
from torch import Tensor, nn

from zoo.blocks.kernels import guard
from zoo.blocks.moe import sizes
from zoo.blocks.moe.routing import Routing
from zoo.checks.ranges import Count, Ratio
from zoo.slots.table import register


@register("dispatch", "dropless")
class Dropless(nn.Module):
    """Every choice is carried out, however many tokens an expert gets.

    Shape: a `Routing` ``->`` the same.

    Source: Gale et al., "MegaBlocks" (arXiv 2211.15841), section 4.
    Differs: nothing is padded to blocks of 128.
    Cost: no MACs.
    """

    def __init__(self, *, device=None, dtype=None):
        super().__init__()

    def forward(self, routing: Routing) -> Routing:
        return routing


@register("dispatch", "capacity")
class Capacity(nn.Module):
    """Each expert has room for so many tokens of a group; the choices beyond are dropped and add nothing.

    All first choices are placed before any second choice.

    Args:
        factor: Room of an expert over its even share ``S * K / E`` of a group's choices; in evaluation `eval_factor`,
            by default the same.
        rule: ``ceil``: ``ceil(factor * S * K / E)`` (V-MoE); ``tutel``: ``K * int(factor * ceil(S / E))``.
        multiple: The room is raised to a multiple of this (V-MoE: 4).
        priority: Who is placed first within a choice: ``position``, the earlier token; or ``gate``, the token that the
            router gives the higher priority, the probability of its first choice (batch prioritised routing).

    Shape: a `Routing` ``->`` one whose dropped choices are empty.

    Example:
        >>> routing = Routing(torch.tensor([[1], [1], [0]]), torch.tensor([[0.6], [0.9], [0.5]]), num_experts=2)
        >>> [Capacity(factor=0.5, priority=p)(routing).experts.flatten().tolist() for p in ("position", "gate")]
        [[1, 2, 0], [2, 1, 0]]

    Source: Riquelme et al., "Scaling Vision with Sparse Mixture of Experts" (arXiv 2106.05974), sections 2.4 and 4.1;
        google-research/vmoe, vmoe/moe.py; microsoft/Tutel, tutel/impls/fast_dispatch.py.
    Differs: dropped choices are not computed, and there are no empty places in buffers.
    Cost: no MACs.
    Raises: ValueError for a factor that is not positive or an unknown rule or priority.
    """

    def __init__(
        self,
        *,
        factor: Ratio = 1.25,
        eval_factor: Ratio | None = None,
        rule: Literal["ceil", "tutel"] = "ceil",
        multiple: Count = 1,
        priority: Literal["position", "gate"] = "position",
        device=None,
        dtype=None,
    ):
        super().__init__()
        self.factor, self.eval_factor = factor, factor if eval_factor is None else eval_factor
        self.rule, self.multiple, self.priority = rule, multiple, priority

    def room(self, tokens: sizes.Size, choices: int, num_experts: int) -> sizes.Size:
        """Places of an expert for a group of so many tokens with so many choices each."""
        factor, tokens = self.factor if self.training else self.eval_factor, sizes.wide(tokens)
        if self.rule == "ceil":
            room = sizes.ceil(tokens * choices * factor / num_experts)
        else:
            room = choices * sizes.floor(factor * sizes.wide(sizes.ceil_of_quotient(tokens, num_experts)))
        return sizes.ceil_of_quotient(room, self.multiple) * self.multiple

    def forward(self, routing: Routing) -> Routing:
        experts = routing.experts.unflatten(0, (routing.groups, -1))  # (G, S, K)
        groups, tokens, choices = experts.shape
        room = self.room(tokens, choices, routing.num_experts)
        if not guard.recording() and room >= tokens:  # while recording, sizes decide nothing
            return routing
        if self.priority == "gate":
            priority = routing.gates[:, 0] if routing.priority is None else routing.priority
            order = priority.detach().unflatten(0, (routing.groups, -1)).argsort(dim=-1, descending=True, stable=True)
            ranked = experts.gather(1, order[..., None].expand_as(experts))
        else:
            order, ranked = None, experts
        places = _places(ranked.transpose(1, 2).flatten(1), routing.num_experts).unflatten(1, (choices, tokens))
        places = places.transpose(1, 2)
        if order is not None:
            places = torch.empty_like(places).scatter(1, order[..., None].expand_as(places), places)
        kept = torch.where(places < room, experts, routing.num_experts)
        return dataclasses.replace(routing, experts=kept.flatten(0, 1), chosen=None, full=False)


def _places(experts: Tensor, num_experts: int) -> Tensor:
    """How many of the same group came to the same expert before, ``(G, N) -> (G, N)``."""
    order = experts.argsort(dim=-1, stable=True)
    counts = experts.new_zeros(experts.shape[0], num_experts + 1).scatter_add(1, experts, torch.ones_like(experts))
    starts = counts.cumsum(1) - counts
    places = torch.arange(experts.shape[1], device=experts.device) - starts.gather(1, experts.gather(1, order))
    return torch.empty_like(places).scatter(1, order, places)
