"""MS-MLP's token mixer: groups of channels are shifted, each by another distance, and convolved by another kernel."""

from collections.abc import Sequence
from typing import Annotated

import torch
from torch import Tensor, fx, nn

from zoo.blocks.conv import DepthwiseConv2d, as_image, conv_nhwc
from zoo.blocks.mixer import Mixer
from zoo.blocks.options import with_options_of
from zoo.checks.ranges import Length, OddSide, Width
from zoo.slots.table import register

fx.wrap("as_image")

Kernels = Annotated[Sequence[OddSide], Length(1, 64)]


@register("token_mixer", "mix_shift")
class MixShift(Mixer):
    """The channels in groups, each moved around the grid, across and down, and convolved; the two are added.

    The middle group stays where it is, the groups before it move back by one position more each, those after it on.
    What leaves the grid comes in on the other side; to the convolutions zeros stand outside.

    Args:
        kernels: The side of each group's kernel, odd.
        init: A scheme of `zoo.blocks.init`.

    Shape: ``(B, *S, dim) -> (B, *S, dim)``, one or two position dimensions of any size; a sequence is an image of
        height 1.

    Example:
        >>> MixShift(10)(torch.randn(2, 6, 9, 10)).shape
        torch.Size([2, 6, 9, 10])

    Source: Zheng et al., "Mixing and Shifting: Exploiting Global and Local Dependencies in Vision MLPs" (arXiv
        2202.06510), section 3.2; JegZheng/MS-MLP, models/ms_mlp.py, MixShiftBlock.
    Differs: where `dim` gives fewer groups than there are kernels, the last kernels are left out, which the official
        code refuses.
    Cost: 2 x the mean kernel area x dim MACs a position.
    Raises: ValueError for an even kernel.
    """

    follows = ("init",)

    @with_options_of(DepthwiseConv2d, without=["dilation", "bias"])
    def __init__(self, dim: Width, *, kernels: Kernels = (1, 1, 3, 5, 7), **options):
        super().__init__()
        width = -(-dim // len(kernels))  # the last group has what is left
        self.widths = [min(width, dim - start) for start in range(0, dim, width)]
        self.shifts = [i - len(kernels) // 2 for i in range(len(self.widths))]
        sizes = list(zip(self.widths, kernels, strict=False))
        self.across = nn.ModuleList(DepthwiseConv2d(*size, **options) for size in sizes)
        self.down = nn.ModuleList(DepthwiseConv2d(*size, **options) for size in sizes)

    def forward(self, x: Tensor) -> Tensor:
        groups = as_image(x).split(self.widths, -1)
        mixed = []
        for i, shift in enumerate(self.shifts):
            across, down = groups[i].roll(shift, 2), groups[i].roll(shift, 1)
            mixed.append(conv_nhwc(self.across[i], across) + conv_nhwc(self.down[i], down))
        return torch.cat(mixed, -1).reshape(x.shape)

    def extra_repr(self) -> str:
        return f"widths={self.widths}, shifts={self.shifts}"
