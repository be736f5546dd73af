"""A plain depthwise convolution as a token mixer: ConvNeXt's."""

from torch import Tensor, fx

from zoo.blocks.conv import DepthwiseConv2d, as_image, conv_nhwc
from zoo.blocks.mixer import Mixer
from zoo.blocks.options import with_options_of
from zoo.checks.ranges import OddSide, Width
from zoo.slots.table import register

fx.wrap("as_image")


@register("token_mixer", "depthwise_conv")
class DepthwiseConv(Mixer):
    """Each channel convolved with a kernel of its own; zeros outside the image. A sequence is an image of height 1.

    Args:
        kernel_size: Side of the kernel, odd.
        bias: Whether there is a bias.
        init: A scheme of `zoo.blocks.init`.

    Shape: ``(B, *S, dim) -> (B, *S, dim)``, one or two position dimensions of any size.

    Example:
        >>> import torch
        >>> DepthwiseConv(8, kernel_size=5)(torch.randn(2, 6, 9, 8)).shape
        torch.Size([2, 6, 9, 8])

    Source: Liu et al., "A ConvNet for the 2020s" (arXiv 2201.03545), section 2.5; facebookresearch/ConvNeXt,
        models/convnext.py.
    Differs: none known.
    Cost: kernel_size x kernel_size x dim MACs a position.
    Raises: ValueError for an even or non-positive kernel size.
    """

    follows = ("init",)

    @with_options_of(DepthwiseConv2d, without=["dilation"])
    def __init__(self, dim: Width, *, kernel_size: OddSide = 7, **options):
        super().__init__()
        self.conv = DepthwiseConv2d(dim, kernel_size, **options)

    def forward(self, x: Tensor) -> Tensor:
        return conv_nhwc(self.conv, as_image(x)).reshape(x.shape)
