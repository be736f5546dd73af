"""The mixture of experts as a channel mixer."""

import math
from collections.abc import Sequence
from typing import Annotated

import torch
from torch import Tensor, nn

from zoo.blocks.base import Aux
from zoo.blocks.kernels import cost, guard
from zoo.blocks.kernels.symbolic import as_leaf, is_symbol
from zoo.blocks.linear import Linear
from zoo.blocks.mixer import trait
from zoo.blocks.moe.experts.base import Experts
from zoo.blocks.moe.experts.mixers import MixerExperts
from zoo.blocks.moe.routing import Routing, count_choices, join, make_plan
from zoo.blocks.options import placement, with_options_of
from zoo.checks.ranges import Count, Length, Rate, Width
from zoo.slots import SlotLike, build_block, parse_slot
from zoo.slots.table import blocks_of, register


@register("channel_mixer", "moe")
class MoE(nn.Module):
    """A mixture of experts: each token is worked on by a few of many channel mixers, which a router chooses.

    Args:
        num_experts: Number of experts.
        top_k: Number of experts of a token, where the router does not decide that by itself.
        experts: Slot of the experts, of the kind ``experts`` (``mlp``, ``glu``, …) or any channel mixer; or a list with
            a channel mixer for each expert, repeated as a cycle.
        router: Slot of the kind ``router``.
        dispatch: Slot of the kind ``dispatch``: ``dropless``, or ``capacity(factor=1.25)`` with dropping.
        shared: Slot of a channel mixer that works on every token, besides the chosen experts; None for none.
        group: Number of samples that are routed together; None for the whole batch. It matters to whatever lets tokens
            compete (capacities, expert choice, losses) and to nothing else. With 1, no sample sees another.
        act: Activation slot of the experts that do not set their own; None for what suits them.
        drop: Dropout of the experts that do not set their own.
        init: Initialisation of what does not set its own, a scheme of `zoo.blocks.init`.

    Shape: ``(B, *S, dim) -> (B, *S, dim)`` and the auxiliary outputs: the router's losses; ``stat/load``, the share of
        the choices that each expert got, ``(E,)``; ``stat/dropped``, the share of the choices that were dropped;
        ``stat/entropy``, the entropy of the load over its maximum log E. Keywords go to the router.

    Example:
        >>> y, aux = MoE(16, num_experts=4, experts="glu")(torch.randn(2, 9, 16))
        >>> y.shape, sorted(aux)
        (torch.Size([2, 9, 16]), ['loss/balance', 'loss/z', 'stat/dropped', 'stat/entropy', 'stat/load'])

    Source: Shazeer et al., "Outrageously Large Neural Networks" (arXiv 1701.06538); shared experts from Dai et al.,
        "DeepSeekMoE" (arXiv 2401.06066), equation 9. See the routers, dispatches and experts for theirs.
    Differs: none known.
    Cost: dim x num_experts MACs a token for the router, and those of the experts for each choice that is not empty.
    Raises: ValueError for a slot or option that is unknown, more choices than experts, a list of experts that is empty
        or longer than their number, or a mixture within as an expert or shared; and when it is exported to ONNX.
    """

    follows = ("init", "act", "drop")

    has_aux = True
    only_torch = "it sorts its choices by expert, and multiplies by as many rows as each expert then has"

    @with_options_of(Linear)
    def __init__(
        self,
        dim: Width,
        *,
        num_experts: Count = 8,
        top_k: Count = 2,
        experts: SlotLike | Annotated[Sequence[SlotLike], Length(1, 2**16)] = "mlp",
        router: SlotLike = "top_k",
        dispatch: SlotLike = "dropless",
        shared: SlotLike = None,
        group: Count | None = None,
        act: SlotLike | None = None,
        drop: Rate = 0.0,
        **options,
    ):
        super().__init__()
        self.group = group
        dd, init = placement(options), {"init": options["init"]}
        defaults = {"drop": drop, **init} | ({} if act is None else {"act": act})
        self.router = build_block("router", router, dim, num_experts, top_k, defaults=init, **dd)
        self.dispatch = build_block("dispatch", dispatch, **dd)
        self.experts = build_experts(experts, dim, num_experts, defaults, dd)
        self.experts.active_fraction = self.router.active / num_experts  # what zoo.count_flops reads
        self.shared = build_block("channel_mixer", parse_slot(shared, "shared"), dim, defaults=defaults, **dd)
        if trait(self.shared, "has_aux"):
            name = type(self.shared).__name__
            raise ValueError(
                f"{name} cannot be shared by a mixture; give a channel mixer that returns its output alone"
            )

    @property
    def num_experts(self) -> int:
        """Number of experts that a token can choose from."""
        return self.router.num_experts

    @property
    def keywords(self) -> frozenset[str]:
        """Optional keywords that the router declares."""
        return trait(self.router, "keywords")

    def forward(self, x: Tensor, **keywords) -> tuple[Tensor, Aux]:
        if is_symbol(x):
            return as_leaf(self, x, **keywords)
        wanted, kept = self._route(x, **keywords)
        y = self.experts(x.reshape(-1, x.shape[-1]), make_plan(kept)).view(x.shape)
        if self.shared is not None:
            y = y + self.shared(x)
        return y, wanted.aux | _statistics(wanted, kept)

    def _route(self, x: Tensor, **keywords) -> tuple[Routing, Routing]:
        """The choices of all tokens, routed by group of samples, and what is left of them when some are dropped."""
        if guard.to_onnx():
            raise ValueError(
                f"a mixture of {self.num_experts} experts cannot be exported to ONNX, which cannot sort the choices by "
                "expert; use torch.export.save or torch.compile, or a dense channel_mixer ('mlp', 'glu') for ONNX"
            )
        wanted = [self.router(part, **keywords) for part in self._groups(x)]
        return join(wanted), join([self.dispatch(routing) for routing in wanted])

    def _groups(self, x: Tensor) -> list[Tensor]:
        """The tokens ``(G, S, dim)`` by group of samples; behind them, where samples are left over, a smaller group.

        `torch.jit.trace` has tensors for sizes, which must decide nothing: of groups of several samples a trace holds
        for any number of full groups, or for the number of samples that it was made with, and fails with others.
        """
        samples, tokens, width = x.shape[0] if x.ndim > 1 else 1, math.prod(x.shape[1:-1]), x.shape[-1]
        if isinstance(samples, Tensor) and (cost.counting() or (self.group or 1) > 1 and int(samples) % self.group):
            samples = int(samples)  # a trace that is thrown away, or one for as many samples alone
        traced = isinstance(samples, Tensor)
        alone = 0 if self.group == 1 else self.group  # up to so many samples there is one group, of none too
        if self.group is None or (not traced and samples <= alone):
            return [x.reshape(1, samples * tokens, width)]
        if self.group == 1:
            return [x.reshape(samples, tokens, width)]
        rest = 0 if traced else samples % self.group
        rows = x.reshape(samples * tokens, width)
        parts = [rows[: (samples - rest) * tokens].reshape(samples // self.group, self.group * tokens, width)]
        return [*parts, rows[None, (samples - rest) * tokens :]] if rest else parts


def _statistics(wanted: Routing, kept: Routing) -> Aux:
    load = count_choices(wanted)
    total = load.sum().clamp_min(1)
    share = load / total
    entropy = torch.special.entr(share).sum()
    if wanted.num_experts > 1:
        entropy = entropy / math.log(wanted.num_experts)
    dropped = torch.zeros_like(total) if kept is wanted else 1 - count_choices(kept).sum() / total
    return {"stat/load": share, "stat/dropped": dropped, "stat/entropy": entropy}


def build_experts(slot: SlotLike | list, dim: int, num_experts: int, defaults: dict, dd: dict) -> Experts:
    """The experts of a slot: stacked ones, or a channel mixer for each."""
    if isinstance(slot, (list, tuple)):
        if not 0 < len(slot) <= num_experts:
            raise ValueError(f"moe has a list of {len(slot)} for {num_experts} experts; give one an expert, or a cycle")
        slots = [parse_slot(slot[i % len(slot)], f"experts[{i % len(slot)}]") for i in range(num_experts)]
    else:
        one = parse_slot(slot, "experts")
        if one.name in blocks_of("experts"):
            return build_block("experts", one, dim, num_experts, defaults=defaults, **dd)
        slots = [one] * num_experts
    return MixerExperts([build_block("channel_mixer", one, dim, defaults=defaults, **dd) for one in slots])
