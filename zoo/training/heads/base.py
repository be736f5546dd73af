"""What a model for several tasks has for each of them: the base of the heads.

A head is a dataclass: its `name` and fields are what a recipe's `model.heads.<name>` may say. To add one, write the
class into a file of this folder, or into a package of your own that the entry-point group ``zoo`` names; nothing else
is edited.
"""

from abc import abstractmethod
from typing import Annotated, Any

from torch import Tensor, nn

from zoo.blocks.base import Aux
from zoo.checks import Interval
from zoo.training.recipe.section import OpenSection

Number = Annotated[int, Interval(0, 999)]


class Head(OpenSection, folder="zoo.training.heads"):
    """Base of the heads.

    Attributes:
        task: Number among the tasks that the trunk's routers know; None where they know none. A head that can stand on
            such a trunk has it as a field.
    """

    task = None

    @abstractmethod
    def make(self, trunk: nn.Module, key: str) -> tuple["Head", nn.Module]:
        """The head as it is saved, with nothing left open, and its module; `key` is what an error calls it.

        The module has `num_classes`, and `per_pixel` says whether its outputs are one a pixel.

        Raises:
            ValueError: It does not fit the trunk.
        """

    @abstractmethod
    def outputs(self, module: nn.Module, trunk: nn.Module, x: Tensor, keywords: dict[str, Any]) -> tuple[Tensor, Aux]:
        """What the module gives on the trunk's features of images, and the auxiliary outputs of the trunk.

        Args:
            module: The module.
            trunk: The trunk.
            x: Images ``(B, in_chans, H, W)``.
            keywords: Those for the trunk's mixers.
        """
