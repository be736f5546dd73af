"""Schemes of initialisation, a slot kind: ``init="trunc_normal(std=0.005)"`` fills weights, and biases, in place.

A scheme is called with a weight ``(out, in, ...)`` and its bias, or None. To add one, derive from `Scheme`, or register
any callable class, under the kind ``init``.
"""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import torch
from timm.layers import lecun_normal_, trunc_normal_
from torch import Tensor, nn

from zoo.checks import callee
from zoo.checks.ranges import Deviation
from zoo.slots import OfKind, SlotLike, build_block
from zoo.slots.table import register

InitLike = Annotated[SlotLike, OfKind("init")]

# A slot; one for each of several matrices in a weight; or a function that fills weight and bias in place.
Init = SlotLike | tuple[SlotLike, ...] | Callable[[Tensor, Tensor | None], None]


@dataclass(frozen=True)
class Scheme:
    """Weights by `fill_weight`, biases by `fill_bias`: zero unless a scheme says otherwise."""

    def fill_weight(self, weight: Tensor) -> None:
        """Fill a weight in place."""
        raise NotImplementedError

    def fill_bias(self, bias: Tensor) -> None:
        """Fill the bias beside it in place."""
        nn.init.zeros_(bias)

    def __call__(self, weight: Tensor, bias: Tensor | None) -> None:
        self.fill_weight(weight)
        if bias is not None:
            self.fill_bias(bias)


@register("init", "trunc_normal")
@dataclass(frozen=True, kw_only=True)
class TruncNormal(Scheme):
    """A normal distribution that is cut off at -2 and 2, as DeiT and ResMLP have it.

    Args:
        std: Its standard deviation.

    Example:
        >>> weight = torch.empty(8, 4)
        >>> TruncNormal(std=0.5)(weight, None)
        >>> bool(weight.abs().max() > 0.1)
        True

    Source: Touvron et al., DeiT (arXiv 2012.12877); facebookresearch/deit.
    Differs: none known.
    """

    std: Deviation = 0.02

    def fill_weight(self, weight: Tensor) -> None:
        if self.std == 0:  # timm's divides by it
            nn.init.zeros_(weight)
        else:
            trunc_normal_(weight, std=self.std)


@register("init", "trunc_normal_005")
@dataclass(frozen=True, kw_only=True)
class NarrowTruncNormal(TruncNormal):
    """`TruncNormal` with a standard deviation of 0.005, as SwinV2-MoE has it."""

    std: Deviation = 0.005


@register("init", "xavier")
@dataclass(frozen=True, kw_only=True)
class Xavier(Scheme):
    """Xavier's uniform distribution, and biases of a standard deviation of 1e-6, as ViT and gMLP have it."""

    def fill_weight(self, weight: Tensor) -> None:
        nn.init.xavier_uniform_(weight)

    def fill_bias(self, bias: Tensor) -> None:
        nn.init.normal_(bias, std=1e-6)


@register("init", "lecun")
@dataclass(frozen=True, kw_only=True)
class LeCun(Scheme):
    """LeCun's normal distribution, Flax's default, as MLP-Mixer and ViT's patch embedding have it."""

    def fill_weight(self, weight: Tensor) -> None:
        lecun_normal_(weight)


@register("init", "zeros")
@dataclass(frozen=True, kw_only=True)
class Zeros(Scheme):
    """Zeros, as the heads of ViT and MLP-Mixer begin."""

    def fill_weight(self, weight: Tensor) -> None:
        nn.init.zeros_(weight)


@register("init", "prior")
@dataclass(frozen=True, kw_only=True)
class Prior(Zeros):
    """Weights of zero, and biases that give each of n classes the probability 1 / n under a sigmoid: V-MoE's head."""

    def fill_bias(self, bias: Tensor) -> None:
        nn.init.constant_(bias, -math.log(len(bias)))


@register("init", "open_gate")
@dataclass(frozen=True, kw_only=True)
class OpenGate(Scheme):
    """Weights of nearly zero and biases of one: the gates of gMLP and gMixer, which let everything through at first."""

    def fill_weight(self, weight: Tensor) -> None:
        nn.init.normal_(weight, std=1e-6)

    def fill_bias(self, bias: Tensor) -> None:
        nn.init.ones_(bias)


@register("init", "torch")
@dataclass(frozen=True, kw_only=True)
class TorchDefault(Scheme):
    """What torch does for linear maps and convolutions: uniform, within one over the root of the number of inputs."""

    def __call__(self, weight: Tensor, bias: Tensor | None) -> None:
        bound = weight[0].numel() ** -0.5
        nn.init.uniform_(weight, -bound, bound)
        if bias is not None:
            nn.init.uniform_(bias, -bound, bound)


@functools.lru_cache(maxsize=256)
def _by_name(text: str) -> Callable[[Tensor, Tensor | None], None]:
    return build_block("init", text)


def init_(weight: Tensor, bias: Tensor | None, scheme: Init) -> None:
    """Fill a weight ``(out, in, ...)`` and its bias in place by a scheme, or by a function of both.

    Low-precision tensors are filled through fp32: drawn in bf16, a truncated normal has outliers at its bounds.

    A tuple of schemes is for a weight of several matrices stacked on the output side, each initialised by itself: a
    fan computed over a whole query-key-value projection would be wrong for each of the three.

    Raises:
        ValueError: A scheme is unknown.
    """
    if callable(scheme) and not isinstance(callee(scheme), type):
        scheme(weight, bias)
        return
    schemes = scheme if isinstance(scheme, tuple) else (scheme,)
    biases = [None] * len(schemes) if bias is None else bias.chunk(len(schemes))
    with torch.no_grad():
        for one, part, part_bias in zip(schemes, weight.chunk(len(schemes)), biases, strict=True):
            fill = _by_name(one) if isinstance(one, str) else build_block("init", one)
            pair = (part, part_bias)
            wide = [None if t is None else t.to(torch.promote_types(t.dtype, torch.float32)) for t in pair]
            fill(*wide)
            for tensor, values in zip(pair, wide, strict=True):
                if tensor is not None and values is not tensor:
                    tensor.copy_(values)
