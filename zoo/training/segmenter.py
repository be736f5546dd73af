"""Semantic segmentation: a feature pyramid on the feature maps of any model of zoo."""

import dataclasses
import json
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import FeaturePyramidNetwork

import zoo
from zoo.blocks.base import Aux, parameters_without_decay
from zoo.checks import Interval, check_path, printable
from zoo.hub.config import naming
from zoo.training.parts import Parts, unallocated
from zoo.training.recipe.reading import compose
from zoo.training.recipe.schema import Section, build, plain
from zoo.weights import load_alike

PARTS = Parts("Segmenter", "backbone", "head.safetensors")


Level = Annotated[int, Interval(-1000, 999)]  # of a backbone's feature maps; negative ones count from the last


@dataclass(frozen=True)
class Pyramid(Section):
    """What makes a segmenter of a backbone."""

    num_classes: Annotated[int, Interval(1, 10_000)]  # logits of a pixel
    width: Annotated[int, Interval(1, 2048)] = 64  # channels of every level of the pyramid
    out_indices: tuple[Level, ...] | None = None  # levels of the backbone; null: those it gives by itself


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


class Segmenter(nn.Module):
    """A backbone of zoo with a `PyramidHead` on its feature maps.

    Args:
        backbone: Name of a model, as `zoo.create_model` takes it.
        pyramid: What is put on it.
        saved: Weights of the head and the name of their file, which `open` gives; by default they are initialised.
        kwargs: Other arguments of `zoo.create_model`.

    Shape: ``(B, in_chans, H, W) -> (B, num_classes, H, W)``.

    Example:
        >>> import torch
        >>> model = Segmenter("vit_test", Pyramid(num_classes=11, width=8, out_indices=(0, 1)), in_chans=1)
        >>> model(torch.randn(2, 1, 32, 32)).shape
        torch.Size([2, 11, 32, 32])
    """

    per_pixel = True

    def __init__(
        self, backbone: str, pyramid: Pyramid, *, saved: tuple[Mapping[str, Tensor], str] | None = None, **kwargs
    ):
        super().__init__()
        if pyramid.out_indices is not None:
            kwargs["out_indices"] = pyramid.out_indices
        self.backbone = zoo.create_model(backbone, features_only=True, **kwargs)
        # The backbone has lost the levels after the last one taken, so those taken are kept as counted from the start.
        self.config = dataclasses.replace(pyramid, out_indices=tuple(self.backbone.out_indices))
        self.num_classes = pyramid.num_classes
        if saved is None:
            self.head = self._make()
        else:
            state, where = saved
            with unallocated(where):
                self.head = self._make()
            load_alike(self.head, state, where, next(self.backbone.parameters()).device)

    def _make(self) -> PyramidHead:
        info = self.backbone.feature_info
        return PyramidHead(
            info.channels(), stride=min(info.reduction()), num_classes=self.num_classes, width=self.config.width
        )

    def forward(self, x: Tensor, return_aux: bool = False, **given) -> Tensor | tuple[Tensor, Aux]:
        """Logits of every pixel; with `return_aux` also the auxiliary outputs of the backbone's mixers.

        Args:
            x: Images ``(B, in_chans, H, W)``.
            return_aux: Return ``(logits, aux)``.
            given: Keywords for the mixers of the backbone that declare them, such as ``task=1``.
        """
        maps, aux = self.backbone(x, return_aux=True, **given)
        logits = self.head(maps, x.shape[-2:])
        return (logits, aux) if return_aux else logits

    def no_weight_decay(self) -> set[str]:
        """Names of all parameters that weight decay must leave alone."""
        return parameters_without_decay(self)

    def save(self, folder: Path | str) -> None:
        """Write a folder of which `Segmenter.open` makes the same model; see `Parts.save` for what stays in it.

        The backbone goes into a folder of its own, which `zoo.create_model("local-dir:...")` takes too.
        """
        PARTS.save(folder, self.backbone.model, self.head, {"pyramid": json.dumps(plain(self.config))})

    @classmethod
    def open(cls, folder: Path | str) -> "Segmenter":
        """The model that `save` wrote.

        Raises:
            TypeError: The folder is no path.
            FileNotFoundError: The folder holds no segmenter.
            ValueError: A file in it cannot be what `save` wrote; nothing that its header asks for is allocated before.
        """
        check_path("folder", folder, "a saved model")
        where = printable(Path(folder) / PARTS.heads)

        def make(backbone: str, state: dict[str, Tensor], metadata: dict[str, str]) -> Segmenter:
            pyramid = build(Pyramid, compose(metadata.get("pyramid", ""), where))
            # The backbone refuses levels by the name of its own file, and it is this one that asks for them.
            with naming(where, lambda told: "out_indices" if "feature indices" in told else None):
                return cls(backbone, pyramid, saved=(state, where))

        return PARTS.open(folder, make)
