"""Perceptrons of a mixture of experts on the CPU: gather, two products, activation, weights, sum, expert by expert.

In single steps each of these is a pass over all rows in memory. Here an expert's rows go through all of them while they
are in the caches, in memory that the next expert uses again, and the weighted sum of a token's rows is one pass.
Wherever anything else may watch, or the activation is not one of `ACTS`, `usable` says no.

Torch's own products write where they are told. Those of `onednn` have the bias and the activation inside, but bring
each expert's weights into another order first and their results into fresh memory. On Intel's processors that costs
more than it saves (a tenth of a layer of 8 experts with 512 rows each, in fp32); on AMD's (Zen 4) it saves more.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.blocks.kernels import cost, grouped, guard, onednn
from zoo.blocks.kernels.autograd import gradients
from zoo.blocks.kernels.grouped import spans

_aten = torch.ops.aten

# By class: the activation into a tensor, its gradient in the place of the result's, and its name to oneDNN.
ACTS: dict[type[nn.Module], tuple[Callable, Callable, str]] = {
    nn.GELU: (
        lambda x, act, out: _aten.gelu.out(x, approximate=act.approximate, out=out),
        lambda grad, x, act: _aten.gelu_backward.grad_input(grad, x, approximate=act.approximate, grad_input=grad),
        "gelu",
    ),
    nn.SiLU: (
        lambda x, act, out: _aten.silu.out(x, out=out),
        lambda grad, x, act: _aten.silu_backward.grad_input(grad, x, grad_input=grad),
        "swish",
    ),
    nn.ReLU: (
        lambda x, act, out: _aten.relu.out(x, out=out),
        lambda grad, x, act: _aten.threshold_backward.grad_input(grad, x, 0, grad_input=grad),
        "relu",
    ),
}

# What torch says of the processor; older versions say nothing.
BY_ONEDNN = "intel" not in str(getattr(torch.cpu, "get_capabilities", dict)().get("cpu_name", "")).lower()


class Plan(Protocol):
    """What is asked of a plan of rows, `zoo.blocks.moe.routing.Plan`."""

    token: Tensor
    gate: Tensor
    ends: Tensor
    full: bool
    row: Tensor | None


class Stacked(Protocol):
    """What is asked of the layers of all experts."""

    weight: Tensor
    bias: Tensor | None


Map = tuple[Tensor, Tensor | None]  # weight and bias
Single = Callable[[Tensor, Plan], Tensor]  # the mixture in single steps


def mixture(x: Tensor, plan: Plan, fc1: Stacked, fc2: Stacked, act: nn.Module, gated: bool, plain: Single) -> Tensor:
    """The perceptrons of a mixture, whose layers nobody hooks into.

    Args:
        x: Tokens ``(T, C)``.
        plan: The rows that the experts work on.
        fc1, fc2, act, gated: As for `perceptrons`.
        plain: The same in single steps, which counters, compilers and exporters see.

    Shape: ``(T, C) -> (T, C)``.
    """
    if cost.counting():
        return plain(x, plan)
    x, *maps = grouped.cast(x, fc1.weight, fc1.bias, fc2.weight, fc2.bias)
    if not usable(x, act, [t for t in maps if t is not None]):
        return plain(x, plan)
    return perceptrons(x, plan, (*maps[:2],), (*maps[2:],), act, gated)


def combine(y: Tensor, plan: Plan, tokens: int) -> Tensor:
    """The sum of each token's rows by their weights, ``(R, dim) -> (tokens, dim)``, always in the same order."""
    if y.device.type == "cpu" and plan.full and guard.plain(y, plan.gate) and not guard.differentiated(y, plan.gate):
        return weighted_sum(y, plan.token, plan.gate, plan.row, tokens)  # one pass instead of three
    return plain_combine(y, plan, tokens)


def plain_combine(y: Tensor, plan: Plan, tokens: int) -> Tensor:
    """`combine` in single steps."""
    y = y * plan.gate.to(y.dtype)[:, None]
    if plan.row is not None:
        return y.index_select(0, plan.row.flatten()).unflatten(0, plan.row.shape).sum(1)
    if not plan.full:
        y = torch.where(torch.arange(y.shape[0], device=y.device)[:, None] < plan.ends[-1], y, 0)
    out = y.new_zeros(tokens, y.shape[1])
    if y.device.type == "cpu":
        return out.index_add(0, plan.token, y)
    return out.index_put((plan.token,), y, accumulate=True)  # index_add adds in an order of chance on a GPU


def usable(x: Tensor, act: nn.Module, weights: Sequence[Tensor]) -> bool:
    """Whether `perceptrons` may stand for the single steps here and now."""
    return (
        guard.plain(x, *weights)
        and type(act) in ACTS
        and x.device.type == "cpu"
        and x.dtype in (torch.float32, torch.bfloat16)
        and all(w.dtype == x.dtype for w in weights)
    )


def perceptrons(x: Tensor, plan: Plan, fc1: Map, fc2: Map, act: nn.Module, gated: bool) -> Tensor:
    """The sum over a token's rows of ``gate * fc2(act(fc1(x)))``; if `gated`, ``a, b = fc1(x)`` and ``act(a) * b``.

    Args:
        x: Tokens ``(T, C)``.
        plan: The rows that the experts work on, sorted by expert.
        fc1, fc2: Weight and bias of all experts: ``(E, H, C)`` and ``(E, H)``, twice as many rows if `gated`; and
            ``(E, C, H)`` and ``(E, C)``.

    Shape: ``(T, C) -> (T, C)``.
    """
    parameters, rows = (*fc1, *fc2), (plan.token, plan.gate, plan.ends, plan.row)
    if guard.differentiated(x, plan.gate, *parameters):
        return _Perceptrons.apply(x, *rows, act, gated, *parameters)
    return _forward(x, *rows, act, gated, parameters, None)


def _forward(x, token, gate, ends, row, act, gated, parameters, kept: list[Tensor] | None) -> Tensor:
    """What the backward pass needs goes into the list, if there is one: for each expert what comes before the
    activation, what comes behind it, and what that is multiplied by if `gated`; at the end the outputs of all rows."""
    w1, b1, w2, b2 = parameters
    half, experts, run = w2.shape[2], spans(ends), ACTS[type(act)][0]
    first, second = _maps(w1[:, :half], b1 if b1 is None else b1[:, :half]), _maps(w2, b2)
    times = _maps(w1[:, half:], b1 if b1 is None else b1[:, half:]) if gated else None
    most = max((end - start for _, start, end in experts), default=0)
    inputs, y = x.new_empty(most, x.shape[1]), x.new_empty(token.shape[0], x.shape[1])
    size = most if kept is None else token.shape[0]
    a, b, active = (x.new_empty(size if needed else 0, half) for needed in (True, gated, kept is not None))
    for e, start, end in experts:
        here = slice(end - start) if kept is None else slice(start, end)
        rows = torch.index_select(x, 0, token[start:end], out=inputs[: end - start])
        if kept is None:
            hidden = _product(rows, *first[e], a[here], act)
            if times is not None:
                hidden = _product_times(rows, *times[e], b[here], hidden)
        else:
            before = _product(rows, *first[e], a[here])
            hidden = run(before, act, active[here])
            kept += [before, hidden]
            if times is not None:
                kept.append(_product(rows, *times[e], b[here]))
                hidden = hidden * kept[-1]
        by_second = _product(hidden, *second[e], y[start:end])
        if BY_ONEDNN:
            y[start:end] = by_second
    if kept is not None:
        kept.append(y)
    return weighted_sum(y, token, gate, row, x.shape[0])


def _maps(weight: Tensor, bias: Tensor | None) -> list[Map]:
    """Weight and bias of each expert."""
    weights = weight.unbind()
    return list(zip(weights, [None] * len(weights) if bias is None else bias.unbind(), strict=True))


def weighted_sum(y: Tensor, token: Tensor, gate: Tensor | None, row: Tensor | None, tokens: int) -> Tensor:
    """The sum of each token's rows ``(R, C) -> (T, C)``, by their weights if given."""
    if row is not None and len(y):
        weights = None if gate is None else gate.to(y.dtype).index_select(0, row.flatten()).view_as(row)
        return F.embedding_bag(row, y, mode="sum", per_sample_weights=weights)
    if gate is not None:
        y = y * gate[:, None].to(y.dtype)
    return y.new_zeros(tokens, y.shape[1]).index_add(0, token, y)


def _product(x: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor, act: nn.Module | None = None) -> Tensor:
    """``F.linear``, and an activation behind it: in `out`, or by oneDNN in a tensor of its own."""
    if BY_ONEDNN and onednn.usable(x, weight):
        name = "none" if act is None else ACTS[type(act)][2]
        return onednn.linear(x, weight, bias, name, act.approximate if name == "gelu" else "")
    if bias is not None and x.dtype is torch.bfloat16:  # one rounding
        torch.addmm(bias, x, weight.t(), out=out)
    else:  # addmm would fill `out` with the bias, and then read it again
        torch.mm(x, weight.t(), out=out)
        if bias is not None:
            out.add_(bias)
    return out if act is None else ACTS[type(act)][0](out, act, out)


def _product_times(x: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor, factor: Tensor) -> Tensor:
    """``F.linear(x, weight, bias) * factor``, likewise."""
    if BY_ONEDNN and onednn.usable(x, weight):
        return onednn.linear_times(x, weight, bias, factor)
    return _product(x, weight, bias, out).mul_(factor)


def _steps(x, token, gate, ends, act, gated, parameters) -> Tensor:
    """The same in single steps that autograd knows."""
    w1, b1, w2, b2 = parameters
    hidden = grouped.linear(x.index_select(0, token), w1, b1, ends)
    if gated:
        a, b = hidden.chunk(2, -1)
        hidden = act(a) * b
    else:
        hidden = act(hidden)
    return weighted_sum(grouped.linear(hidden, w2, b2, ends), token, gate, None, x.shape[0])


class _Perceptrons(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, token, gate, ends, row, act, gated, *parameters):
        kept: list[Tensor] = []
        with torch.autocast("cpu", enabled=False):
            out = _forward(x, token, gate, ends, row, act, gated, parameters, kept)
        ctx.act, ctx.gated = act, gated
        ctx.save_for_backward(x, token, gate, ends, row, *parameters, *kept)
        return out

    @staticmethod
    def backward(ctx, grad):
        x, token, gate, ends, row, w1, b1, w2, b2, *kept, y = ctx.saved_tensors
        if torch.is_grad_enabled() or not guard.readable(grad):  # to be differentiated again, or several at once
            inputs = x, gate, w1, b1, w2, b2
            needs = (ctx.needs_input_grad[0], ctx.needs_input_grad[2], *ctx.needs_input_grad[7:])
            again = torch.is_grad_enabled()
            with torch.enable_grad(), torch.autocast("cpu", enabled=False):
                out = _steps(x, token, gate, ends, ctx.act, ctx.gated, (w1, b1, w2, b2))
                by_x, by_gate, *by_parameters = gradients(out, inputs, needs, grad, create_graph=again)
            return by_x, None, by_gate, None, None, None, None, *by_parameters
        pull_back = ACTS[type(ctx.act)][1]
        needs, half, experts, parts = ctx.needs_input_grad, w2.shape[2], spans(ends), iter(kept)
        by_gate = torch.zeros_like(gate) if needs[2] else None
        by_parameters = [
            torch.empty_like(tensor) if tensor is not None and needed else None
            for tensor, needed in zip((w1, b1, w2, b2), needs[7:], strict=True)
        ]
        by_w1, by_b1, by_w2, by_b2 = by_parameters
        factors, by_rows = gate.to(x.dtype)[:, None], x.new_empty(token.shape[0] if needs[0] else 0, x.shape[1])
        most = max((end - start for _, start, end in experts), default=0)
        outer, inner, third = (x.new_empty(most, width) for width in (x.shape[1], half, half if ctx.gated else 0))
        for e, start, end in experts:
            rows, part, here = token[start:end], slice(end - start), slice(start, end)
            a, active, b = next(parts), next(parts), next(parts) if ctx.gated else None
            by_y = torch.index_select(grad, 0, rows, out=outer[part])
            if by_gate is not None:
                by_gate[here] = torch.linalg.vecdot(by_y, y[here])
            by_y.mul_(factors[here])
            if by_w2 is not None:
                hidden = active if b is None else torch.mul(active, b, out=third[part])
                torch.mm(by_y.t(), hidden, out=by_w2[e])
            if by_b2 is not None:
                torch.sum(by_y, 0, out=by_b2[e])
            by_hidden = _product(by_y, w2[e].t(), None, inner[part])
            if b is None:
                pieces = [(0, pull_back(by_hidden, a, ctx.act))]
            else:
                by_b = torch.mul(active, by_hidden, out=third[part])
                pieces = [(0, pull_back(by_hidden.mul_(b), a, ctx.act)), (half, by_b)]
            inputs = torch.index_select(x, 0, rows, out=by_y) if by_w1 is not None else None
            for first, piece in pieces:
                if by_w1 is not None:
                    torch.mm(piece.t(), inputs, out=by_w1[e, first : first + half])
                if by_b1 is not None:
                    torch.sum(piece, 0, out=by_b1[e, first : first + half])
            if needs[0]:
                by_piece = _product(pieces[0][1], w1[e, :half].t(), None, by_rows[here])
                if BY_ONEDNN:
                    by_rows[here] = by_piece
                for first, piece in pieces[1:]:
                    by_rows[here].addmm_(piece, w1[e, first:])
        idle = set(range(w1.shape[0])).difference(e for e, _, _ in experts)
        for stacked in by_parameters:
            for e in idle if stacked is not None else ():
                stacked[e].zero_()
        by_x = weighted_sum(by_rows, token, None, row, x.shape[0]) if needs[0] else None
        return by_x, None, by_gate, None, None, None, None, *by_parameters
