"""Numbers for every pixel: a feature pyramid, or transposed convolutions, on the feature maps of any backbone."""

from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import FeaturePyramidNetwork

from zoo.blocks.base import Aux
from zoo.skeletons.features import FeatureMaps
from zoo.skeletons.model import DecayMarks


class PyramidHead(nn.Module):
    """From feature maps to logits of every pixel: torchvision's FeaturePyramidNetwork, and one convolution.

    The levels of the pyramid are enlarged to the finest and added. Each position of the sum then gives the logits of
    all pixels it stands for.

    Args:
        channels: Channels of each feature map, the finest first.
        stride: Pixels of the image to one position of the finest.
        num_classes: Logits of a pixel.
        width: Channels of every level of the pyramid.

    Shape: maps ``(B, channels[i], H_i, W_i)``, ``size = (H, W)`` -> ``(B, num_classes, H, W)``.

    Example:
        >>> import torch
        >>> head = PyramidHead([8, 16], stride=4, num_classes=3, width=8)
        >>> head([torch.randn(2, 8, 6, 5), torch.randn(2, 16, 3, 3)], (23, 20)).shape
        torch.Size([2, 3, 23, 20])

    Source: Lin et al., FPN (arXiv 1612.03144); Kirillov et al., Panoptic FPN (arXiv 1901.02446), section 3.1; the last
        layer is the sub-pixel convolution of Shi et al. (arXiv 1609.05158).
    Differs: a level is enlarged in one step, without convolutions between; the finest gives every pixel's own logits.
    """

    per_pixel = True

    def __init__(self, channels: Sequence[int], *, stride: int, num_classes: int, width: int):
        super().__init__()
        self.num_classes = num_classes
        self.pyramid = FeaturePyramidNetwork(list(channels), width, norm_layer=nn.BatchNorm2d)
        self.logits = nn.Conv2d(width, num_classes * stride**2, 1)
        self.stride = stride

    def forward(self, maps: Sequence[Tensor], size: Sequence[int]) -> Tensor:
        x, *coarser = self.pyramid(OrderedDict(enumerate(maps))).values()
        for level in coarser:
            x = x + F.interpolate(level, x.shape[-2:], mode="bilinear", align_corners=False)
        return resized(F.pixel_shuffle(self.logits(x.relu()), self.stride), size)


class EnlargingHead(nn.Module):
    """From the last feature map to logits of every pixel: transposed convolutions, each of which doubles the grid.

    They halve the channels from one to the next; a 1x1 convolution is last. Nothing stands between them.

    Args:
        channels: Channels of each feature map; the last is the one that is enlarged.
        stride: Pixels of the image to one position of it, a power of two.
        num_classes: Logits of a pixel.
        width: Channels of the last transposed convolution; one before it has twice as many.

    Shape: maps ``(B, channels[i], H_i, W_i)``, ``size = (H, W)`` -> ``(B, num_classes, H, W)``.

    Example:
        >>> import torch
        >>> head = EnlargingHead([16], stride=4, num_classes=3, width=8)
        >>> head([torch.randn(2, 16, 6, 5)], (23, 20)).shape, head.up[0].weight.shape
        (torch.Size([2, 3, 23, 20]), torch.Size([16, 16, 4, 4]))

    Source: pranavphoenix/WaveMix, wavemix/SemSegment.py and Saved_weights/cityscapes (Jeevan et al., arXiv 2205.14375).
    Differs: where the result is larger than the image, it is interpolated to its size.
    Raises: ValueError if the stride is no power of two.
    """

    per_pixel = True

    def __init__(self, channels: Sequence[int], *, stride: int, num_classes: int, width: int):
        super().__init__()
        steps = stride.bit_length() - 1
        if stride != 2**steps:
            raise ValueError(
                f"the last feature map has a position for {stride} x {stride} pixels; transposed convolutions double a "
                "map, so that it must be a power of two: take another level by out_indices, or the pyramid"
            )
        self.num_classes = num_classes
        widths = [channels[-1], *(width * 2**i for i in reversed(range(steps)))]
        self.up = nn.Sequential(*(nn.ConvTranspose2d(a, b, 4, 2, 1) for a, b in pairwise(widths)))
        self.logits = nn.Conv2d(widths[-1], num_classes, 1)

    def forward(self, maps: Sequence[Tensor], size: Sequence[int]) -> Tensor:
        return resized(self.logits(self.up(maps[-1])), size)


HEADS = {"pyramid": PyramidHead, "enlarging": EnlargingHead}


def make_head(
    kind: str, channels: Sequence[int], reductions: Sequence[int], *, num_classes: int, width: int
) -> PyramidHead | EnlargingHead:
    """A head of `HEADS` for feature maps of these channels and pixels to a position, the finest first."""
    stride = reductions[-1] if kind == "enlarging" else min(reductions)
    return HEADS[kind](channels, stride=stride, num_classes=num_classes, width=width)


def resized(y: Tensor, size: Sequence[int]) -> Tensor:
    """Images at a size (height, width), by interpolation where they have another."""
    return y if y.shape[-2:] == tuple(size) else F.interpolate(y, size, mode="bilinear", align_corners=False)


class DenseModel(DecayMarks):
    """A backbone with a head on its feature maps.

    Args:
        backbone: Gives the maps.
        num_classes: Logits of a pixel.
        width: Of the head, as in `PyramidHead` or `EnlargingHead`.
        head: Which of the two: ``pyramid`` or ``enlarging``.

    Shape: ``(B, in_chans, H, W) -> (B, num_classes, H, W)``.

    Example:
        >>> import torch, zoo
        >>> backbone = zoo.create_model("vit_test", features_only=True, out_indices=(0, 1), in_chans=1)
        >>> DenseModel(backbone, num_classes=11, width=8)(torch.randn(2, 1, 32, 32)).shape
        torch.Size([2, 11, 32, 32])
    """

    per_pixel = True

    def __init__(self, backbone: FeatureMaps, *, num_classes: int, width: int, head: str = "pyramid"):
        super().__init__()
        self.backbone, self.num_classes = backbone, num_classes
        info = backbone.feature_info
        self.head = make_head(head, info.channels(), info.reduction(), num_classes=num_classes, width=width)

    def forward(self, x: Tensor, return_aux: bool = False, **keywords) -> Tensor | tuple[Tensor, Aux]:
        """Logits of every pixel; with `return_aux` also the auxiliary outputs of the backbone's mixers.

        Args:
            x: Images ``(B, in_chans, H, W)``.
            return_aux: Return ``(logits, aux)``.
            keywords: Those for the mixers of the backbone that declare them, such as ``task=1``.
        """
        maps, aux = self.backbone(x, return_aux=True, **keywords)
        logits = self.head(maps, x.shape[-2:])
        return (logits, aux) if return_aux else logits
