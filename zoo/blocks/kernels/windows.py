"""Attention within windows, and what is done window by window: on the CPU in parts that stay in the cache."""

import itertools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from zoo.blocks.kernels import guard, machine, private
from zoo.blocks.kernels.attention import attend_heads

SCORES = 2**20  # scores at a time
IMAGES = 2**21  # bytes of images at a time

Packed = tuple[Tensor, Tensor, Tensor]  # queries, keys, values


def attend_windows(
    q: Tensor, k: Tensor, v: Tensor, biases: list[Tensor], counts: Sequence[int], scale: float, drop: float = 0.0
) -> Tensor:
    """``softmax(scale q k^T + bias) v`` in each window; each bias holds for its count of places, one after another.

    On the CPU the fused call takes the slow way if the bias needs a gradient, so training takes two products.

    Args:
        q, k, v: Of each window; those of all images at one place come together.
        biases: What is added to the scores, by group of places.
        counts: Number of places in each group.
        scale: Factor on the products.
        drop: Dropout on the weights.

    Shape: ``(places * images, N, heads, D)`` three times and ``(heads, N, N)`` for each bias
        ``-> (places * images, N, heads, D)``.
    """
    if q.device.type == "cpu" and guard.plain(q, k, v, *biases):
        if torch.is_grad_enabled():
            return _attend_by_products((q, k, v), biases, counts, scale, drop)
        if q.element_size() == 2 and drop == 0 and not (machine.AMX and q.dtype is torch.bfloat16):
            return _attend_half((q, k, v), biases, counts, scale)
    return plain_attend_windows(q, k, v, biases, counts, scale, drop)


def plain_attend_windows(
    q: Tensor, k: Tensor, v: Tensor, biases: list[Tensor], counts: Sequence[int], scale: float, drop: float = 0.0
) -> Tensor:
    """`attend_windows` by a fused call a group."""
    q, k, v = (t.transpose(1, 2) for t in (q, k, v))
    # The number of images is nowhere a constant: whoever records this runs it on batches of other sizes.
    images = [(t,) if len(counts) == 1 else t.unflatten(0, (sum(counts), -1)).split(counts) for t in (q, k, v)]
    y = [
        attend_heads(
            *(t if len(counts) == 1 else t.flatten(0, 1) for t in qkv), bias[None].to(q.dtype), scale=scale, drop=drop
        ).transpose(1, 2)
        for *qkv, bias in zip(*images, biases, strict=True)
    ]
    y = y[0] if len(y) == 1 else torch.cat(y)
    # A recorder sees what the fused call gives in torch, where heads and width lie side by side; elsewhere they do not.
    return y.clone(memory_format=torch.contiguous_format) if guard.exporting() else y


def _attend_by_products(qkv: Packed, biases: list[Tensor], counts: Sequence[int], scale: float, drop: float) -> Tensor:
    """`attend_windows` where autograd records: the biases of all windows, and the products added in place."""
    q, k, v = (t.transpose(1, 2) for t in qkv)
    windows, heads, tokens, width = q.shape
    half = q.element_size() == 2
    q, k, v = (t.reshape(windows * heads, tokens, width) for t in (q, k, v))
    rows = torch.arange(len(biases) * heads).view(-1, heads)
    images = windows // sum(counts)
    rows = torch.cat([row.expand(n * images, -1) for row, n in zip(rows, counts, strict=True)])
    scores = torch.cat(biases).to(q.dtype).index_select(0, rows.flatten())  # then in place: the largest tensor
    scores.baddbmm_(q, k.transpose(1, 2), alpha=scale)
    weights = _HalfSoftmax.apply(scores) if half and scores.numel() >= SCORES else scores.softmax(-1)
    return torch.bmm(F.dropout(weights, drop), v).view(windows, heads, tokens, width).transpose(1, 2)


class _HalfSoftmax(torch.autograd.Function):
    """Softmax of ``(R, N, N)`` in bf16 by way of fp32: faster (see `_attend_half`), with no more kept for backward."""

    @staticmethod
    def forward(scores: Tensor) -> Tensor:
        weights, rows = torch.empty_like(scores), max(1, SCORES // 4 // scores[0].numel())
        for part, out in zip(scores.split(rows), weights.split(rows), strict=True):
            out.copy_(part.float().softmax(-1))
        return weights

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(output)

    @staticmethod
    def backward(ctx, grad: Tensor):
        (weights,) = ctx.saved_tensors
        return private.softmax_backward(grad, weights, -1, weights.dtype)


def _attend_half(qkv: Packed, biases: list[Tensor], counts: Sequence[int], scale: float) -> Tensor:
    """`attend_windows` in bf16 on the CPU, in inference: products in bf16, softmax in fp32, a few windows at a time.

    It takes 0.65 to 0.85 of the time of the fused call; a softmax in bf16 would take twice that in fp32 for rows of 49
    (torch 2.15, Zen 4, one thread). With matrix instructions (Sapphire Rapids) the fused call is the faster by 1.15.
    """
    q, k, v = (t.transpose(1, 2) for t in qkv)
    windows, heads, tokens, width = q.shape
    counts = [count * windows // sum(counts) for count in counts]
    biases, stops = [bias.float() for bias in biases], list(itertools.accumulate(counts))
    y, zero = q.new_empty(windows, tokens, heads, width), q.new_zeros(1, 1, 1)
    step = max(1, SCORES // biases[0].numel())
    for i in range(0, windows, step):
        a, b, c = (t[i : i + step].reshape(-1, tokens, width) for t in (q, k, v))
        # A product scaled in the same pass; what beta = 0 multiplies is not read.
        scores = torch.baddbmm(zero, a, b.transpose(1, 2), beta=0, alpha=scale).float().unflatten(0, (-1, heads))
        for bias, count, stop in zip(biases, counts, stops, strict=True):
            scores[max(stop - count - i, 0) : max(stop - i, 0)].add_(bias)
        weights = scores.softmax(-1).to(q.dtype).flatten(0, 1)
        y[i : i + step] = torch.bmm(weights, c).unflatten(0, (-1, heads)).transpose(1, 2)
    return y


def window_biases(table: Tensor, index: Tensor, masks: Tensor) -> list[Tensor]:
    """What is added to the scores in each group of windows.

    In 16 bits and in inference the table becomes fp32 here, where it is small: that is what `attend_windows` adds.

    Args:
        table: A bias a head for each offset, ``(offsets, heads)``.
        index: The row of the table for each pair of positions, ``(N * N,)``.
        masks: What is added in the groups but the first, ``(groups - 1, N, N)``.

    Shape: ``(heads, N, N)`` for each group.
    """
    if guard.plain(table) and table.element_size() == 2 and not torch.is_grad_enabled():
        table = table.float()
    return plain_window_biases(table, index, masks)


def plain_window_biases(table: Tensor, index: Tensor, masks: Tensor) -> list[Tensor]:
    """`window_biases` in the precision of the table."""
    heads = table.shape[1]
    bias = table.t().gather(1, index.expand(heads, -1))
    bias = bias.view(heads, *masks.shape[1:])
    masks = masks.to(bias.dtype)
    return [bias, *(bias + masks[i] for i in range(masks.shape[0]))]  # no `unbind`: torch cannot load one of no rows


def in_chunks(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """``function(x)``; in inference on the CPU a few images at a time, so that what lies between stays in the cache."""
    if torch.is_grad_enabled() or not guard.plain(x) or x.device.type != "cpu":
        return plain_in_chunks(function, x)
    chunks = min(x.shape[0], x.nbytes // IMAGES)
    return torch.cat([function(part) for part in x.chunk(chunks)]) if chunks > 1 else function(x)


def plain_in_chunks(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """`in_chunks`, all images at once."""
    return function(x)
