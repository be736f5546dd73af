"""From features to an image."""

from torch import Tensor, nn

from zoo.blocks.linear import Linear, linear
from zoo.blocks.options import with_options_of
from zoo.checks.ranges import Channels, Classes, Side, Width
from zoo.slots.table import register


@register("head", "image")
class ImageHead(nn.Module):
    """A linear map from one vector to a whole image.

    Args:
        num_classes: Nothing to an image; it is taken since heads are built alike.
        img_shape: Channels, height and width of the image.
        init: A scheme of `zoo.blocks.init`; outputs begin with about the variance of the features.

    Shape: ``(B, dim) -> (B, channels, height, width)``.

    Example:
        >>> import torch
        >>> ImageHead(8, 0, img_shape=(1, 4, 4))(torch.randn(2, 8)).shape
        torch.Size([2, 1, 4, 4])

    Source: the output projection of arXiv 2510.01796.
    Differs: none known.
    Cost: dim x channels x height x width MACs.
    """

    makes_image = True  # in place of logits

    @with_options_of(Linear, init="xavier")
    def __init__(self, dim: Width, num_classes: Classes, *, img_shape: tuple[Channels, Side, Side], **options):
        super().__init__()
        self.img_shape = tuple(img_shape)
        channels, height, width = img_shape
        self.proj = Linear(dim, channels * height * width, **options)

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.proj).unflatten(-1, self.img_shape)
