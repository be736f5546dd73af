"""Semantic segmentation: a feature pyramid, or transposed convolutions, on the feature maps of any model of zoo."""

import dataclasses
import json
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from torch import Tensor

from zoo.checks import Interval, check_path, printable
from zoo.create import create_model
from zoo.hub.config import naming
from zoo.skeletons.dense import DenseModel
from zoo.training.models.parts import Parts, Saved, unallocated
from zoo.training.recipe.reading import compose
from zoo.training.recipe.schema import build, plain
from zoo.training.recipe.section import Section
from zoo.weights import load_alike

PARTS = Parts("Segmenter", "backbone", "head.safetensors")


Level = Annotated[int, Interval(-1000, 999)]  # of a backbone's feature maps; negative ones count from the last


@dataclass(frozen=True)
class Pyramid(Section):
    """What makes a segmenter of a backbone."""

    num_classes: Annotated[int, Interval(1, 10_000)]  # logits of a pixel
    width: Annotated[int, Interval(1, 2048)] = 64  # channels of every level of the pyramid, or of the last enlarged map
    out_indices: tuple[Level, ...] | None = None  # levels of the backbone; null: those it gives by itself
    kind: Literal["pyramid", "enlarging"] = "pyramid"  # or transposed convolutions on the last of the levels


class Segmenter(DenseModel):
    """A backbone of zoo with a `PyramidHead` on its feature maps, or an `EnlargingHead` on the last.

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

    def __init__(self, backbone: str, pyramid: Pyramid, *, saved: Saved | None = None, **kwargs):
        if pyramid.out_indices is not None:
            kwargs["out_indices"] = pyramid.out_indices
        maps = create_model(backbone, features_only=True, **kwargs)
        state, where = saved or (None, "")
        with nullcontext() if saved is None else unallocated(where):
            super().__init__(maps, num_classes=pyramid.num_classes, width=pyramid.width, head=pyramid.kind)
        # The backbone has lost the levels after the last one taken, so those taken are kept as counted from the start.
        self.config = dataclasses.replace(pyramid, out_indices=tuple(maps.out_indices))
        if saved is not None:
            load_alike(self.head, state, where, next(maps.parameters()).device)

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
            with naming(where, lambda message: "out_indices" if "feature indices" in message else None):
                return cls(backbone, pyramid, saved=(state, where))

        return PARTS.open(folder, make)
