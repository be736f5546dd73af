"""The two-layer perceptron with global response normalisation: ConvNeXt V2's and UniRepLKNet's."""

import torch
from torch import Tensor, fx, nn

from zoo.blocks.batch_norm import over_channels
from zoo.blocks.conv import batchnorm_affine
from zoo.blocks.kernels.norms import FACTORS, linear_of_norm, norm_over_positions
from zoo.blocks.linear import Linear, hidden_width, linear_act
from zoo.blocks.mixer import Mixer
from zoo.blocks.options import placement, pop_options_of, with_options_of
from zoo.checks.ranges import Rate, Width
from zoo.slots import SlotLike, build_act
from zoo.slots.table import register

fx.wrap("norm_over_positions")

EPS = 1e-6


@register("channel_mixer", "grn_mlp")
class GrnMlp(Mixer):
    """Linear map, activation, global response normalisation, linear map, and a batch norm if asked for.

    Args:
        ratio: Hidden width over `dim`; the hidden width is ``int(ratio * dim)``.
        hidden: Hidden width itself, instead of `ratio`.
        act: An activation slot.
        batchnorm: A batch norm behind the second map, which then has no bias (UniRepLKNet).
        drop: Dropout after the activation and at the end.
        init: A scheme of `zoo.blocks.init`.

    Shape: ``(B, *S, dim) -> (B, *S, dim)``; ``(B, dim)`` is one position.

    Example:
        >>> GrnMlp(8, ratio=2, batchnorm=True)(torch.randn(2, 3, 3, 8)).shape
        torch.Size([2, 3, 3, 8])

    Source: Woo et al., "ConvNeXt V2" (arXiv 2301.00808), algorithm 1; with batch norm: Ding et al., "UniRepLKNet"
        (arXiv 2311.15599); AILab-CVC/UniRepLKNet, unireplknet.py.
    Differs: none known.
    Cost: 2 x dim x hidden MACs a position.
    Raises: ValueError for a hidden width below 1.
    """

    follows = ("init", "act", "drop")

    per_position = False  # the norm is over the positions of a sample, which the experts of a mixture do not see

    @with_options_of(hidden_width, Linear)
    def __init__(self, dim: Width, *, act: SlotLike = "gelu", batchnorm: bool = False, drop: Rate = 0.0, **options):
        super().__init__()
        hidden = hidden_width("grn_mlp", dim, **pop_options_of(hidden_width, options))
        dd = placement(options)
        self.deployed = False
        self.fc1 = Linear(dim, hidden, **options)
        self.act = build_act(act, **dd)
        self.grn = GRN(hidden, **dd)
        self.drop = nn.Dropout(drop) if drop > 0 else None
        self.fc2 = Linear(hidden, dim, not batchnorm, **options)
        self.norm = nn.BatchNorm2d(dim, **dd) if batchnorm else None

    def forward(self, x: Tensor) -> Tensor:
        y = linear_act(x, self.fc1, self.act)
        y = y if self.drop is None else self.drop(y)
        y = linear_of_norm(_positions(y), self.grn, self.fc2).view(x.shape)
        if self.norm is not None:
            y = over_channels(self.norm, y)
        return y if self.drop is None else self.drop(y)

    @torch.no_grad()
    def reparameterize(self, scale: Tensor | None = None) -> None:
        """Merge the norm's shift, the batch norm and a factor a channel of the output into the second map, in place.

        Args:
            scale: What the output is multiplied with from now on, ``(dim,)``: the block's layer scale.
        """
        if self.deployed and scale is None:
            return
        old = self.fc2.weight
        weight = old.double()
        bias = weight.new_zeros(len(weight)) if self.fc2.bias is None else self.fc2.bias.double()
        if self.grn.beta is not None:
            bias = bias + weight @ self.grn.beta.double()
        if self.norm is not None:
            (factor,), (shift,) = batchnorm_affine([self.norm], torch.float64)
            weight, bias = weight * factor[:, None], bias * factor + shift
        if scale is not None:
            weight, bias = weight * scale.double()[:, None], bias * scale.double()
        self.fc2.weight = nn.Parameter(weight.to(old.dtype), old.requires_grad)
        self.fc2.bias = nn.Parameter(bias.to(old.dtype), old.requires_grad)
        self.grn.beta = self.norm = None
        self.deployed = True


@fx.wrap
def _positions(x: Tensor) -> Tensor:
    """``(B, *S, C) -> (B, N, C)``; without position dimensions one position."""
    return x.flatten(1, -2) if x.ndim > 2 else x[:, None]


class GRN(nn.Module):
    """Global response normalisation: a channel is amplified as its norm over the positions exceeds the mean one.

    Shape: ``(B, N, dim) -> (B, N, dim)``.

    Example:
        >>> grn, x = GRN(4), torch.randn(2, 3, 4)
        >>> torch.equal(grn(x), x)  # the identity at the start
        True

    Source: Woo et al., "ConvNeXt V2" (arXiv 2301.00808), equations 1 to 3 and algorithm 1.
    Differs: none known.
    Cost: no MACs by zoo's convention (element-wise).
    """

    no_decay = ("gamma", "beta")

    def __init__(self, dim: Width, *, device=None, dtype=None):
        super().__init__()
        self.gamma = nn.Parameter(torch.empty(dim, device=device, dtype=dtype))
        self.beta: nn.Parameter | None = nn.Parameter(torch.empty(dim, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.gamma)
        if self.beta is not None:
            nn.init.zeros_(self.beta)

    def forward(self, x: Tensor) -> Tensor:
        scale = self.scale(x)
        return x * scale if self.beta is None else torch.addcmul(self.beta.to(x.dtype), x, scale)

    def scale(self, x: Tensor) -> Tensor:
        """What each channel of each sample is multiplied with, ``(B, 1, dim)``."""
        norm = norm_over_positions(x)
        norm = norm / (norm.mean(-1, keepdim=True) + EPS)
        return (self.gamma * norm + 1).to(x.dtype)


FACTORS.add(GRN)
