"""What every model of zoo has in common, whatever it takes."""

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import nn

from zoo.blocks.base import parameters_without_decay
from zoo.blocks.linear import initialise
from zoo.checks import checked


class Model(nn.Module):
    """A model of the registry. A skeleton derives from this and takes all that builds it as keyword arguments.

    Attributes:
        vision: Whether it takes images; then it is a timm model too.
        num_classes: Number of outputs, 0 without a last layer.
        config: Every argument that builds this model again; slots are lists of `zoo.slots.Slot`.
        input_size: Shape of an input, without the batch.
        hands_on: Arguments that work through blocks alone, and what has to take them, with wildcards: the ``kind`` of a
            block, or ``kind.option``. To ask for one that no block takes is an error.
        slots: Arguments that are slots, and the kind of block that each takes (see `zoo.slots.table`).
        works_with: Arguments that do nothing unless one of some others is true or, as ``argument=name``, has that slot.
    """

    vision = True
    slots: ClassVar[Mapping[str, str]] = {}
    hands_on: Mapping[str, str] = {}
    works_with: Mapping[str, tuple[str, ...]] = {}
    num_classes: int
    config: dict
    input_size: tuple[int, ...]

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        checked(cls)  # a constructor checks what it is given, called by name or not

    def no_weight_decay(self) -> set[str]:
        """Names of all parameters that weight decay must leave alone: biases, norms, scales, gates, positions."""
        return parameters_without_decay(self)

    def facts(self, input_size: tuple[int, ...]) -> dict[str, Any]:
        """What a configuration says of a built model: ``first_conv``, ``classifier`` and ``pool_size``.

        The first two are names of layers with a weight: the convolution that sees the channels of an image, empty where
        there is none, and what makes the logits, where there are any.

        Args:
            input_size: Of the inputs that the configuration is about, without the batch.
        """
        return {"first_conv": (), "classifier": "head", "pool_size": None}

    @property
    def deployed(self) -> bool:
        """Whether branches of the model are merged for inference."""
        return any(getattr(m, "deployed", False) for m in self.modules() if m is not self)

    def reparameterize(self) -> None:
        """Merge parallel branches and batch norms into single convolutions and matrices, in place, for inference.

        In eval mode the outputs stay what they were. A model without such blocks stays as it is. The merged model saves
        and loads like any other; its branches are gone.
        """
        for module in list(self.modules()):
            if module is not self and hasattr(module, "reparameterize"):
                module.reparameterize()

    def init_weights(self) -> None:
        """Initialise everything anew, as is needed after ``model.to_empty(device=...)`` of a model built on meta."""
        for module in reversed(list(self.modules())):  # owners of others' parameters come after these
            initialise(module)
