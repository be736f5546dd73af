"""Perceptrons of a mixture of experts on the CPU: gather, two products, activation, weights, sum, expert by expert.

In single steps each of these is a pass over all rows in memory. Here an expert's rows go through all of them while they
are in the caches, the products run by oneDNN, and the backward pass keeps what lies before the activation and nothing
else. Wherever anything else may watch, or the activation is not one of `ACTS`, `usable` says no.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from zoo.blocks.kernels import onednn
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
        type(act) in ACTS
        and type(x) is Tensor
        and all(type(w) in (Tensor, nn.Parameter) and w.dtype == x.dtype for w in weights)
        and x.device.type == "cpu"
        and x.dtype in (torch.float32, torch.bfloat16)
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
        and not torch._C._are_functorch_transforms_active()
    )


def perceptrons(
    x: Tensor,
    token: Tensor,
    gate: Tensor,
    ends: Tensor,
    fc1: tuple[Tensor, Tensor | None],
    fc2: tuple[Tensor, Tensor | None],
    act: nn.Module,
    gated: bool,
) -> Tensor:
    """The sum over a token's rows of ``gate * fc2(act(fc1(x)))``; if `gated`, of ``gate * fc2(act(a) * b)`` with
    ``a, b = fc1(x)``.

    Args:
        x: Tokens ``(T, C)``.
        token, gate: Token and weight of each row, ``(R,)``, sorted by expert.
        ends: ``(E,)``, where the rows of each expert end.
        fc1, fc2: Weight and bias of all experts: ``(E, H, C)`` and ``(E, H)``, twice as many rows if `gated`; and
            ``(E, C, H)`` and ``(E, C)``.

    Shape: ``(T, C) -> (T, C)``.
    """
    parameters = (*fc1, *fc2)
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, gate, *parameters)):
        return _Perceptrons.apply(x, token, gate, ends, act, gated, *parameters)
    return _forward(x, token, gate, ends, act, gated, parameters, None)


def _forward(x, token, gate, ends, act, gated, parameters, kept: list[Tensor] | None) -> Tensor:
    """Tensors that the backward pass needs go into the list, if there is one."""
    w1, b1, w2, b2 = parameters
    apply, _, name = ACTS[type(act)]
    gate, out = gate.to(x.dtype)[:, None], torch.zeros_like(x)
    for e, start, end in spans(ends):
        rows = x.index_select(0, token[start:end])
        bias = None if b1 is None else b1[e]
        fused = "none" if kept is not None else name
        if gated:
            half = w2.shape[2]
            biases = (None, None) if bias is None else bias.split(half)
            a = _product(rows, w1[e, :half], biases[0], act, fused)
            b = _product(rows, w1[e, half:], biases[1])
            if kept is not None:
                kept += [a, b]
                a = apply(a, act)
            hidden = a.mul_(b)
        else:
            hidden = _product(rows, w1[e], bias, act, fused)
            if kept is not None:
                kept.append(hidden)
                hidden = apply(hidden, act)
        y = _product(hidden, w2[e], None if b2 is None else b2[e])
        out.index_add_(0, token[start:end], y.mul_(gate[start:end]))
    return out


def _product(
    x: Tensor, weight: Tensor, bias: Tensor | None, act: nn.Module | None = None, name: str = "none"
) -> Tensor:
    """``F.linear``, and the activation if it has a name."""
    if onednn.usable(x, weight):
        return onednn.linear(x, weight, bias, name, getattr(act, "approximate", "") if name == "gelu" else "")
    x = F.linear(x, weight, bias)
    return x if name == "none" else ACTS[type(act)][0](x, act)


class _Perceptrons(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, token, gate, ends, act, gated, *parameters):
        kept: list[Tensor] = []
        with torch.autocast("cpu", enabled=False):
            out = _forward(x, token, gate, ends, act, gated, parameters, kept)
        ctx.act, ctx.gated = act, gated
        ctx.save_for_backward(x, token, gate, ends, *parameters, *kept)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        x, token, gate, ends, w1, b1, w2, b2, *kept = ctx.saved_tensors
        apply, pull_back, _ = ACTS[type(ctx.act)]
        wanted, half, parts = ctx.needs_input_grad, w2.shape[2], iter(kept)
        by_x = torch.zeros_like(x) if wanted[0] else None
        by_gate = torch.zeros_like(gate) if wanted[2] else None
        by_w1, by_b1, by_w2, by_b2 = (
            _like(tensor, want) for tensor, want in zip((w1, b1, w2, b2), wanted[6:], strict=True)
        )
        factors, used = gate.to(x.dtype)[:, None], set()
        for e, start, end in spans(ends):
            used.add(e)
            a = next(parts)
            b = next(parts) if ctx.gated else None
            rows, factor = token[start:end], factors[start:end]
            by_y = grad.index_select(0, rows)
            active = apply(a, ctx.act)
            hidden = active if b is None else active * b
            by_hidden = _product(by_y, w2[e].t(), None)
            if by_gate is not None:
                scores = torch.linalg.vecdot(by_hidden, hidden)
                if b2 is not None:
                    scores += by_y @ b2[e]
                by_gate[start:end] = scores
            by_y.mul_(factor)
            if by_w2 is not None:
                torch.mm(by_y.t(), hidden, out=by_w2[e])
            if by_b2 is not None:
                torch.sum(by_y, 0, out=by_b2[e])
            by_hidden.mul_(factor)
            pieces = [(0, by_hidden)]
            if b is not None:
                pieces = [(0, by_hidden * b), (half, active.mul_(by_hidden))]
            pieces[0] = (0, pull_back(pieces[0][1], a, ctx.act))
            inputs = x.index_select(0, rows) if by_w1 is not None else None
            for first, piece in pieces:
                if by_w1 is not None:
                    torch.mm(piece.t(), inputs, out=by_w1[e, first : first + half])
                if by_b1 is not None:
                    torch.sum(piece, 0, out=by_b1[e, first : first + half])
            if by_x is not None:
                y = _product(pieces[0][1], w1[e, :half].t(), None)
                if b is not None:
                    y.addmm_(pieces[1][1], w1[e, half:])
                by_x.index_add_(0, rows, y)
        for stacked in (by_w1, by_b1, by_w2, by_b2):
            for e in range(len(w1)) if stacked is not None else ():
                if e not in used:
                    stacked[e].zero_()
        return by_x, None, by_gate, None, None, None, by_w1, by_b1, by_w2, by_b2


def _like(tensor: Tensor | None, wanted: bool) -> Tensor | None:
    return torch.empty_like(tensor) if tensor is not None and wanted else None
