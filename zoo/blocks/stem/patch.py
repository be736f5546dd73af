"""A stem of patches: each is mapped to a vector."""

from collections.abc import Sequence
from typing import Literal

import torch
from timm.layers import resample_patch_embed
from torch import Tensor, fx, nn
from torch.nn import functional as F

from zoo.blocks.conv import Conv2d
from zoo.blocks.images import check_batch, check_room, to_pair
from zoo.blocks.kernels.images import patch_conv
from zoo.blocks.options import placement, with_options_of
from zoo.checks.ranges import Channels, Sides, Width
from zoo.slots import SlotLike, build_block
from zoo.slots.table import register


@register("stem", "patch")
class PatchEmbed(nn.Module):
    """Cut an image into patches and map each to a vector; the weights are those of a convolution.

    Args:
        patch_size: Side of a patch, or (height, width).
        norm: A norm slot, applied to the patches' vectors.
        bias: A bias of the map.
        remainder: What becomes of rows and columns that fill no whole patch: ``refuse`` them, ``drop`` them at the
            bottom and the right, or ``pad`` them with zeros.
        init: A scheme of `zoo.blocks.init`.

    Shape: ``(B, in_chans, H, W) -> (B, H / patch, W / patch, dim)``.

    Example:
        >>> PatchEmbed(3, 8, patch_size=4)(torch.randn(2, 3, 16, 8)).shape
        torch.Size([2, 4, 2, 8])

    Source: Dosovitskiy et al., ViT (arXiv 2010.11929), equation 1.
    Differs: none known.
    Cost: in_chans x H x W x dim MACs.
    Raises: ValueError if the image has another number of channels, holds no patch, or where `remainder` is ``refuse``
        is not a whole number of patches.
    """

    follows = ("init", "patch_size")

    @with_options_of(Conv2d, init="torch")
    def __init__(
        self,
        in_chans: Channels,
        dim: Width,
        *,
        patch_size: Sides = 16,
        norm: SlotLike = "none",
        bias: bool = True,
        remainder: Literal["refuse", "drop", "pad"] = "refuse",
        **options,
    ):
        super().__init__()
        self.patch_size = to_pair(patch_size, "patch_size")
        self.in_chans, self.remainder = in_chans, remainder
        self.proj = Conv2d(in_chans, dim, self.patch_size, self.patch_size, bias=bias, **options)
        self.norm = build_block("norm", norm, dim, **placement(options))

    @property
    def stride(self) -> int:
        """Pixels of the image to one position of the grid."""
        return max(self.patch_size)

    def grid(self, img_size: tuple[int, int]) -> tuple[int, int]:
        """Number of patches down and across an image of this size."""
        return patch_grid(img_size, self.patch_size, self.remainder)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(patch_conv(whole_patches(x, self.in_chans, self.patch_size, self.remainder), self.proj))

    def set_patch_size(self, patch_size: int | Sequence[int]) -> None:
        """Resample the convolution to another patch size (FlexiViT's pseudo-inverse resize)."""
        new = to_pair(patch_size, "patch_size")
        if new == self.patch_size:
            return
        if not isinstance(self.proj, nn.Conv2d) or "weight" not in dict(self.proj.named_parameters(recurse=False)):
            raise ValueError(
                f"the stem's convolution has become a {type(self.proj).__name__} whose weight cannot be resampled; set "
                "the patch size first, or merge what was put around it"
            )
        weight = self.proj.weight
        with torch.no_grad():
            resampled = resample_patch_embed(weight, list(new)).to(weight.dtype)
        layout = torch.contiguous_format if weight.is_contiguous() else torch.channels_last
        # In the same module, which may be in evaluation, or have hooks.
        self.proj.weight = nn.Parameter(resampled.contiguous(memory_format=layout), weight.requires_grad)
        self.proj.kernel_size = self.proj.stride = self.patch_size = new


@fx.wrap
def patch_grid(size: tuple[int, int], patch: tuple[int, int], remainder: str) -> tuple[int, int]:
    """Number of patches down and across an image.

    Raises:
        ValueError: The image holds no patch, or where a remainder is refused is no whole number of them.
    """
    if remainder == "pad":
        return -(-size[0] // patch[0]), -(-size[1] // patch[1])
    if remainder == "drop":
        check_room(size, patch)
    elif size[0] % patch[0] or size[1] % patch[1]:
        raise ValueError(
            f"image size {size[0]} x {size[1]} is not a whole number of {patch[0]} x {patch[1]} patches; resize or pad "
            "the image, or choose another patch_size"
        )
    return size[0] // patch[0], size[1] // patch[1]


@fx.wrap
def whole_patches(x: Tensor, in_chans: int, patch: tuple[int, int], remainder: str) -> Tensor:
    """Images cut, or filled with zeros, to a whole number of patches.

    Shape: ``(B, in_chans, H, W) -> (B, in_chans, rows * patch, columns * patch)``.

    Raises:
        ValueError: As `check_batch` and `patch_grid`.
    """
    check_batch(x, in_chans)
    rows, columns = patch_grid((x.shape[2], x.shape[3]), patch, remainder)
    height, width = rows * patch[0], columns * patch[1]
    if remainder == "drop":
        return x[..., :height, :width]
    if (height, width) != (x.shape[2], x.shape[3]):
        x = F.pad(x, (0, width - x.shape[3], 0, height - x.shape[2]))
    return x
