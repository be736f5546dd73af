"""Activations that a slot can name."""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.blocks.kernels.activations import linear_star_relu, star_relu
from zoo.blocks.kernels.linear import FUSED
from zoo.checks import NARROWER
from zoo.slots.table import register

for _name, _cls in {"gelu": nn.GELU, "relu": nn.ReLU, "silu": nn.SiLU, "sigmoid": nn.Sigmoid, "tanh": nn.Tanh}.items():
    register("act", _name)(_cls)

register("act", "none")(nn.Identity)
NARROWER[nn.GELU] = {"approximate": Literal["none", "tanh"]}  # torch looks at it when it is called


@register("act", "squared_relu")
class SquaredReLU(nn.Module):
    """``relu(x)^2``.

    Shape: any, and the same out.

    Example:
        >>> SquaredReLU()(torch.tensor([-2.0, 3.0]))
        tensor([0., 9.])

    Source: So et al., "Primer: Searching for Efficient Transformers for Language Modeling" (arXiv 2109.08668).
    Differs: none known.
    Cost: no MACs by zoo's convention (element-wise).
    """

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x).square()


@register("act", "star_relu")
class StarReLU(nn.Module):
    """``scale * relu(x)^2 + bias``, with a learnt scalar each.

    Shape: any, and the same out.

    Example:
        >>> StarReLU()(torch.tensor([-2.0, 3.0])).tolist()
        [0.0, 9.0]

    Source: Yu et al., "MetaFormer Baselines for Vision" (arXiv 2210.13452); sail-sg/metaformer,
        metaformer_baselines.py.
    Differs: starts from scale 1 and bias 0 as the official code does; the paper derives 0.8944 and -0.4472. Under
        autocast it stays in the dtype of its input.
    Cost: no MACs by zoo's convention (element-wise).
    """

    no_decay = ("scale", "bias")

    def __init__(self, *, device=None, dtype=None):
        super().__init__()
        self.scale = nn.Parameter(torch.empty(1, device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.empty(1, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.ones_(self.scale)
        nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        return star_relu(x, self.scale.to(x.dtype), self.bias.to(x.dtype))


FUSED[StarReLU] = linear_star_relu
