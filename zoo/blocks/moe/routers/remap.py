"""Routers whose experts were removed or split after training."""

import dataclasses
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from zoo.blocks.mixer import trait
from zoo.blocks.moe.routers.base import Router
from zoo.blocks.moe.routing import Routing
from zoo.blocks.options import placement, with_options_of
from zoo.blocks.protocol import own
from zoo.blocks.tables import Tables
from zoo.checks.ranges import Count, Index, Width
from zoo.slots import SlotLike, build_block
from zoo.slots.table import register


@register("router", "remap")
class Remap(Tables):
    """Another router, whose choices are passed on to other experts: what `zoo.prune_experts` and `zoo.add_expert` make.

    The router inside goes on as it was trained, with the experts that it knew. A choice of one that was removed is
    empty and adds nothing, but its logit still has its share in a softmax. A choice of one that was split goes to the
    one or the other half, by the side of a plane on which the token lies. So every router stays exact.

    Args:
        router: Slot of the router inside.
        scored: Number of experts that it knows; by default as many as are kept.
        kept: Those of them that are left, in ascending order, and are the first experts here; None for all.
        split: For each further expert here the one, among those before, that it was split off.
        init: Initialisation of the router inside.

    Shape: ``(G, S, dim) ->`` a `Routing` of G * S tokens.

    Example:
        >>> router = Remap(8, 3, 1, router="top_k(softmax='before')", scored=4, kept=(0, 2), split=(1,))
        >>> router(torch.randn(1, 5, 8)).num_experts
        3

    Source: zoo's own; the planes that `zoo.add_expert` makes are those of Boley, "Principal Direction Divisive
        Partitioning" (Data Mining and Knowledge Discovery 2, 1998).
    Differs: nothing to differ from.
    Cost: that of the router inside; element-wise products for each expert that was split off.
    Raises: ValueError if the experts named do not add up to `num_experts`, or one of them is not there.
    """

    follows = ("init",)
    reports = ("stat/load",)

    @with_options_of(Router, without=["losses"])
    def __init__(
        self,
        dim: Width,
        num_experts: Count,
        top_k: Count,
        *,
        router: SlotLike = "top_k",
        scored: Count | None = None,
        kept: tuple[Index, ...] | None = None,
        split: tuple[Index, ...] = (),
        **options,
    ):
        super().__init__()
        kept = tuple(range(num_experts - len(split)) if kept is None else kept)
        scored = len(kept) if scored is None else scored
        if len(kept) + len(split) != num_experts:
            raise ValueError(f"remap keeps {len(kept)} experts and splits {len(split)} off, not {num_experts} in all")
        if list(kept) != sorted(set(kept) & set(range(scored))):
            raise ValueError(f"remap has kept={kept}; it must be ascending numbers below scored={scored}")
        for place, source in enumerate(split, len(kept)):
            if source not in range(place):
                raise ValueError(f"remap splits expert {place} off {source}, which must be one of the {place} before")
        self.num_experts, self.top_k, self.kept, self.split = num_experts, top_k, kept, tuple(split)
        dd, init = placement(options), {"init": options["init"]}
        self.router = build_block("router", router, dim, scored, top_k, defaults=init, **dd)
        self.active = min(self.router.active, num_experts)
        self.table = None
        if len(kept) < scored:
            self.set_tables(table=torch.empty(scored + 1, dtype=torch.long, device=dd["device"]))
        self.register_buffer("planes", torch.empty(len(split), dim, **dd) if split else None)
        self.register_buffer("offsets", torch.empty(len(split), **dd) if split else None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Until planes are given, the experts that were split off get nothing."""
        if self.table is not None:
            self.table.fill_(self.num_experts)
            for place, expert in enumerate(self.kept):
                self.table[expert] = place
        if self.planes is not None:
            self.planes.zero_()
            self.offsets.zero_()

    @property
    def keywords(self) -> frozenset[str]:
        """Optional keywords that the router inside declares."""
        return trait(self.router, "keywords")

    @property
    def after_step(self) -> Callable[[Mapping[str, Tensor]], None] | None:
        """What the router inside does after a step, by the loads of its own experts; None if it does nothing then."""
        return self._after_step if own(self.router, "after_step") else None

    def _after_step(self, aux: Mapping[str, Tensor]) -> None:
        self.router.after_step({**aux, "stat/load": self._scored_load(aux["stat/load"])})

    @property
    def balance(self) -> Callable[[Tensor, float | None], None] | None:
        """What moves the biases of the router inside, by the load of the experts here; None if it has none."""
        return self._balance if own(self.router, "balance") else None

    def _balance(self, load: Tensor, rate: float | None = None) -> None:
        self.router.balance(self._scored_load(load), rate)

    def _scored_load(self, load: Tensor) -> Tensor:
        """The load of the experts that the router inside knows, of the load of those that are here."""
        known = list(self.kept)
        for source in self.split:
            known.append(known[source])
        places = torch.tensor(known, device=load.device)
        return load.new_zeros(self.router.num_experts).index_add(0, places, load)

    def forward(self, x: Tensor, **keywords) -> Routing:
        routing = self.router(x, **keywords)
        experts, empty = routing.experts, routing.num_experts
        if self.table is not None:
            experts = self.table.to(experts.device)[experts]
        elif self.split:
            experts = torch.where(experts == empty, self.num_experts, experts)
        tokens = x.flatten(0, 1)
        for i, source in enumerate(self.split):
            beyond = (tokens.float() * self.planes[i]).sum(-1) > self.offsets[i]
            experts = torch.where((experts == source) & beyond[:, None], len(self.kept) + i, experts)
        kept = {} if self.table is None else {"chosen": None, "full": False}
        return dataclasses.replace(routing, experts=experts, num_experts=self.num_experts, **kept)
