"""The functions on the edges of KAN layers: their values, their sizes, and one taken out."""

import copy
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from zoo.blocks.kan.bases.base import finite, wide
from zoo.blocks.kan.bases.spline import Spline
from zoo.blocks.kan.linear import Edges, Held, KANLinear, eager, plain_backward
from zoo.blocks.kernels import guard
from zoo.blocks.kernels.autograd import gradients

LIMIT = 2**20  # values of functions on edges that are held at a time on the CPU: they stay in the cache of a core


def edge_values(layer: KANLinear, x: Tensor) -> Tensor:
    """The function of every edge on every input; over the last dimension they sum to the output without its bias.

    Shape: ``(*, in_features) -> (*, out_features, in_features)``.

    Example:
        >>> layer, x = KANLinear(2, 3), torch.randn(5, 2)
        >>> torch.allclose(edge_values(layer, x).sum(-1), layer(x), atol=1e-6)
        True
    """
    with torch.autocast(x.device.type, enabled=False):
        functions = layer.functions(x)
        return torch.einsum("...ri,ori->...oi", functions, layer.edge_weight().to(functions.dtype))


def edge_sizes(layer: KANLinear, x: Tensor) -> Tensor:
    """Mean absolute value of the function of every edge over the inputs, in precision fp32 at least.

    In eager mode it runs over blocks, and again over them for the backward pass, which keeps only the input.

    Shape: ``(*, in_features) -> (out_features, in_features)``.

    Source: Liu et al., "KAN" (arXiv 2404.19756), equation 2.17.
    Cost: as many MACs as the layer itself; beside it all values on the edges, in_features x out_features an input, pass
        through the cache: measured on one core for 256 to 256 features, penalties take 7 times as long as the layer
        forwards and backwards. A penalty may as well be taken on a part of the batch.
    """
    x = x.reshape(-1, layer.in_features)
    weight = layer.edge_weight().to(wide(layer.weight.dtype))
    with torch.autocast(x.device.type, enabled=False):
        parameters = layer.function_parameters()
        if not (eager(x) and guard.plain(weight, *parameters)):
            return _sizes(layer, x, weight)
        return _Sizes.apply(layer, x, weight, *parameters)


def _sizes(layer: Edges, x: Tensor, weight: Tensor) -> Tensor:
    """`edge_sizes` in plain operations."""
    functions = layer.functions(x)
    count = torch.ones_like(functions[:, 0, 0]).sum().clamp(min=1)  # a number of samples stays one of them, recorded
    return torch.einsum("nri,ori->noi", functions, weight.to(functions.dtype)).abs().sum(0) / count


class _Sizes(torch.autograd.Function):
    """`_sizes` block by block, forwards and backwards."""

    @staticmethod
    def forward(ctx, layer: KANLinear, x: Tensor, weight: Tensor, *parameters: Tensor) -> Tensor:
        ctx.layer = Held(layer) if any(ctx.needs_input_grad) else None
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
        wanted, layer = ctx.needs_input_grad[1:], ctx.layer
        if not plain_backward(grad):
            with torch.enable_grad():
                sizes = _sizes(layer, x, weight)
            again = torch.is_grad_enabled()
            return None, *gradients(sizes, (x, weight, *parameters), wanted, grad, create_graph=again)
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
            if wanted[0] or any(wanted[2:]):
                by_x[rows], *by_parameters = layer._pull_back(x[rows], by_functions.permute(2, 1, 0).contiguous())
                totals = [a + b for a, b in zip(totals, by_parameters, strict=True)] if totals else by_parameters
        by_weight = by_factors.permute(1, 2, 0) if wanted[1] else None
        return None, by_x if wanted[0] else None, by_weight, *(totals or [None] * len(parameters))


def _limit(x: Tensor) -> int:
    return LIMIT if x.device.type == "cpu" else 64 * LIMIT


def _rows(x: Tensor, weight: Tensor) -> Iterator[slice]:
    """Ranges of inputs whose functions, and values on the edges of one of their features, are within the limit."""
    size = max(1, _limit(x) // max(len(weight), weight[0].numel()))
    return (slice(start, start + size) for start in range(0, len(x), size))


def _features(functions: Tensor, factors: Tensor) -> Iterator[slice]:
    """Ranges of features whose values on the edges are within the limit."""
    size = max(1, _limit(functions) // (functions.shape[2] * factors.shape[1]))
    return (slice(start, start + size) for start in range(0, len(factors), size))


def _functions(layer: Edges, x: Tensor, weight: Tensor) -> Tensor:
    """The functions of the inputs, (features, rows, N)."""
    functions = torch.empty(len(x), *weight.shape[1:], dtype=weight.dtype, device=x.device)
    layer._fill(x, functions)
    return functions.permute(2, 1, 0).contiguous()


class EdgeFunction(nn.Module):
    """The learnt function of one edge of a KANLinear, as it was when it was taken out.

    Attributes:
        coefficients: Of the basis, (num,).
        base_weight: Factor of the base function; None for a layer without one.
        knots: Of splines, with the continued intervals; None for other bases.
        basis: The basis, of all inputs of the layer.

    Shape: any, and the same out.
    """

    def __init__(self, layer: KANLinear, i: int, j: int):
        super().__init__()
        for end, index, count in (("input", i, layer.in_features), ("output", j, layer.out_features)):
            if not 0 <= index < count:
                raise ValueError(f"{end} {index} does not exist; the layer has {count}, from 0 to {count - 1}")
        weight = layer.edge_weight()[j, :, i].detach().clone()
        self.input, self.output = i, j
        self.basis, self.base = copy.deepcopy(layer.basis), copy.deepcopy(layer.base)
        self.requires_grad_(False)
        self.register_buffer("coefficients", weight[int(layer.base is not None) :])
        self.register_buffer("base_weight", None if layer.base is None else weight[0])

    @property
    def knots(self) -> Tensor | None:
        return self.basis.knots[self.input] if isinstance(self.basis, Spline) else None

    def forward(self, x: Tensor) -> Tensor:
        precise = finite(x.to(wide(x.dtype)))
        every = precise.unsqueeze(-1).expand(*x.shape, self.basis.features)
        values = self.basis.values(every)[..., self.input]
        y = (values * self.coefficients.to(values.dtype)).sum(-1)
        if self.base is not None:
            y = y + self.base_weight.to(values.dtype) * self.base(precise)
        return y.to(x.dtype)

    def extra_repr(self) -> str:
        return f"input={self.input}, output={self.output}"


def edge_function(layer: KANLinear, i: int, j: int) -> EdgeFunction:
    """The function from input `i` to output `j` as a module of its own; zero if the edge was pruned.

    Example:
        >>> layer, x = KANLinear(1, 1), torch.linspace(-1, 1, 5)
        >>> f = edge_function(layer, 0, 0)
        >>> torch.allclose(f(x), layer(x[:, None])[:, 0], atol=1e-6), f.coefficients.shape, f.knots.shape
        (True, torch.Size([8]), torch.Size([12]))

    Raises:
        ValueError: There is no such input or output.
    """
    return EdgeFunction(layer, i, j)
