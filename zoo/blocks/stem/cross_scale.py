"""RaftMLP's stem: windows of several sizes around each patch."""

from torch import Tensor, fx

from zoo.blocks.cross_scale import CrossScale, Kernels
from zoo.blocks.images import check_batch
from zoo.blocks.kernels.images import conv_image
from zoo.blocks.options import with_options_of
from zoo.checks.ranges import Channels, Width
from zoo.slots.table import register

fx.wrap("check_batch")


@register("stem", "cross_scale")
class CrossScaleStem(CrossScale):
    """Each patch, and larger windows around it, mapped to a vector by one linear map.

    Args:
        kernels: Sides of the windows, in pixels; the smallest is the patch.
        init: A scheme of `zoo.blocks.init`.

    Shape: ``(B, in_chans, H, W) -> (B, H // min(kernels), W // min(kernels), dim)``.

    Example:
        >>> import torch
        >>> CrossScaleStem(3, 8)(torch.randn(2, 3, 32, 30)).shape
        torch.Size([2, 8, 7, 8])

    Source: Tatsunami, Taki, "RaftMLP" (arXiv 2108.04384), section 3.3; okojoalg/raft-mlp, libs/modules.py,
        CrossScaleMLPEmbedding.
    Differs: computed as one convolution. Pixels that fill no whole patch are left to the larger windows; the official
        code enlarges such an image to whole patches.
    Cost: max(kernels) ** 2 x in_chans x dim MACs a position.
    Raises: ValueError if the image has another number of channels or holds no patch, or for windows without a common
        centre.
    """

    follows = ("init",)

    @with_options_of(CrossScale)
    def __init__(self, in_chans: Channels, dim: Width, *, kernels: Kernels = (4, 8), **options):
        super().__init__(in_chans, dim, kernels=kernels, **options)

    def forward(self, x: Tensor) -> Tensor:
        check_batch(x, self.in_dim, (self.stride, self.stride, 0))
        return conv_image(x, self.convolve)
