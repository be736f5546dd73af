"""Classes of an image."""

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from torch import Tensor, nn

from zoo.blocks.base import Aux
from zoo.checks import Interval
from zoo.training.heads.base import Head, Number


@dataclass(frozen=True)
class Classifier(Head):
    """A head for classes of an image: one linear map of the trunk's pooled features."""

    name: ClassVar[str] = "classifier"
    num_classes: Annotated[int, Interval(1, 100_000)]  # logits of an image
    task: Number | None = None  # number among the tasks that the trunk's routers know; null where they know none

    def make(self, trunk: nn.Module, key: str) -> tuple[Head, nn.Module]:
        module = nn.Linear(trunk.num_features, self.num_classes)
        module.num_classes = self.num_classes
        return self, module

    def outputs(self, module: nn.Module, trunk: nn.Module, x: Tensor, keywords: dict[str, Any]) -> tuple[Tensor, Aux]:
        features, aux = trunk.forward_features(x, return_aux=True, **keywords)
        return module(trunk.forward_head(features, pre_logits=True)), aux
