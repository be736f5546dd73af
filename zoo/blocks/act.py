"""Activations that a slot can name."""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.blocks.kernels import guard
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
        scale, bias = self.scale.to(x.dtype), self.bias.to(x.dtype)
        if not guard.plain(x, scale, bias):
            return scale * F.relu(x).square() + bias  # whoever compiles makes one pass of it
        return _StarReLU.apply(x, scale, bias) if torch.is_grad_enabled() else _star_relu(x, scale, bias)

    def from_relu_(self, x: Tensor) -> Tensor:
        """The rest of the activation after ``relu``, in place: for inference on the CPU."""
        return torch.addcmul(self.bias, x, x, value=self.scale.item(), out=x)


def _star_relu(x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """Two passes over memory; three where the scale cannot be read, or the host would wait for the device."""
    x = F.relu(x)
    if x.device.type == "cpu":
        return torch.addcmul(bias, x, x, value=scale.item())
    return torch.addcmul(bias, x, x * scale)


class _StarReLU(torch.autograd.Function):
    """StarReLU that keeps only its input for the backward pass, where autograd would keep two tensors of that size."""

    @staticmethod
    def forward(x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
        return _star_relu(x, scale, bias)

    @staticmethod
    def setup_context(ctx, inputs: tuple, output: Tensor) -> None:
        x, scale, _ = inputs
        ctx.save_for_backward(x, scale)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, scale = ctx.saved_tensors
        x = F.relu(x)
        product = grad * x
        grad_scale = torch.dot(product.flatten(), x.flatten()).reshape(1)
        # In place, unless the backward pass itself is to be differentiated.
        grad_x = product * (2 * scale) if torch.is_grad_enabled() else product.mul_(2 * scale)
        return grad_x, grad_scale, grad.sum().reshape(1)
