"""A stem of two convolutions, each of which halves the image."""

from torch import Tensor, fx, nn

from zoo.blocks.conv import Conv2d
from zoo.blocks.images import check_batch, conv_grid
from zoo.blocks.kernels.images import conv_image
from zoo.blocks.options import placement, with_options_of
from zoo.checks.ranges import Channels, Width
from zoo.slots import SlotLike, build_act, build_block
from zoo.slots.table import register

for _name in ("check_batch", "conv_grid"):
    fx.wrap(_name)

HALVING = (3, 2, 1)  # kernel, stride and padding of a convolution that halves an image


@register("stem", "double_conv")
class DoubleConvStem(nn.Module):
    """Two 3x3 convolutions of stride 2, each with a norm, an activation between them.

    Args:
        norm: The norm slot.
        act: The activation slot.
        init: A scheme of `zoo.blocks.init`.

    Shape: ``(B, in_chans, H, W) -> (B, ceil(H / 4), ceil(W / 4), dim)``.

    Example:
        >>> import torch
        >>> DoubleConvStem(3, 8)(torch.randn(2, 3, 32, 30)).shape
        torch.Size([2, 8, 8, 8])

    Source: Ding et al., "UniRepLKNet" (arXiv 2311.15599); AILab-CVC/UniRepLKNet, unireplknet.py.
    Differs: none known.
    Cost: 9 x in_chans x dim / 2 MACs a position of the half grid, 9 x dim / 2 x dim one of the last.
    Raises: ValueError if the image has another number of channels.
    """

    follows = ("init", "act")

    stride = 4

    @with_options_of(Conv2d)
    def __init__(
        self, in_chans: Channels, dim: Width, *, norm: SlotLike = "layernorm", act: SlotLike = "gelu", **options
    ):
        super().__init__()
        self.in_chans = in_chans
        dd = placement(options)
        middle = max(1, dim // 2)
        self.proj = Conv2d(in_chans, middle, *HALVING, **options)
        self.norm1 = build_block("norm", norm, middle, **dd)
        self.act = build_act(act, **dd)
        self.conv = Conv2d(middle, dim, *HALVING, **options)
        self.norm2 = build_block("norm", norm, dim, **dd)

    def grid(self, img_size: tuple[int, int]) -> tuple[int, int]:
        """Number of positions down and across."""
        return conv_grid(conv_grid(img_size, *HALVING), *HALVING)

    def forward(self, x: Tensor) -> Tensor:
        check_batch(x, self.in_chans, HALVING, HALVING)
        x = self.act(self.norm1(conv_image(x, self.proj)))
        return self.norm2(self.conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))
