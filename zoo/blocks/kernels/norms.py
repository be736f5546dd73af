"""Norms over a sample: without transpositions in exported programs, without torch's slow vector norm on the CPU, and
inside the map behind them.
"""

import torch
from torch import Tensor, nn

from zoo.blocks.kernels import guard
from zoo.blocks.kernels.linear import linear

# Norms that multiply each channel of a sample by a factor and then shift it, ``x * scale(x) + beta``: classes with that
# method and attribute.
FACTORS: set[type[nn.Module]] = set()


def sample_norm(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float) -> Tensor:
    """Normalisation over all positions and channels of a sample, with a scale and a shift a channel.

    Shape: ``(B, *S, C) -> (B, *S, C)``.
    """
    if guard.exporting():  # other runtimes would copy at every permutation; of one channel there is none
        y = torch.group_norm(x[:, None].flatten(2), 1, None, None, eps, False).view(x.shape) * weight
        return y if bias is None else y + bias
    # A channels_last image of one column: neither permutation copies. Not `F.group_norm`, which refuses a sample of a
    # single number where the batch is of one alone, as if this were a batch norm.
    image = x[:, None].flatten(1, -2)[:, :, None].permute(0, 3, 1, 2)
    y = torch.group_norm(image, 1, weight, bias, eps, torch.backends.cudnn.enabled)
    return y.permute(0, 2, 3, 1).reshape(x.shape)


def norm_over_positions(x: Tensor) -> Tensor:
    """The Euclidean norm of each channel, ``(B, N, C) -> (B, 1, C)``, in fp32 at least."""
    if x.device.type == "cpu" and x.dtype in (torch.float32, torch.bfloat16):
        # Along any but the last dimension torch's vector norm takes 2 to 18 times as long as squares and a sum, which
        # accumulates in fp32. At 0 the root has no slope; the clamp, like the vector norm, gives it none.
        tiny = torch.finfo(torch.float32).tiny
        return x.square().sum(1, keepdim=True).float().clamp_min(tiny).sqrt()
    return plain_norm_over_positions(x)


def plain_norm_over_positions(x: Tensor) -> Tensor:
    """`norm_over_positions` by torch's vector norm."""
    wide = torch.promote_types(x.dtype, torch.float32)
    return torch.linalg.vector_norm(x, dim=1, keepdim=True, dtype=wide)


def linear_of_norm(x: Tensor, norm: nn.Module, fc: nn.Module) -> Tensor:
    """``fc(norm(x))``, with the factors of the norm on the weights where these are smaller than the features.

    The gradient then needs no pass over the features either. In training at UniRepLKNet-T's first two stages the whole
    mixer takes 1.1 to 1.6 times as long without; with fewer positions it would take longer with (torch 2.15, Zen 4,
    batch 8).

    Shape: ``(B, N, in_features) -> (B, N, out_features)``.
    """
    seen_into = type(norm) in FACTORS and guard.bare(norm, type(norm)) and guard.bare(fc, nn.Linear)
    seen_into = seen_into and (guard.compiling() or guard.plain(x, fc.weight))
    if not seen_into or x.shape[1] < x.shape[2]:
        return plain_linear_of_norm(x, norm, fc)
    weight = (fc.weight * norm.scale(x)).transpose(1, 2)
    bias = fc.bias if norm.beta is None else nn.functional.linear(norm.beta, fc.weight, fc.bias)
    return torch.bmm(x, weight) if bias is None else torch.baddbmm(bias[None, None], x, weight)


def plain_linear_of_norm(x: Tensor, norm: nn.Module, fc: nn.Module) -> Tensor:
    """`linear_of_norm`, the norm called."""
    return linear(norm(x), fc)
