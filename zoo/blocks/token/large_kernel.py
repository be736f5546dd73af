"""UniRepLKNet's token mixer: a large depthwise kernel, trained with small dilated ones beside it."""

from collections import OrderedDict
from typing import Annotated

import torch
from torch import Tensor, fx, nn

from zoo.blocks.conv import DepthwiseConv2d, as_image, batchnorm_affine, conv_nhwc, convolve, depthwise_nhwc
from zoo.blocks.linear import Linear, is_bare, linear
from zoo.blocks.mixer import Mixer
from zoo.blocks.options import placement, with_options_of
from zoo.checks import Interval
from zoo.checks.ranges import Odd, Size, Width
from zoo.slots.table import register

fx.wrap("as_image")

# Side of the large kernel -> (side, dilation) of the kernels beside it.
BRANCHES = {
    3: (),
    5: (),
    7: ((5, 1), (3, 2), (3, 3)),
    9: ((5, 1), (5, 2), (3, 3), (3, 4)),
    11: ((5, 1), (5, 2), (3, 3), (3, 4), (3, 5)),
    13: ((5, 1), (7, 2), (3, 3), (3, 4), (3, 5)),
    15: ((5, 1), (7, 2), (3, 3), (3, 5), (3, 7)),
    17: ((5, 1), (9, 2), (3, 4), (3, 5), (3, 7)),
}
LARGEST = max(BRANCHES)

LargeSide = Annotated[int, Size(3, 1023), Odd()]
SqueezeRatio = Annotated[float, Interval(0, 1024)]  # 0 for no squeeze-and-excitation


def branches_of(kernel_size: int) -> tuple[tuple[int, int], ...]:
    """Side and dilation of each small kernel beside a large one; above 17 those of 17, their dilations in proportion.

    Example:
        >>> branches_of(31)
        ((5, 1), (9, 3), (3, 7), (3, 9), (3, 13))
    """
    if kernel_size in BRANCHES:
        return BRANCHES[kernel_size]
    return tuple((side, dilation * (kernel_size - 1) // (LARGEST - 1)) for side, dilation in BRANCHES[LARGEST])


@register("token_mixer", "large_kernel")
class LargeKernel(Mixer):
    """Depthwise convolution with a large kernel and parallel dilated ones, batch norm, squeeze-and-excitation.

    Every branch is followed by a batch norm of its own, and their sum by another. While these norms use their running
    statistics all of it is one convolution, and is computed as one; `reparameterize` makes that permanent.

    Args:
        kernel_size: Side of the large kernel, odd. With 3 or 5 there is nothing beside it and one batch norm.
        se_ratio: Hidden width of the squeeze-and-excitation over `dim`; 0 leaves it out.
        init: A scheme of `zoo.blocks.init`.

    Shape: ``(B, *S, dim) -> (B, *S, dim)``, one or two position dimensions of any size; a sequence is an image of
        height 1.

    Example:
        >>> mixer = LargeKernel(8, kernel_size=13).eval()
        >>> x = torch.randn(2, 6, 9, 8)
        >>> y, before = mixer(x), sum(p.numel() for p in mixer.parameters())
        >>> mixer.reparameterize()
        >>> torch.allclose(mixer(x), y, atol=1e-6), before - sum(p.numel() for p in mixer.parameters())
        (True, 912)

    Source: Ding et al., "UniRepLKNet" (arXiv 2311.15599), the Dilated Reparam Block; AILab-CVC/UniRepLKNet,
        unireplknet.py. Squeeze-and-excitation: Hu et al. (arXiv 1709.01507).
    Differs: the hidden width of the squeeze-and-excitation is at least 1. For kernels above 17 the authors give no
        branches; `branches_of` is zoo's own rule.
    Cost: kernel_size x kernel_size x dim MACs a position. In training, and for `count_flops` until it is merged, also
        those of the small kernels: 101 x dim beside a kernel of 13.
    Raises: ValueError for an even kernel size or one below 3, or a negative se_ratio.
    """

    follows = ("init",)

    @with_options_of(DepthwiseConv2d, without=["dilation", "bias"])
    def __init__(self, dim: Width, *, kernel_size: LargeSide = 13, se_ratio: SqueezeRatio = 0.25, **options):
        super().__init__()

        def conv(side: int, dilation: int = 1) -> nn.Module:
            return DepthwiseConv2d(dim, side, dilation=dilation, bias=False, **options)

        def bn() -> nn.Module:
            return nn.BatchNorm2d(dim, **placement(options))

        small = branches_of(kernel_size)
        self.deployed = False
        self.conv = conv(kernel_size)
        self.bn = bn() if small else None
        self.branches = nn.ModuleDict(
            {f"k{side}_{r}": nn.Sequential(OrderedDict(conv=conv(side, r), bn=bn())) for side, r in small}
        )
        self.norm = bn()
        width = max(1, int(dim * se_ratio))
        self.se = SqueezeExcite(dim, width, **options) if se_ratio > 0 else None

    def forward(self, x: Tensor) -> Tensor:
        image = as_image(x)
        if self.deployed:
            y = conv_nhwc(self.conv, image)
        elif isinstance(x, Tensor) and self._is_linear():  # symbolic tracing keeps the branches as they are
            weight, bias = self._merge(torch.promote_types(self.conv.weight.dtype, torch.float32))
            y = depthwise_nhwc(image, weight.to(x.dtype), bias.to(x.dtype))
        else:
            y = conv_nhwc(self._branchwise, image)
        y = y if self.se is None else self.se(y)
        return y.reshape(x.shape)

    def _branchwise(self, image: Tensor) -> Tensor:
        y = convolve(self.conv, image)
        if self.bn is not None:
            y = self.bn(y)
        for branch in self.branches.values():
            y = y + (branch.bn(convolve(branch.conv, image)) if is_bare(branch, nn.Sequential) else branch(image))
        return self.norm(y)

    def _is_linear(self) -> bool:
        """Whether nothing but convolutions and batch norms with fixed statistics stands between input and output."""
        norms, convs = [self.norm], [self.conv]
        for branch in self.branches.values():
            norms.append(branch.bn)
            convs.append(branch.conv)
        if self.bn is not None:
            norms.append(self.bn)
        return all(not m.training and is_bare(m, nn.BatchNorm2d) and m.running_var is not None for m in norms) and all(
            is_bare(m, nn.Conv2d) for m in convs
        )

    def _merge(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Kernel and bias of the one convolution that all branches are with their running statistics."""
        weight = self.conv.weight.to(dtype)
        (scale,), (bias,) = batchnorm_affine([self.norm], dtype)
        if self.bn is None:
            return weight * scale[:, None, None, None], bias
        branches = self.branches.values()
        scales, shifts = batchnorm_affine([self.bn, *(branch.bn for branch in branches)], dtype)
        bias = torch.addcmul(bias, shifts.sum(0), scale)
        own, *others = (scales * scale)[..., None, None, None]
        weight = weight * own
        size = weight.shape[-1]
        for branch, factor in zip(branches, others, strict=True):
            side, dilation = branch.conv.weight.shape[-1], branch.conv.dilation[0]
            edge = (size - 1 - dilation * (side - 1)) // 2
            taps = slice(edge, size - edge, dilation)
            weight[:, :, taps, taps] += branch.conv.weight.to(dtype) * factor
        return weight, bias

    @torch.no_grad()
    def reparameterize(self) -> None:
        """Make one convolution with bias of all branches and norms, in place, from their running statistics."""
        if self.deployed:
            return
        weight, bias = self._merge(torch.float64)
        old = self.conv.weight
        self.conv.weight = nn.Parameter(weight.to(old.dtype), old.requires_grad)
        self.conv.bias = nn.Parameter(bias.to(old.dtype), old.requires_grad)
        self.bn = self.branches = self.norm = None
        self.deployed = True


class SqueezeExcite(nn.Module):
    """A factor between 0 and 1 a channel, computed from the mean over the positions by two linear maps.

    Shape: ``(B, *S, dim) -> (B, *S, dim)``.

    Source: Hu et al., "Squeeze-and-Excitation Networks" (arXiv 1709.01507), equations 2 to 4.
    Cost: 2 x dim x hidden MACs a sample.
    """

    @with_options_of(Linear)
    def __init__(self, dim: Width, hidden: int, **options):
        super().__init__()
        self.down = Linear(dim, hidden, **options)
        self.up = Linear(hidden, dim, **options)

    def forward(self, x: Tensor) -> Tensor:
        positions = x.flatten(1, -2)
        return (positions * self.scale(positions)).view(x.shape)

    def scale(self, positions: Tensor) -> Tensor:
        """What each channel of each sample is multiplied with, ``(B, N, dim) -> (B, 1, dim)``."""
        return linear(linear(positions.mean(1, keepdim=True), self.down).relu(), self.up).sigmoid()
