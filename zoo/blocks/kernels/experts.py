"""Perceptrons of a mixture of experts on the CPU: gather, two products, activation, weights, sum, expert by expert.

In single steps each of these is a pass over all rows in memory. Here an expert's rows go through all of them while they
are in the caches, the products run by oneDNN, and the weighted sum of a token's rows is one pass. Wherever anything
else may watch, or the activation is not one of `ACTS`, `usable` says no.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.blocks.kernels import grouped, guard, onednn
from zoo.blocks.kernels.autograd import gradients
from zoo.blocks.kernels.grouped import spans

_aten = torch.ops.aten

# By class: the activation, its gradient, and its name to oneDNN.
ACTS: dict[type[nn.Module], tuple[Callable, Callable, str]] = {
    nn.GELU: (
        lambda x, act: F.gelu(x, approximate=act.approximate),
        lambda grad, x, act: _aten.gelu_backward(grad, x, approximate=act.approximate),
        "gelu",
    ),
    nn.SiLU: (lambda x, act: F.silu(x), lambda grad, x, act: _aten.silu_backward(grad, x), "swish"),
    nn.ReLU: (lambda x, act: F.relu(x), lambda grad, x, act: _aten.threshold_backward(grad, x, 0), "relu"),
}


def usable(x: Tensor, act: nn.Module, weights: Sequence[Tensor]) -> bool:
    """Whether `perceptrons` may stand for the single steps here and now."""
    return (
        guard.plain(x, *weights)
        and type(act) in ACTS
        and x.device.type == "cpu"
        and x.dtype in (torch.float32, torch.bfloat16)
        and all(w.dtype == x.dtype for w in weights)
    )


def perceptrons(
    x: Tensor,
    token: Tensor,
    gate: Tensor,
    ends: Tensor,
    row: Tensor | None,
    fc1: tuple[Tensor, Tensor | None],
    fc2: tuple[Tensor, Tensor | None],
    act: nn.Module,
    gated: bool,
) -> Tensor:
    """The sum over a token's rows of ``gate * fc2(act(fc1(x)))``; if `gated`, ``a, b = fc1(x)`` and ``act(a) * b``.

    Args:
        x: Tokens ``(T, C)``.
        token, gate: Token and weight of each row, ``(R,)``, sorted by expert.
        ends: ``(E,)``, where the rows of each expert end.
        row: ``(T, K)`` int32, the rows of each token, if all tokens have as many.
        fc1, fc2: Weight and bias of all experts: ``(E, H, C)`` and ``(E, H)``, twice as many rows if `gated`; and
            ``(E, C, H)`` and ``(E, C)``.

    Shape: ``(T, C) -> (T, C)``.
    """
    parameters = (*fc1, *fc2)
    if guard.differentiated(x, gate, *parameters):
        return _Perceptrons.apply(x, token, gate, ends, row, act, gated, *parameters)
    return _forward(x, token, gate, ends, row, act, gated, parameters, None)


def _forward(x, token, gate, ends, row, act, gated, parameters, kept: list[Tensor] | None) -> Tensor:
    """What the backward pass needs goes into the list, if there is one: for each expert what comes before the
    activation, what comes behind it, and what that is multiplied by if `gated`; at the end the outputs of all rows."""
    w1, b1, w2, b2 = parameters
    half, outputs = w2.shape[2], [x.new_empty(0, x.shape[1])]  # there may be no rows at all
    for e, start, end in spans(ends):
        rows = x.index_select(0, token[start:end])
        first, second = (
            (w1[e, part], None if b1 is None else b1[e, part]) for part in (slice(half), slice(half, None))
        )
        if kept is None:
            hidden = _product(rows, *first, act)
            if gated:
                hidden = _product_times(rows, *second, hidden)
        else:
            a = _product(rows, *first)
            hidden = ACTS[type(act)][0](a, act)
            kept += [a, hidden]
            if gated:
                kept.append(_product(rows, *second))
                hidden = hidden * kept[-1]
        outputs.append(_product(hidden, w2[e], None if b2 is None else b2[e]))
    y = torch.cat(outputs)
    if kept is not None:
        kept.append(y)
    return _sum(y, token, gate, row, len(x))


def _sum(y: Tensor, token: Tensor, gate: Tensor | None, row: Tensor | None, tokens: int) -> Tensor:
    """The sum of each token's rows ``(R, C) -> (T, C)``, by their weights if given."""
    if row is not None and len(y):
        weights = None if gate is None else gate.to(y.dtype).index_select(0, row.flatten()).view_as(row)
        return F.embedding_bag(row, y, mode="sum", per_sample_weights=weights)
    if gate is not None:
        y = y * gate[:, None].to(y.dtype)
    return y.new_zeros(tokens, y.shape[1]).index_add(0, token, y)


def _product(x: Tensor, weight: Tensor, bias: Tensor | None, act: nn.Module | None = None) -> Tensor:
    """``F.linear``, and an activation behind it."""
    if onednn.usable(x, weight):
        name = "none" if act is None else ACTS[type(act)][2]
        return onednn.linear(x, weight, bias, name, act.approximate if name == "gelu" else "")
    x = F.linear(x, weight, bias)
    return x if act is None else ACTS[type(act)][0](x, act)


def _product_times(x: Tensor, weight: Tensor, bias: Tensor | None, factor: Tensor) -> Tensor:
    """``F.linear(x, weight, bias) * factor``."""
    if onednn.usable(x, weight):
        return onednn.linear_times(x, weight, bias, factor)
    return F.linear(x, weight, bias).mul_(factor)


def _steps(x, token, gate, ends, act, gated, parameters) -> Tensor:
    """The same in single steps that autograd knows."""
    w1, b1, w2, b2 = parameters
    hidden = grouped.linear(x.index_select(0, token), w1, b1, ends)
    if gated:
        a, b = hidden.chunk(2, -1)
        hidden = act(a) * b
    else:
        hidden = act(hidden)
    return _sum(grouped.linear(hidden, w2, b2, ends), token, gate, None, x.shape[0])


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
            wanted = (ctx.needs_input_grad[0], ctx.needs_input_grad[2], *ctx.needs_input_grad[7:])
            again = torch.is_grad_enabled()
            with torch.enable_grad(), torch.autocast("cpu", enabled=False):
                out = _steps(x, token, gate, ends, ctx.act, ctx.gated, (w1, b1, w2, b2))
                by_x, by_gate, *by_parameters = gradients(out, inputs, wanted, grad, create_graph=again)
            return by_x, None, by_gate, None, None, None, None, *by_parameters
        pull_back = ACTS[type(ctx.act)][1]
        wanted, half, parts = ctx.needs_input_grad, w2.shape[2], iter(kept)
        by_gate = torch.zeros_like(gate) if wanted[2] else None
        by_parameters = [_like(t, want) for t, want in zip((w1, b1, w2, b2), wanted[7:], strict=True)]
        by_w1, by_b1, by_w2, by_b2 = by_parameters
        factors, by_rows = gate.to(x.dtype)[:, None], [x.new_empty(0, x.shape[1])]
        experts = spans(ends)
        for e, start, end in experts:
            rows, a, active = token[start:end], next(parts), next(parts)
            b = next(parts) if ctx.gated else None
            by_y = grad.index_select(0, rows)
            if by_gate is not None:
                by_gate[start:end] = torch.linalg.vecdot(by_y, y[start:end])
            by_y.mul_(factors[start:end])
            if by_w2 is not None:
                torch.mm(by_y.t(), active if b is None else active * b, out=by_w2[e])
            if by_b2 is not None:
                torch.sum(by_y, 0, out=by_b2[e])
            by_hidden = _product(by_y, w2[e].t(), None)
            if b is None:
                pieces = [(0, pull_back(by_hidden, a, ctx.act))]
            else:
                by_b = active * by_hidden
                pieces = [(0, pull_back(by_hidden.mul_(b), a, ctx.act)), (half, by_b)]
            inputs = x.index_select(0, rows) if by_w1 is not None else None
            for first, piece in pieces:
                if by_w1 is not None:
                    torch.mm(piece.t(), inputs, out=by_w1[e, first : first + half])
                if by_b1 is not None:
                    torch.sum(piece, 0, out=by_b1[e, first : first + half])
            if wanted[0]:
                by_rows.append(_product(pieces[0][1], w1[e, :half].t(), None))
                for first, piece in pieces[1:]:
                    by_rows[-1].addmm_(piece, w1[e, first:])
        idle = set(range(len(w1))).difference(e for e, _, _ in experts)
        for stacked in by_parameters:
            for e in idle if stacked is not None else ():
                stacked[e].zero_()
        by_x = _sum(torch.cat(by_rows), token, None, row, len(x)) if wanted[0] else None
        return by_x, None, by_gate, None, None, None, None, *by_parameters


def _like(tensor: Tensor | None, wanted: bool) -> Tensor | None:
    return torch.empty_like(tensor) if tensor is not None and wanted else None
