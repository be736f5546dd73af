"""Norms of channels-last tensors. None of their parameters is weight-decayed."""

import torch
from torch import Tensor, nn

from zoo.blocks.kernels.norms import sample_norm
from zoo.checks.ranges import Eps, Scale, Width
from zoo.slots.table import register


@register("norm", "layernorm")
class LayerNorm(nn.LayerNorm):
    """Layer normalisation over the channels, with the 1e-6 that vision models use.

    Args:
        gain: Initial value of the weight: 0 lets a branch that ends in this norm begin silent.

    Shape: ``(*, C) -> (*, C)``.

    Example:
        >>> LayerNorm(8)(torch.randn(2, 3, 8)).shape
        torch.Size([2, 3, 8])

    Source: Ba, Kiros, Hinton, "Layer Normalization" (arXiv 1607.06450).
    Differs: none known.
    Cost: no MACs by zoo's convention (element-wise).
    """

    no_decay = ("weight", "bias")

    def __init__(self, dim: Width, *, eps: Eps = 1e-6, bias: bool = True, gain: Scale = 1.0, device=None, dtype=None):
        self.gain = gain  # before super(): its constructor calls reset_parameters()
        super().__init__(dim, eps=eps, bias=bias, device=device, dtype=dtype)

    def reset_parameters(self) -> None:
        super().reset_parameters()
        nn.init.constant_(self.weight, self.gain)


@register("norm", "rmsnorm")
class RMSNorm(nn.RMSNorm):
    """Root-mean-square normalisation: no mean is subtracted, no bias added.

    Shape: ``(*, C) -> (*, C)``.

    Example:
        >>> RMSNorm(8)(torch.randn(2, 3, 8)).shape
        torch.Size([2, 3, 8])

    Source: Zhang, Sennrich, "Root Mean Square Layer Normalization" (arXiv 1910.07467), equation 4.
    Differs: none known.
    Cost: no MACs by zoo's convention (element-wise).
    """

    no_decay = ("weight",)

    def __init__(self, dim: Width, *, eps: Eps = 1e-6, device=None, dtype=None):
        super().__init__(dim, eps=eps, device=device, dtype=dtype)


@register("norm", "groupnorm")
class GroupNorm(nn.Module):
    """Normalisation over all positions and channels of a sample at once, with a scale and a shift a channel.

    Group normalisation with a single group; MetaFormer calls it modified layer norm.

    Shape: ``(B, *S, C) -> (B, *S, C)``; or of one sample alone, ``(C,) -> (C,)``.

    Example:
        >>> x = torch.randn(2, 3, 3, 8)
        >>> torch.allclose(GroupNorm(8)(x).permute(0, 3, 1, 2), nn.GroupNorm(1, 8)(x.permute(0, 3, 1, 2)), atol=1e-5)
        True

    Source: Wu, He, "Group Normalization" (arXiv 1803.08494), with one group; Yu et al., "MetaFormer Is Actually What
        You Need for Vision" (arXiv 2111.11418).
    Differs: torch's kernel for channels-last memory takes the variance as E[x^2] - E[x]^2 in fp32: values whose mean is
        10 times their deviation keep 3 to 4 digits, where that for channels-first memory keeps 6.
    Cost: no MACs by zoo's convention (element-wise).
    """

    no_decay = ("weight", "bias")

    def __init__(self, dim: Width, *, eps: Eps = 1e-5, bias: bool = True, device=None, dtype=None):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.empty(dim, device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.empty(dim, device=device, dtype=dtype)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.ones_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(x, Tensor) and x.ndim == 1:  # a symbol of torch.fx has no dimensions to count
            return self.forward(x[None])[0]
        return sample_norm(x, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        return f"{self.weight.shape[0]}, eps={self.eps}, bias={self.bias is not None}"


@register("norm", "affine")
class Affine(nn.Module):
    """ResMLP's stand-in for a norm: one scale and one shift a channel, no statistics.

    Shape: ``(*, C) -> (*, C)``.

    Example:
        >>> x = torch.randn(2, 3, 8)
        >>> torch.equal(Affine(8)(x), x)
        True

    Source: Touvron et al., "ResMLP" (arXiv 2105.03404), equation 1; facebookresearch/deit, resmlp_models.py.
    Differs: none known.
    Cost: no MACs by zoo's convention (element-wise).
    """

    no_decay = ("alpha", "beta")

    def __init__(self, dim: Width, *, device=None, dtype=None):
        super().__init__()
        self.alpha = nn.Parameter(torch.empty(dim, device=device, dtype=dtype))
        self.beta = nn.Parameter(torch.empty(dim, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.ones_(self.alpha)
        nn.init.zeros_(self.beta)

    def forward(self, x: Tensor) -> Tensor:
        return torch.addcmul(self.beta, self.alpha, x)


@register("norm", "none")
class NoNorm(nn.Identity):
    """No normalisation: the input as it is.

    Shape: ``(*, C) -> (*, C)``.

    Example:
        >>> x = torch.randn(2, 8)
        >>> NoNorm(8)(x) is x
        True

    Source: none. Differs: nothing to differ from. Cost: none.
    """

    def __init__(self, dim: Width, *, device=None, dtype=None):
        super().__init__()
