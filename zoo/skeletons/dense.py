"""Numbers for every pixel: a feature pyramid on the feature maps of any backbone."""

from collections import OrderedDict
from collections.abc import Sequence

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
        y = F.pixel_shuffle(self.logits(x.relu()), self.stride)
        return y if y.shape[-2:] == tuple(size) else F.interpolate(y, size, mode="bilinear", align_corners=False)


class DenseModel(DecayMarks):
    """A backbone with a `PyramidHead` on its feature maps.

    Args:
        backbone: Gives the maps.
        num_classes: Logits of a pixel.
        width: Channels of every level of the pyramid.

    Shape: ``(B, in_chans, H, W) -> (B, num_classes, H, W)``.

    Example:
        >>> import torch, zoo
        >>> backbone = zoo.create_model("vit_test", features_only=True, out_indices=(0, 1), in_chans=1)
        >>> DenseModel(backbone, num_classes=11, width=8)(torch.randn(2, 1, 32, 32)).shape
        torch.Size([2, 11, 32, 32])
    """

    per_pixel = True

    def __init__(self, backbone: FeatureMaps, *, num_classes: int, width: int):
        super().__init__()
        self.backbone, self.num_classes = backbone, num_classes
        info = backbone.feature_info
        self.head = PyramidHead(info.channels(), stride=min(info.reduction()), num_classes=num_classes, width=width)

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
