"""Attention of all positions with all: fused, as two products, or in single steps."""

import torch
from torch import Tensor
from torch.nn import functional as F

from zoo.blocks.kernels import guard, machine

PRODUCTS_LIMIT = 1024  # positions up to which two products are faster than the fused call, in bf16 on the CPU


def attend(qkv: Tensor, heads: int, drop: float = 0.0) -> Tensor:
    """Attention of packed queries, keys and values: fused, or where that is slower as two matrix products.

    On the CPU in bf16 (torch 2.15, Zen 4, one thread) the fused call loses to the two products for sequences of
    ImageNet's lengths: by 1.1 to 1.7 forward and 1.6 to 2.4 with backward at 197 to 1,025 positions; it wins at 2,305.
    On Sapphire Rapids, whose matrix instructions it uses, it loses by 1.6 to 2.4 with backward only, and wins by 1.3 to
    1.7 forward. In fp32 it wins at all. Above `PRODUCTS_LIMIT` positions it also saves the memory of the weights.

    Shape: ``(B, N, 3 * heads * D) -> (B, N, heads * D)``.
    """
    return (_by_products if _products_pay(qkv) else plain_attend)(qkv, heads, drop)


def _products_pay(qkv: Tensor) -> bool:
    if guard.exporting() or qkv.device.type != "cpu" or qkv.dtype is not torch.bfloat16:
        return False
    return qkv.shape[1] <= PRODUCTS_LIMIT and (not machine.AMX or guard.differentiated(qkv))


def plain_attend(qkv: Tensor, heads: int, drop: float = 0.0) -> Tensor:
    """`attend` by the fused call."""
    if guard.exporting():  # other runtimes copy at every transposition: one of all three is faster
        q, k, v = qkv.unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
    else:  # split before the heads are told apart: the backward pass then joins three tensors in one copy
        q, k, v = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in qkv.chunk(3, dim=-1))
    return _joined(attend_heads(q, k, v, drop=drop), qkv)


def _by_products(qkv: Tensor, heads: int, drop: float) -> Tensor:
    batch, tokens, width = qkv.shape
    depth = width // (3 * heads)
    q, k, v = (
        qkv.view(batch, tokens, 3, heads, depth)
        .permute(2, 0, 3, 1, 4)
        .reshape(3, batch * heads, tokens, depth)
        .unbind(0)
    )
    # A product scaled in the same pass; what beta = 0 multiplies is not read.
    scores = torch.baddbmm(q.new_zeros(1, 1, 1), q, k.transpose(1, 2), beta=0, alpha=q.shape[-1] ** -0.5)
    return _joined(torch.bmm(F.dropout(scores.softmax(-1), drop), v).unflatten(0, (batch, heads)), qkv)


def _joined(y: Tensor, qkv: Tensor) -> Tensor:
    """``(B, heads, N, D) -> (B, N, heads * D)``."""
    batch, tokens, width = qkv.shape
    return y.transpose(1, 2).reshape(batch, tokens, width // 3)


def attend_heads(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None, *, scale: float | None = None, drop: float = 0.0
) -> Tensor:
    """``softmax(scale q k^T + bias) v`` by the fused call, or where `torch.func` transforms it in single steps.

    The fused calls have no derivative in forward mode, and no second one.

    Shape: ``(B, heads, N, D)`` three times and ``(1, heads, N, N) -> (B, heads, N, D)``.
    """
    if guard.transformed():
        return plain_attend_heads(q, k, v, bias, scale=scale, drop=drop)
    return F.scaled_dot_product_attention(q, k, v, bias, drop, scale=scale)


def plain_attend_heads(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None, *, scale: float | None = None, drop: float = 0.0
) -> Tensor:
    """`attend_heads` in single steps."""
    scores = q @ k.transpose(-2, -1) * (q.shape[-1] ** -0.5 if scale is None else scale)
    scores = scores if bias is None else scores + bias
    return F.dropout(scores.softmax(-1), drop) @ v
