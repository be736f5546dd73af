"""Numbers of every pixel."""

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from zoo.blocks.base import Aux
from zoo.skeletons.dense import make_head
from zoo.training.heads.base import Head, Number
from zoo.training.models.segmenter import Pyramid


@dataclass(frozen=True)
class Dense(Pyramid, Head):
    """A head for numbers of every pixel: a head of `zoo.skeletons.dense` on the trunk's feature maps."""

    name: ClassVar[str] = "dense"
    task: Number | None = None  # number among the tasks that the trunk's routers know; null where they know none

    def make(self, trunk: nn.Module, key: str) -> tuple[Head, nn.Module]:
        info, last = trunk.feature_info, type(trunk).count_levels(trunk.config)
        levels = range(-min(last, len(info)), 0) if self.out_indices is None else self.out_indices
        if not levels or any(not -len(info) <= i < len(info) for i in levels):
            raise ValueError(
                f"{key}: out_indices {list(levels)} are not all within the {len(info)} levels of the trunk"
            )
        levels = tuple(sorted({i % len(info) for i in levels}))  # maps come in the trunk's order, each once
        channels, reductions = ([info[i][key] for i in levels] for key in ("num_chs", "reduction"))
        module = make_head(self.kind, channels, reductions, num_classes=self.num_classes, width=self.width)
        return dataclasses.replace(self, out_indices=levels), module

    def outputs(self, module: nn.Module, trunk: nn.Module, x: Tensor, keywords: dict[str, Any]) -> tuple[Tensor, Aux]:
        maps, aux = trunk.forward_intermediates(
            x, list(self.out_indices), stop_early=True, intermediates_only=True, return_aux=True, **keywords
        )
        return module(maps, x.shape[-2:]), aux
