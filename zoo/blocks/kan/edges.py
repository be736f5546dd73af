"""The functions on the edges of KAN layers: their values, their sizes, and one taken out."""

import copy

import torch
from torch import Tensor, nn

from zoo.blocks.kan.bases.base import finite, wide
from zoo.blocks.kan.bases.spline import Spline
from zoo.blocks.kan.linear import KANLinear
from zoo.blocks.kernels.functions import mean_sizes


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
        return mean_sizes(layer, x, weight)


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
