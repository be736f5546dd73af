"""What passes between the parts of a mixture: a router's choices, and the rows of tokens that follow from them."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from zoo.blocks.base import Aux
from zoo.blocks.kernels import guard


@dataclass(frozen=True)
class Routing:
    """A router's choices for T tokens, up to K each.

    Attributes:
        experts: ``(T, K)``, the expert of each choice, the most wanted first; ``num_experts``, one more than the last,
            where there is none. A token never chooses an expert twice.
        gates: ``(T, K)``, the weight of each choice's output; differentiable.
        num_experts: Number of experts.
        groups: Number of groups of equal size that the tokens, in their order, belong to; capacities hold for a group.
        chosen: Number of choices that are not empty, if that does not depend on the values.
        full: Whether no choice is ever empty, whatever the values and sizes.
        priority: ``(T,)``, who goes first where not all find room; None for the weight of the first choice.
        aux: Losses ``loss/<name>`` of the router.
    """

    experts: Tensor
    gates: Tensor
    num_experts: int
    groups: int = 1
    chosen: int | None = None
    full: bool = False
    priority: Tensor | None = None
    aux: Aux = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """The rows that the experts work on: copies of tokens, those of one expert behind those of another.

    Attributes:
        token: ``(R,)``, the token of each row; within an expert in the order of the tokens, each at most once.
        gate: ``(R,)``, the weight of each row's output; differentiable.
        ends: ``(E,)`` int32, where the rows of each expert end.
        full: Whether the last expert ends with the last row. If not, the rows behind belong to nobody.
        row: ``(T, K)`` int32, the row of each choice, where no choice is empty; None otherwise.
    """

    token: Tensor
    gate: Tensor
    ends: Tensor
    full: bool = True
    row: Tensor | None = None


def join(parts: Sequence[Routing]) -> Routing:
    """The choices of tokens that were routed apart, one part behind the other; of losses the mean over the groups."""
    if len(parts) == 1:
        return parts[0]
    groups = sum(part.groups for part in parts)
    known = all(part.chosen is not None for part in parts)
    return Routing(
        torch.cat([part.experts for part in parts]),
        torch.cat([part.gates for part in parts]),
        parts[0].num_experts,
        groups,
        sum(part.chosen for part in parts) if known else None,
        all(part.full for part in parts),
        None if parts[0].priority is None else torch.cat([part.priority for part in parts]),
        {key: sum(part.aux[key] * part.groups for part in parts) / groups for key in parts[0].aux},
    )


def make_plan(routing: Routing) -> Plan:
    """Sort the choices by expert.

    The order is fixed by the choices alone. Nothing waits for the host, unless the number of rows depends on the values
    (dropped choices, a router with as many experts as it likes): then that one number is fetched, to leave the empty
    rows out. Where values cannot be read, as in a compiled program, they are carried along instead.
    """
    experts = routing.experts.flatten()
    order, ends = torch.sort(experts, stable=True).indices, _counts(routing, torch.int32).cumsum(0, dtype=torch.int32)
    rows, row = order.shape[0] if routing.full else routing.chosen, None
    if rows is None and guard.readable(order):
        rows = int(ends[-1])
    if routing.full or (not guard.recording() and rows == order.shape[0]):  # while recording, sizes decide nothing
        number = torch.arange(order.shape[0], dtype=torch.int32, device=order.device)
        row = torch.empty_like(number).scatter(0, order, number).view_as(routing.experts)
    elif isinstance(rows, torch.SymInt):  # torch.export cannot prove that there are as many
        rows = None
    elif rows is not None:
        order = order[:rows]
    gate = routing.gates.flatten().index_select(0, order)
    return Plan(order // routing.experts.shape[1], gate, ends, rows is not None, row)


def count_choices(routing: Routing) -> Tensor:
    """Number of choices of each expert, ``(E,)``, in fp32."""
    return _counts(routing, torch.float32)


def _counts(routing: Routing, dtype: torch.dtype) -> Tensor:
    experts = routing.experts.flatten()
    hits = torch.zeros(routing.num_experts + 1, dtype=dtype, device=experts.device)
    return hits.scatter_add(0, experts, torch.ones_like(experts, dtype=dtype))[:-1]
