"""Linear maps of several experts over rows that are sorted by expert.

On a GPU torch's own grouped product runs them in one kernel, and nothing waits for the host. It takes only sizes that
are multiples of 16 bytes, knows no float64, and leaves what lies behind the last group to chance. Elsewhere, and where
it does not fit, an operator of this file goes from expert to expert; compilers and exporters see it as one node. Its
gradients are made of the same two operators, and so can be differentiated again. Whatever cannot look into an operator
of our own gets `everywhere` instead, of plain torch.
"""

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.flop_counter import register_flop_formula

from zoo.blocks.kernels import cost, guard, private
from zoo.blocks.kernels.autograd import gradients


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, ends: Tensor) -> Tensor:
    """``F.linear`` of each expert's rows with its weight and bias.

    Args:
        x: Rows sorted by expert, ``(R, in)``.
        weight: ``(E, out, in)``.
        bias: ``(E, out)`` or None.
        ends: ``(E,)`` int32, where the rows of each expert end; for rows behind the last, zeros come out.

    Shape: ``(R, in) -> (R, out)``.

    Example:
        >>> linear(torch.ones(3, 2), torch.tensor([[[1.0, 1.0]], [[2.0, 2.0]]]), None, torch.tensor([1, 2])).flatten()
        tensor([2., 4., 0.])
    """
    if cost.counting():  # the sizes of the groups change nothing
        return F.linear(x, weight[0], None if bias is None else bias[0])
    x, weight, bias = cast(x, weight, bias)
    if guard.transformed():
        return everywhere(x, weight, bias, ends)
    if x.is_cuda and private.grouped_mm is not None and _fits(x, weight):
        return _on_gpu(x, weight, bias, ends)
    return _linear(x.contiguous(), weight, bias, ends)


def everywhere(x: Tensor, weight: Tensor, bias: Tensor | None, ends: Tensor) -> Tensor:
    """The same, where no value can be read: every expert's map of all rows, of which each row takes one.

    Under `torch.func` the tensors may stand for several, with rows of other experts in each; and for forward-mode
    derivatives an operator of our own has no rule.
    """
    row = torch.arange(x.shape[0], device=x.device)[:, None]
    y = x.new_zeros(x.shape[0], weight.shape[1])
    for e in range(weight.shape[0] - 1, -1, -1):
        y = torch.where(row < ends[e], F.linear(x, weight[e], None if bias is None else bias[e]), y)
    return y


def cast(*tensors: Tensor | None) -> tuple[Tensor | None, ...]:
    """The tensors in the precision that autocast asks for, if it is on: operators of our own are unknown to it."""
    device = tensors[0].device.type
    if device == "meta" or not torch.is_autocast_enabled(device):
        return tensors
    dtype = torch.get_autocast_dtype(device)
    return tuple(t if t is None else t.to(dtype) for t in tensors)


def _fits(x: Tensor, weight: Tensor) -> bool:
    """Whether torch's grouped product takes these tensors."""
    sixteen = 16 // x.element_size()
    return x.dtype is torch.bfloat16 and x.shape[1] % sixteen == 0 and weight.shape[1] % sixteen == 0


def _on_gpu(x: Tensor, weight: Tensor, bias: Tensor | None, ends: Tensor) -> Tensor:
    number = torch.arange(x.shape[0], device=x.device, dtype=ends.dtype)
    used = (number < ends[-1])[:, None]  # also where the rows come in: their gradients are left to chance as well
    y = private.grouped_mm(torch.where(used, x, 0), weight.transpose(-2, -1), offs=ends)
    if bias is not None:
        # Each row takes its own by a product: gradients of chosen rows would be added up in 16 bits, in any order.
        starts = torch.cat((ends.new_zeros(1), ends[:-1]))
        owned = (number[:, None] >= starts) & (number[:, None] < ends)
        y = y + owned.to(y.dtype) @ bias
    return torch.where(used, y, 0)


def spans(ends: Tensor) -> list[tuple[int, int, int]]:
    """Number, first row and end of each expert that has rows."""
    stops = ends.tolist()
    return [(e, a, b) for e, (a, b) in enumerate(zip([0, *stops[:-1]], stops, strict=True)) if b > a]


@torch.library.custom_op("zoo::grouped_linear", mutates_args=())
def _linear(x: Tensor, weight: Tensor, bias: Tensor | None, ends: Tensor) -> Tensor:
    y, last = x.new_empty(x.shape[0], weight.shape[1]), 0
    for e, start, last in spans(ends):
        if bias is None:
            torch.mm(x[start:last], weight[e].t(), out=y[start:last])
        else:
            torch.addmm(bias[e], x[start:last], weight[e].t(), out=y[start:last])
    y[last:] = 0
    return y


@_linear.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor | None, ends: Tensor) -> Tensor:
    return x.new_empty(x.shape[0], weight.shape[1])


@torch.library.custom_op("zoo::grouped_linear_backward", mutates_args=())
def _linear_backward(grad: Tensor, x: Tensor, weight: Tensor, ends: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    by_x, by_weight = torch.empty_like(x), torch.zeros_like(weight)
    by_bias, last = weight.new_zeros(weight.shape[:2]), 0
    for e, start, last in spans(ends):
        rows = grad[start:last]
        torch.mm(rows, weight[e], out=by_x[start:last])
        torch.mm(rows.t(), x[start:last], out=by_weight[e])
        torch.sum(rows, 0, out=by_bias[e])
    by_x[last:] = 0
    return by_x, by_weight, by_bias


@_linear_backward.register_fake
def _(grad: Tensor, x: Tensor, weight: Tensor, ends: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(x), torch.empty_like(weight), weight.new_empty(weight.shape[:2])


@register_flop_formula(torch.ops.zoo.grouped_linear)  # for torch's own counter, which sees this operator alone
def _flops(x: torch.Size, weight: torch.Size, *_, **__) -> int:
    return 2 * x[0] * weight[1:].numel()


@register_flop_formula(torch.ops.zoo.grouped_linear_backward)
def _flops_backward(grad: torch.Size, x: torch.Size, weight: torch.Size, *_, **__) -> int:
    return 4 * x[0] * weight[1:].numel()


def _save(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs)


def _pull_back(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, weight, bias, ends = ctx.saved_tensors
    if guard.transformed():  # the forward pass was not, or it would not have come here
        inputs, needs = (x, weight, bias), ctx.needs_input_grad[:3]
        with torch.enable_grad():
            y = everywhere(x, weight, bias, ends)
        return *gradients(y, inputs, needs, grad, create_graph=torch.is_grad_enabled()), None
    by_x, by_weight, by_bias = _linear_backward(grad.contiguous(), x, weight, ends)
    return by_x, by_weight, None if bias is None else by_bias, None


def _pull_back_again(ctx, of_x: Tensor, of_weight: Tensor, of_bias: Tensor) -> tuple[Tensor | None, ...]:
    """From gradients of the three gradients: each of those is a product, of which both factors get theirs."""
    grad, x, weight, ends = ctx.saved_tensors
    by_grad = _linear(of_x.contiguous(), weight, None, ends) + _linear(x, of_weight.contiguous(), of_bias, ends)
    by_x = _linear(grad, of_weight.mT.contiguous(), None, ends)
    by_weight = _linear_backward(grad, of_x.contiguous(), weight, ends)[1]
    return by_grad, by_x, by_weight, None


_linear.register_autograd(_pull_back, setup_context=_save)
_linear_backward.register_autograd(_pull_back_again, setup_context=_save)
