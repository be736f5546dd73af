"""Downsampling by the Haar transform."""

from torch import Tensor

from zoo.blocks.downsample.merge import PatchMerging
from zoo.blocks.haar import haar
from zoo.blocks.linear import linear
from zoo.slots.table import register


@register("downsample", "haar")
class HaarMerging(PatchMerging):
    """Map the four bands of the Haar transform of each 2x2 positions linearly. An odd grid is padded with zeros.

    The arguments are those of `PatchMerging`.

    Shape: ``(B, H, W, in_dim) -> (B, ceil(H / 2), ceil(W / 2), dim)``.

    Example:
        >>> import torch
        >>> HaarMerging(8, 16)(torch.randn(2, 5, 4, 8)).shape
        torch.Size([2, 3, 2, 16])

    Source: zoo's own, of `Haar` and Swin's patch merging (arXiv 2103.14030).
    Differs: nothing to differ from.
    Cost: 4 x in_dim x dim MACs a position of the result.
    """

    def forward(self, x: Tensor) -> Tensor:
        x = haar(x)
        return self.norm(linear(x, self.reduction)) if self.norm_last else linear(self.norm(x), self.reduction)
