"""RaftMLP's downsampling: windows of several sizes around each 2x2 positions."""

from torch import Tensor

from zoo.blocks.conv import conv_nhwc
from zoo.blocks.cross_scale import CrossScale
from zoo.slots.table import register


@register("downsample", "cross_scale")
class CrossScaleDownsample(CrossScale):
    """Each square of positions, and larger windows around it, mapped to a vector by one linear map.

    Arguments and errors are those of `zoo.blocks.cross_scale.CrossScale`.

    Shape: ``(B, H, W, in_dim) -> (B, H // min(kernels), W // min(kernels), dim)``.

    Example:
        >>> import torch
        >>> CrossScaleDownsample(8, 16)(torch.randn(2, 5, 4, 8)).shape
        torch.Size([2, 2, 2, 16])

    Source: Tatsunami, Taki, "RaftMLP" (arXiv 2108.04384), section 3.3; okojoalg/raft-mlp, libs/modules.py,
        CrossScaleMLPEmbedding.
    Differs: as `zoo.blocks.stem.cross_scale.CrossScaleStem`.
    Cost: max(kernels) ** 2 x in_dim x dim MACs a position of the result.
    Raises: ValueError if the grid is smaller than the smallest window.
    """

    follows = ("init",)

    def forward(self, x: Tensor) -> Tensor:
        return conv_nhwc(self.convolve, x)
