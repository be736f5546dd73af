"""WaveMix's stems: two convolutions, and patches of what they give."""

from torch import Tensor, fx, nn

from zoo.blocks.conv import Conv2d, conv_nhwc
from zoo.blocks.images import check_batch, conv_grid
from zoo.blocks.kernels.images import conv_image
from zoo.blocks.options import placement, with_options_of
from zoo.blocks.stem.patch import patch_grid, whole_patches
from zoo.checks.ranges import Channels, Side, Width
from zoo.slots import SlotLike, build_act
from zoo.slots.table import register

for _name in ("check_batch", "conv_grid", "patch_grid", "whole_patches"):
    fx.wrap(_name)


@register("stem", "conv_patch")
class ConvPatchStem(nn.Module):
    """Two 3x3 convolutions one behind the other, then patches of the result with an activation and a batch norm.

    The widths double from one to the next, up to `dim`. Nothing stands between the convolutions.

    Args:
        stride: Of both 3x3 convolutions.
        patch: Side of the patches; 1 leaves them out, with the activation and the norm.
        act: The activation slot.
        init: A scheme of `zoo.blocks.init`.

    Shape: ``(B, in_chans, H, W) -> (B, H', W', dim)``, with a stride of 1 ``H' = H / patch``.

    Example:
        >>> import torch
        >>> x = torch.randn(2, 3, 32, 28)
        >>> ConvPatchStem(3, 8)(x).shape, ConvPatchStem(3, 8, stride=2, patch=1)(x).shape
        (torch.Size([2, 8, 7, 8]), torch.Size([2, 8, 7, 8]))

    Source: pranavphoenix/WaveMix, wavemix/classification.py: ``pachify`` and, without patches, ``strided``.
    Differs: what is no whole number of patches is refused; the authors' convolution drops what is left.
    Cost: 9 x in_chans x w + 9 x w x 2 w MACs a position of the 3x3 convolutions, w being dim / 4, and patch x patch x
        dim / 2 x dim one of the result; without patches w is dim / 2 and the second 9 x w x dim.
    Raises: ValueError if the image has another number of channels, or is not a whole number of patches.
    """

    follows = ("init", "act")

    @with_options_of(Conv2d)
    def __init__(
        self, in_chans: Channels, dim: Width, *, stride: Side = 1, patch: Side = 4, act: SlotLike = "gelu", **options
    ):
        super().__init__()
        dd = placement(options)
        middle = dim if patch == 1 else max(1, dim // 2)
        first = max(1, middle // 2)
        self.in_chans, self.middle, self.stride = in_chans, middle, stride**2 * patch
        self.geometry, self.patch_size = (3, stride, 1), (patch, patch)
        self.conv1 = Conv2d(in_chans, first, *self.geometry, **options)
        self.conv2 = Conv2d(first, middle, *self.geometry, **options)
        self.patch = self.act = self.norm = None
        if patch > 1:
            self.patch = Conv2d(middle, dim, patch, patch, **options)
            self.act = build_act(act, **dd)
            self.norm = nn.BatchNorm2d(dim, **dd)

    def grid(self, img_size: tuple[int, int]) -> tuple[int, int]:
        """Number of positions down and across."""
        grid = conv_grid(conv_grid(img_size, *self.geometry), *self.geometry)
        return patch_grid(grid, self.patch_size, "refuse")

    def forward(self, x: Tensor) -> Tensor:
        check_batch(x, self.in_chans, self.geometry, self.geometry)
        x = conv_nhwc(self.conv2, conv_image(x, self.conv1))
        return x if self.patch is None else conv_nhwc(self._patches, x)

    def _patches(self, x: Tensor) -> Tensor:
        x = whole_patches(x, self.middle, self.patch_size, "refuse")
        return self.norm(self.act(self.patch(x)))
