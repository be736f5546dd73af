"""Rational functions P/Q of each element, group by group of channels: forward and backward that keep only the input.

``P = a_0 + a_1 x + ... + a_m x^m`` and ``Q = 1 + |b_1| |x| + ... + |b_n| |x|^n``, so that Q is never below 1. Plain
torch writes a whole tensor for each power, and autograd keeps them all. Here the input is cut into pieces that stay in
the processor's cache, each is evaluated by Horner's rule in place, and the backward pass does it again.

What is not a number in gives what is not a number out. Beyond `bound` (2^20 for KAT's degrees in fp32), where powers
would begin to overflow and infinity to divide infinity, the function keeps the value that it has there, and such an
element has no gradient and gives none to the coefficients: the largest of theirs would be 10^30 times the others'.
"""

import functools
import importlib
import importlib.util
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from zoo.blocks.kernels import cost, guard
from zoo.blocks.kernels.autograd import gradients

PIECE = 2**18  # elements a thread: a megabyte of fp32; larger leave the caches, smaller cost calls (Zen 4)
HEADROOM = 28  # bits that the largest power leaves for coefficients and sums


def rational(x: Tensor, numerator: Tensor, denominator: Tensor) -> Tensor:
    """P/Q of each element, in fp32 for lower precisions.

    Gradients take the sign of 0 as +1, of x and of the coefficients b, as the authors' kernels do: denominators that
    start from zero would never train otherwise.

    Args:
        x: Floating-point tensor; its channels are G contiguous groups.
        numerator: ``(G, m + 1)``, or ``(1, m + 1)`` for all groups, lowest power first.
        denominator: ``(G, n)``, the coefficients of the powers 1 to n.

    Shape: ``(*, C) -> (*, C)``.

    Example:
        >>> x = torch.tensor([[-1.0, 2.0]])
        >>> rational(x, torch.tensor([[0.0, 1.0]]), torch.tensor([[0.0], [3.0]]))  # x, and x / (1 + 3 |x|)
        tensor([[-1.0000,  0.2857]])

    Raises:
        TypeError: The input is not floating-point.
        ValueError: The channels are no multiple of the groups, or the coefficients have another shape.
    """
    _check(x, numerator, denominator)
    if cost.counting():
        return cost.evaluation(x, 1, numerator.shape[1] - 1 + denominator.shape[1]).reshape(x.shape)
    if guard.recording() or guard.transformed():
        return formula(x, numerator, denominator)
    return (_Rational.apply if torch.is_grad_enabled() else _evaluate)(x, numerator, denominator)


def formula(x: Tensor, numerator: Tensor, denominator: Tensor) -> Tensor:
    """`rational` in differentiable operators: what compilers make one pass of, and the backward pass differentiates."""
    wide = _wide(x.dtype)
    a, b = _per_channel(numerator, denominator, x.shape[-1], wide)
    limit = bound(numerator, denominator, wide)
    z = x.to(wide).clamp(-limit, limit)
    size = torch.where(z < 0, -z, z)
    y = _horner(a, z) / _horner(b, size)
    return torch.where(size < limit, y, y.detach()).to(x.dtype)


def bound(numerator: Tensor, denominator: Tensor, dtype: torch.dtype) -> float:
    """The size up to which elements are evaluated: no power of it overflows, nor does its product with coefficients."""
    bits = {torch.float32: 128, torch.float64: 1024}[dtype] - HEADROOM
    return 2.0 ** (bits // max(numerator.shape[1] - 1, denominator.shape[1], 1))


def _check(x: Tensor, numerator: Tensor, denominator: Tensor) -> None:
    if not x.is_floating_point():
        raise TypeError(f"rational takes floating-point tensors, not {x.dtype}; convert the input")
    groups = denominator.shape[0]
    if numerator.ndim != 2 or denominator.ndim != 2 or numerator.shape[0] not in (1, groups) or not numerator.numel():
        raise ValueError(
            f"coefficients of shapes {tuple(numerator.shape)} and {tuple(denominator.shape)} are not (G, m + 1) or "
            "(1, m + 1), and (G, n)"
        )
    if groups < 1 or x.shape[-1] % groups:
        raise ValueError(f"{x.shape[-1]} channels are not a multiple of {groups} groups; choose a divisor")


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def _per_channel(numerator: Tensor, denominator: Tensor, channels: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The coefficients of P and of Q, lowest power first, each a row with an entry a channel."""
    a, b = numerator.to(dtype), denominator.to(dtype)
    b = torch.cat([b.new_ones(b.shape[0], 1), torch.where(b < 0, -b, b)], 1)
    # Compiled, this is faster than repeat_interleave.
    a, b = (t.t().unsqueeze(2).expand(-1, -1, channels // t.shape[0]).reshape(t.shape[1], channels) for t in (a, b))
    return a, b


def _horner(coefficients: Tensor, x: Tensor) -> Tensor:
    y = coefficients[-1]
    for coefficient in reversed(coefficients[:-1].unbind()):
        y = coefficient + y * x
    return y.expand(x.shape)


# --- On the CPU, piece by piece ---------------------------------------------------------------------------------------


def usable(*tensors: Tensor) -> bool:
    """Whether the loops over pieces may run on these: plain tensors on the CPU."""
    return guard.plain(*tensors) and all(t.device.type == "cpu" for t in tensors)


def _horner_(rows: Sequence[Tensor], x: Tensor, out: Tensor) -> Tensor:
    """The polynomial whose coefficients are `rows`, lowest first, in `out`."""
    if len(rows) == 1:
        return out.copy_(rows[0].expand_as(out))
    torch.addcmul(rows[-2], rows[-1], x, out=out)
    for row in rows[-3::-1]:
        torch.addcmul(row, out, x, out=out)
    return out


def _derivative(coefficients: Tensor) -> Tensor:
    """Coefficients of the derivative; a constant's is zero."""
    degrees = torch.arange(len(coefficients), dtype=coefficients.dtype).unsqueeze(1)
    return (coefficients * degrees)[1 if len(coefficients) > 1 else 0 :]


def _pieces(scratch: int, dtype: torch.dtype, *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """The rows of tensors piece by piece, and with each as many tensors of its size to write into."""
    rows, channels = tensors[0].shape
    size = max(1, min(rows, PIECE * torch.get_num_threads() // max(1, channels)))
    free = torch.empty(scratch, size, channels, dtype=dtype).unbind()
    for parts in zip(*(t.split(size) for t in tensors), strict=True):
        count = len(parts[0])
        yield *parts, *(free if count == size else (f[:count] for f in free))


def _load(x: Tensor, limit: float, z: Tensor, size: Tensor) -> tuple[Tensor, bool]:
    """The piece in the precision of `z` and within the limit, its absolute values in `size`; and whether all were."""
    x = x if x.dtype is z.dtype else z.copy_(x)
    torch.abs(x, out=size)
    within = size.numel() == 0 or size.amax().item() < limit  # false too for what is not a number
    if not within:
        x = torch.clamp(x, -limit, limit, out=z)
        size.clamp_(max=limit)
    return x, within


def _forward(x: Tensor, numerator: Tensor, denominator: Tensor) -> Tensor:
    a, b = (t.unbind() for t in _per_channel(numerator, denominator, x.shape[-1], _wide(x.dtype)))
    limit = bound(numerator, denominator, a[0].dtype)
    out = torch.empty_like(x)
    for part, y, z, size, p, q in _pieces(4, a[0].dtype, x, out):
        z, _ = _load(part, limit, z, size)
        p = y if y.dtype is p.dtype else p  # memory that is written anyway: one place less in the cache
        torch.div(_horner_(a, z, p), _horner_(b, size, q), out=y)
    return out


def _backward(g: Tensor, x: Tensor, numerator: Tensor, denominator: Tensor, needs: Sequence[bool]):
    """Gradients of x and of the coefficients.

    With u = g / Q and v = -g P / Q^2, that of x is ``u P' + v Q'``, that of a_k the sum of ``u x^k`` and that of |b_k|
    the sum of ``v |x|^k``: running powers, and a sum over the rows of each, always in the same order.
    """
    channels, groups = x.shape[-1], denominator.shape[0]
    a, b = _per_channel(numerator, denominator, channels, _wide(x.dtype))
    dtype, limit = a.dtype, bound(numerator, denominator, a.dtype)
    shared = numerator.shape[0] == 1
    sums_a = a.new_zeros(len(a), *([] if shared else [channels]))
    sums_b = a.new_zeros(len(b) - 1, channels)
    minus_a, b, da, db = (t.unbind() for t in (-a, b, _derivative(a), _derivative(b)))
    part_a, part_b = torch.empty_like(sums_a), torch.empty_like(sums_b)
    rows_a, rows_b = part_a.unbind(), part_b.unbind()
    result = torch.empty_like(x)
    for grad, part, dx, z, size, u, v, p, q in _pieces(6, dtype, g, x, result):
        z, within = _load(part, limit, z, size)
        if not within:
            grad = torch.where(size == limit, 0.0, grad)
        p = dx if dx.dtype is dtype else p
        torch.div(grad, _horner_(b, size, q), out=u)
        torch.mul(_horner_(minus_a, z, p).div_(q), u, out=v)
        if needs[0]:
            _horner_(db, size, q).copysign_(z).mul_(v)
            torch.addcmul(q, _horner_(da, z, p), u, out=p)
            if p is not dx:
                dx.copy_(p)
        if needs[1] or needs[2]:
            for k, total in enumerate(rows_a):
                torch.sum(u if k == 0 else u.mul_(z), (0, 1) if shared else 0, out=total)
            for total in rows_b:
                torch.sum(v.mul_(size), 0, out=total)
            sums_a += part_a
            sums_b += part_b
    ga = sums_a.unsqueeze(1) if shared else sums_a.unflatten(1, (groups, -1)).sum(2)
    gb = sums_b.unflatten(1, (groups, -1)).sum(2).t()
    gb = torch.where(denominator < 0, -gb, gb)
    return result if needs[0] else None, ga.t().to(numerator.dtype), gb.to(denominator.dtype)


# --- Autograd ---------------------------------------------------------------------------------------------------------


@functools.cache
def _triton():
    """The kernels for the GPU, or None without Triton."""
    if importlib.util.find_spec("triton") is None:
        return None
    return importlib.import_module("zoo.blocks.kernels.rational_triton")


def _on_gpu(*tensors: Tensor) -> bool:
    """Whether the kernels for the GPU may run on these, of which the first is the input."""
    x = tensors[0]
    return x.is_cuda and x.dtype is not torch.float64 and guard.plain(*tensors) and _triton() is not None


def _evaluate(x: Tensor, numerator: Tensor, denominator: Tensor) -> Tensor:
    if usable(x, numerator, denominator):
        return _forward(x.reshape(-1, x.shape[-1]), numerator, denominator).view(x.shape)
    if _on_gpu(x, numerator, denominator):
        return _triton().forward(x, numerator, denominator, bound(numerator, denominator, torch.float32))
    return formula(x, numerator, denominator)


class _Rational(torch.autograd.Function):
    """Keeps x and the coefficients. Where no kernel of ours runs, it is the formula, evaluated again going backward."""

    @staticmethod
    def forward(ctx, x: Tensor, numerator: Tensor, denominator: Tensor) -> Tensor:
        ctx.save_for_backward(x, numerator, denominator)
        return _evaluate(x, numerator, denominator)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        tensors, needs = ctx.saved_tensors, ctx.needs_input_grad
        x, numerator, denominator = tensors
        if not torch.is_grad_enabled() and usable(grad, *tensors):
            rows = (t.reshape(-1, x.shape[-1]) for t in (grad, x))
            dx, *rest = _backward(*rows, numerator, denominator, needs)
            return dx if dx is None else dx.view(x.shape), *rest
        if not torch.is_grad_enabled() and _on_gpu(x, grad, numerator, denominator):
            return _triton().backward(grad, *tensors, bound(numerator, denominator, torch.float32))
        with torch.enable_grad():  # by autograd they can be differentiated again where that is wanted
            y = formula(*tensors)
        return gradients(y, tensors, needs, grad, create_graph=torch.is_grad_enabled())
