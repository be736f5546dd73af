"""Learnt functions of single numbers, and sums of them: block by block, with the backward pass written by hand.

Plain torch holds all functions of all inputs, and autograd what every step of them needs. Here what is held at a time
fits into the cache, and for the backward pass only the input is kept, of which the functions are evaluated again.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.blocks.kernels import cost, guard
from zoo.blocks.kernels.autograd import gradients
from zoo.blocks.kernels.linear import product

BLOCK = 2**23  # elements of the evaluated functions that are held at a time
CACHED = 2**20  # values of functions on edges that are held at a time on the CPU: they stay in the cache of a core


class Layer(Protocol):
    """What is asked of a layer of learnt functions, or of such a layer as it was in its forward pass."""

    rows: int  # functions of an input

    def functions(self, x: Tensor) -> Tensor:
        """All functions of every input, in plain operations: ``(*, features) -> (*, rows, features)``."""

    def fill(self, x: Tensor, out: Tensor) -> None:
        """Write them into ``(N, rows, features)``."""

    def pull_back(self, x: Tensor, grad: Tensor) -> tuple[Tensor, ...]:
        """Gradients by `x`, and by what `function_parameters` gives."""

    def function_parameters(self) -> Sequence[nn.Parameter]:
        """The parameters of the functions."""

    def held(self) -> "Layer":
        """The layer with the tensors that it has now."""


def eager(x: Tensor) -> bool:
    """Whether nobody watches who would not see into a custom backward pass, and nobody counts costs."""
    return guard.plain(x) and not cost.counting()


def _plain_backward(grad: Tensor) -> bool:
    """Whether a backward pass may run in place: no gradient of the gradient can be asked for, nor several at once."""
    return not torch.is_grad_enabled() and guard.plain(grad)


def _without_autocast(x: Tensor) -> AbstractContextManager:
    """Within it, autocast is off; where it is off already this costs nothing."""
    device = x.device.type
    return torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else nullcontext()


def cached_rows(x: Tensor, size: int) -> Iterator[slice]:
    """Ranges of `size` rows, whose values fit into the cache of a processor; on a GPU all rows at once."""
    size = max(1, size if x.device.type == "cpu" else len(x))
    return (slice(start, min(start + size, len(x))) for start in range(0, len(x), size))


# --- Sums of functions, as a linear map makes them --------------------------------------------------------------------


def expand(layer: Layer, x: Tensor, weight: Tensor, precision: torch.dtype) -> Tensor:
    """Sums of the functions of every input, by a weight ``(out_features, rows, in_features)``.

    Shape: ``(*, in_features) -> (*, out_features)``.
    """
    parameters = layer.function_parameters()
    if not (eager(x) and guard.plain(weight, *parameters)):
        return plain_expand(layer, x, weight, precision)
    with _without_autocast(x):
        y = _Expand.apply(layer, precision, x.reshape(-1, x.shape[-1]), weight, *parameters)
    return y.view(*x.shape[:-1], len(weight))


def plain_expand(layer: Layer, x: Tensor, weight: Tensor, precision: torch.dtype) -> Tensor:
    """`expand` of all functions at once."""
    return F.linear(layer.functions(x).flatten(-2).to(precision), weight.flatten(1).to(precision))


class _Expand(torch.autograd.Function):
    """``F.linear(functions(x), weight)`` block by block, forwards and backwards.

    What fits into one block is kept for the backward pass; of a longer input only the input itself.
    """

    @staticmethod
    def forward(ctx, layer: Layer, precision: torch.dtype, x: Tensor, weight: Tensor, *parameters: Tensor) -> Tensor:
        ctx.layer, ctx.precision = layer.held() if any(ctx.needs_input_grad) else None, precision
        matrix = weight.flatten(1).to(precision)
        y, kept = torch.empty(len(x), len(weight), dtype=precision, device=x.device), None
        for rows, functions in _blocks(layer, x, matrix):
            y[rows] = product(functions, matrix, None)
            kept = functions if len(functions) == len(x) else None
        ctx.save_for_backward(x, weight, kept, *parameters)
        return y

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, kept, *parameters = ctx.saved_tensors
        inputs, needs, layer = (x, weight, *parameters), ctx.needs_input_grad[2:], ctx.layer
        if not _plain_backward(grad):
            with torch.enable_grad():
                y = plain_expand(layer, x, weight, ctx.precision)
            return None, None, *gradients(y, inputs, needs, grad, create_graph=torch.is_grad_enabled())
        matrix = weight.flatten(1).to(ctx.precision)
        by_weight = torch.zeros_like(matrix, dtype=weight.dtype) if needs[1] else None
        by_x = torch.empty_like(x) if needs[0] or any(needs[2:]) else None
        totals: list[Tensor] = []
        for rows, functions in _blocks(layer, x, matrix) if kept is None else [(slice(len(x)), kept)]:
            if by_weight is not None:
                by_weight += product(grad[rows].t(), functions.t(), None)
            if by_x is not None:
                by_functions = product(grad[rows], matrix.t(), None).view(-1, *weight.shape[1:])
                by_x[rows], *by_parameters = layer.pull_back(x[rows], by_functions)
                totals = [a + b for a, b in zip(totals, by_parameters, strict=True)] if totals else by_parameters
        by_weight = None if by_weight is None else by_weight.view_as(weight)
        return None, None, by_x, by_weight, *(totals or [None] * len(parameters))


def _blocks(layer: Layer, x: Tensor, matrix: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Ranges of rows, and the functions on these rows as a matrix; each overwrites the one before it."""
    width = matrix.shape[1]
    size = max(1, BLOCK // width)
    buffer = torch.empty(min(size, len(x)), width, dtype=matrix.dtype, device=x.device)
    for start in range(0, len(x), size):
        rows = slice(start, min(start + size, len(x)))
        functions = buffer[: rows.stop - start]
        layer.fill(x[rows], functions.view(len(functions), -1, x.shape[1]))
        yield rows, functions


# --- The functions themselves -----------------------------------------------------------------------------------------


def evaluate(edges: Layer, x: Tensor, dtype: torch.dtype) -> Tensor:
    """All functions of every input.

    Shape: ``(*, features) -> (*, rows, features)``.
    """
    parameters = edges.function_parameters()
    if not (eager(x) and guard.plain(*parameters)):
        return plain_evaluate(edges, x, dtype)
    with _without_autocast(x):
        functions = _Evaluate.apply(edges, dtype, x.reshape(-1, x.shape[-1]), *parameters)
    return functions.view(*x.shape[:-1], *functions.shape[1:])


def plain_evaluate(edges: Layer, x: Tensor, dtype: torch.dtype) -> Tensor:
    """`evaluate` in plain operations, all of whose steps are kept."""
    return edges.functions(x).to(dtype)


class _Evaluate(torch.autograd.Function):
    """`functions` of rows of numbers, without the steps in between."""

    @staticmethod
    def forward(ctx, edges: Layer, dtype: torch.dtype, x: Tensor, *parameters: Tensor) -> Tensor:
        ctx.edges = edges.held() if any(ctx.needs_input_grad) else None
        ctx.save_for_backward(x, *parameters)
        functions = torch.empty(len(x), edges.rows, x.shape[1], dtype=dtype, device=x.device)
        edges.fill(x, functions)
        return functions

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        inputs, needs = ctx.saved_tensors, ctx.needs_input_grad[2:]
        if not _plain_backward(grad):
            with torch.enable_grad():
                functions = plain_evaluate(ctx.edges, inputs[0], grad.dtype)
            return None, None, *gradients(functions, inputs, needs, grad, create_graph=torch.is_grad_enabled())
        by_x, *by_parameters = ctx.edges.pull_back(inputs[0], grad)
        return None, None, by_x.to(inputs[0].dtype), *by_parameters


# --- How large they are -----------------------------------------------------------------------------------------------


def mean_sizes(layer: Layer, x: Tensor, weight: Tensor) -> Tensor:
    """Mean absolute value of the weighted functions of every edge over the inputs, by a weight of fp32 at least.

    Shape: ``(N, in_features)`` and ``(out_features, rows, in_features) -> (out_features, in_features)``.
    """
    parameters = layer.function_parameters()
    if not (eager(x) and guard.plain(weight, *parameters)):
        return plain_mean_sizes(layer, x, weight)
    return _Sizes.apply(layer, x, weight, *parameters)


def plain_mean_sizes(layer: Layer, x: Tensor, weight: Tensor) -> Tensor:
    """`mean_sizes` in plain operations."""
    functions = layer.functions(x)
    count = torch.ones_like(functions[:, 0, 0]).sum().clamp(min=1)  # a number of samples stays one of them, recorded
    return torch.einsum("nri,ori->noi", functions, weight.to(functions.dtype)).abs().sum(0) / count


class _Sizes(torch.autograd.Function):
    """`mean_sizes` block by block, forwards and backwards."""

    @staticmethod
    def forward(ctx, layer: Layer, x: Tensor, weight: Tensor, *parameters: Tensor) -> Tensor:
        ctx.layer = layer.held() if any(ctx.needs_input_grad) else None
        ctx.save_for_backward(x, weight, *parameters)
        total, factors = weight.new_zeros(weight.shape[2], len(weight)), weight.permute(2, 0, 1).contiguous()
        for rows in _rows(x, weight):
            functions = _functions(layer, x[rows], weight)
            for part in _features(functions, factors):
                total[part] += torch.bmm(factors[part], functions[part]).abs_().sum(-1)
        return total.t() / max(1, len(x))

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, *parameters = ctx.saved_tensors
        needs, layer = ctx.needs_input_grad[1:], ctx.layer
        if not _plain_backward(grad):
            with torch.enable_grad():
                sizes = plain_mean_sizes(layer, x, weight)
            again = torch.is_grad_enabled()
            return None, *gradients(sizes, (x, weight, *parameters), needs, grad, create_graph=again)
        factors = weight.permute(2, 0, 1).contiguous()
        grad = (grad / max(1, len(x))).t().unsqueeze(-1)
        by_factors, by_x, totals = torch.zeros_like(factors), torch.empty_like(x), []
        for rows in _rows(x, weight):
            functions = _functions(layer, x[rows], weight)
            by_functions = torch.empty_like(functions)
            for part in _features(functions, factors):
                signs = torch.bmm(factors[part], functions[part]).sign_().mul_(grad[part])
                by_factors[part] += torch.bmm(signs, functions[part].mT)
                torch.bmm(factors[part].mT, signs, out=by_functions[part])
            if needs[0] or any(needs[2:]):
                by_x[rows], *by_parameters = layer.pull_back(x[rows], by_functions.permute(2, 1, 0).contiguous())
                totals = [a + b for a, b in zip(totals, by_parameters, strict=True)] if totals else by_parameters
        by_weight = by_factors.permute(1, 2, 0) if needs[1] else None
        return None, by_x if needs[0] else None, by_weight, *(totals or [None] * len(parameters))


def _limit(x: Tensor) -> int:
    return CACHED if x.device.type == "cpu" else 64 * CACHED


def _rows(x: Tensor, weight: Tensor) -> Iterator[slice]:
    """Ranges of inputs whose functions, and values on the edges of one of their features, are within the limit."""
    size = max(1, _limit(x) // max(len(weight), weight[0].numel()))
    return (slice(start, start + size) for start in range(0, len(x), size))


def _features(functions: Tensor, factors: Tensor) -> Iterator[slice]:
    """Ranges of features whose values on the edges are within the limit."""
    size = max(1, _limit(functions) // (functions.shape[2] * factors.shape[1]))
    return (slice(start, start + size) for start in range(0, len(factors), size))


def _functions(layer: Layer, x: Tensor, weight: Tensor) -> Tensor:
    """The functions of the inputs, (features, rows, N)."""
    functions = torch.empty(len(x), *weight.shape[1:], dtype=weight.dtype, device=x.device)
    layer.fill(x, functions)
    return functions.permute(2, 1, 0).contiguous()
