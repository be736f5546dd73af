"""StarReLU with fewer passes over memory, and with less kept for the backward pass."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.blocks.kernels import guard, onednn


def star_relu(x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """``scale * relu(x)^2 + bias``.

    Args:
        x: Any tensor.
        scale, bias: One number each, ``(1,)``.
    """
    if not guard.plain(x, scale, bias):
        return plain_star_relu(x, scale, bias)  # whoever compiles makes one pass of it
    return _StarReLU.apply(x, scale, bias) if torch.is_grad_enabled() else _in_two_passes(x, scale, bias)


def plain_star_relu(x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """`star_relu` in operators that everybody knows."""
    return scale * F.relu(x).square() + bias


def linear_star_relu(x: Tensor, weight: Tensor, bias: Tensor | None, act: nn.Module) -> Tensor:
    """A StarReLU behind oneDNN's product, which takes the ``relu``: the rest is in place. For `FUSED` of `linear`."""
    y = onednn.linear(x, weight, bias, "relu")
    return torch.addcmul(act.bias, y, y, value=act.scale.item(), out=y)


def _in_two_passes(x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """Three passes where the scale cannot be read, or the host would wait for the device."""
    x = F.relu(x)
    if x.device.type == "cpu":
        return torch.addcmul(bias, x, x, value=scale.item())
    return torch.addcmul(bias, x, x * scale)


class _StarReLU(torch.autograd.Function):
    """StarReLU that keeps only its input for the backward pass, where autograd would keep two tensors of that size."""

    @staticmethod
    def forward(x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
        return _in_two_passes(x, scale, bias)

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
