"""The inverted separable convolution of MobileNetV2 as a token mixer."""

from torch import Tensor, fx, nn

from zoo.blocks.conv import DepthwiseConv2d, as_image, conv_nhwc
from zoo.blocks.linear import Linear, hidden_width, linear, linear_act
from zoo.blocks.mixer import Mixer
from zoo.blocks.options import placement, pop_options_of, with_options_of
from zoo.checks.ranges import OddSide, Rate, Width
from zoo.slots import SlotLike, build_act
from zoo.slots.table import register

fx.wrap("as_image")


@register("token_mixer", "sep_conv")
class SepConv(Mixer):
    """Widen the channels, activate, convolve each channel over the positions, narrow again.

    Args:
        ratio: Hidden width over `dim`; the hidden width is ``int(ratio * dim)``.
        kernel_size: Side of the convolution's kernel, odd. Outside of the grid are zeros.
        act: An activation slot, applied before the convolution.
        bias: Bias on all three maps.
        drop: Dropout after the last map.
        init: A scheme of `zoo.blocks.init`.

    Shape: ``(B, *S, dim) -> (B, *S, dim)``, one or two position dimensions of any size. A sequence is an image of
        height 1.

    Example:
        >>> import torch
        >>> SepConv(8)(torch.randn(2, 5, 6, 8)).shape
        torch.Size([2, 5, 6, 8])

    Source: Yu et al., "MetaFormer Baselines for Vision" (arXiv 2210.13452); Sandler et al., MobileNetV2
        (arXiv 1801.04381).
    Differs: the dropout, off by default, is zoo's.
    Cost: 2 x dim x hidden + kernel_size x kernel_size x hidden MACs a position.
    Raises: ValueError for an even or non-positive kernel, or a hidden width below 1.
    """

    follows = ("init", "act", "drop")

    @with_options_of(hidden_width, DepthwiseConv2d, without=["hidden", "dilation"], ratio=2.0, bias=False)
    def __init__(
        self, dim: Width, *, kernel_size: OddSide = 7, act: SlotLike = "star_relu", drop: Rate = 0.0, **options
    ):
        super().__init__()
        hidden = hidden_width("sep_conv", dim, **pop_options_of(hidden_width, options))
        self.pwconv1 = Linear(dim, hidden, **options)
        self.act = build_act(act, **placement(options))
        self.dwconv = DepthwiseConv2d(hidden, kernel_size, **options)
        self.pwconv2 = Linear(hidden, dim, **options)
        self.drop = nn.Dropout(drop) if drop > 0 else None

    def forward(self, x: Tensor) -> Tensor:
        y = conv_nhwc(self.dwconv, linear_act(as_image(x), self.pwconv1, self.act))
        y = linear(y, self.pwconv2).reshape(x.shape)
        return y if self.drop is None else self.drop(y)
