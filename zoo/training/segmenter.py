"""Semantic segmentation: a feature pyramid on the feature maps of any model of zoo."""

import json
import re
import shutil
import uuid
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import FeaturePyramidNetwork

import zoo
from zoo.blocks.base import Aux, parameters_without_decay
from zoo.files import replacing
from zoo.training.schema import build, compose, plain

PYRAMID = "pyramid.safetensors"


@dataclass(frozen=True)
class Pyramid:
    """What a segmenter adds to its backbone."""

    num_classes: int
    width: int = 64  # channels of every level
    out_indices: tuple[int, ...] | None = None  # levels of the backbone (null: as it has them by default)

    def __post_init__(self) -> None:
        for name in ("num_classes", "width"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, it must be at least 1")


class Segmenter(nn.Module):
    """A backbone of zoo, torchvision's FeaturePyramidNetwork on its feature maps, and a class for every pixel.

    The levels of the pyramid are enlarged to the finest, added, and mapped to logits, which are enlarged to the image.

    Args:
        backbone: What `zoo.create_model` takes: any model that gives feature maps.
        pyramid: What is put on them.
        kwargs: The other arguments of `zoo.create_model`.

    Shape: ``(B, in_chans, H, W) -> (B, num_classes, H, W)``.

    Example:
        >>> model = Segmenter("vit_test", Pyramid(num_classes=11, width=8, out_indices=(0, 1)))
        >>> model(torch.randn(2, 3, 32, 32)).shape
        torch.Size([2, 11, 32, 32])

    Source: Lin et al., FPN (arXiv 1612.03144); the head as in Kirillov et al., Panoptic FPN (arXiv 1901.02446).
    Differs: the head enlarges each level in one step, without convolutions and norms between.
    """

    def __init__(self, backbone: str, pyramid: Pyramid, **kwargs):
        super().__init__()
        if pyramid.out_indices is not None:
            kwargs["out_indices"] = pyramid.out_indices
        self.config, self.num_classes = pyramid, pyramid.num_classes
        self.backbone = zoo.create_model(backbone, features_only=True, **kwargs)
        self.pyramid = FeaturePyramidNetwork(self.backbone.feature_info.channels(), pyramid.width, norm_layer=nn.BatchNorm2d)
        self.head = nn.Conv2d(pyramid.width, pyramid.num_classes, 1)

    def forward(self, x: Tensor, return_aux: bool = False) -> Tensor | tuple[Tensor, Aux]:
        """Logits of every pixel; with `return_aux` also the auxiliary outputs, of which feature maps have none."""
        levels = self.pyramid(OrderedDict(enumerate(self.backbone(x)))).values()
        finest, *others = levels
        total = finest
        for level in others:
            total = total + F.interpolate(level, finest.shape[-2:], mode="bilinear", align_corners=False)
        logits = F.interpolate(self.head(total.relu()), x.shape[-2:], mode="bilinear", align_corners=False)
        return (logits, {}) if return_aux else logits

    def no_weight_decay(self) -> set[str]:
        """Names of all parameters that weight decay must leave alone."""
        return parameters_without_decay(self)
