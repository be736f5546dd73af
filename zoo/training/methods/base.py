"""What a recipe adds to a training, whatever its model: the base of the methods, and what they do in the loop.

A method is a dataclass: its `name` and fields are what an entry of a recipe's `methods:` section may say. To add one,
write the class into a file of this folder, or into a package of your own that the entry-point group ``zoo`` names;
nothing else is edited. The section is read into the method; `begin` makes of it an `Effect`, whose functions the loop
calls in each step.
"""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from zoo.blocks.base import Aux
from zoo.skeletons.image import ImageModel
from zoo.skeletons.model import DecayMarks
from zoo.training.data.splits import Split
from zoo.training.engine.precision import autocast
from zoo.training.recipe.schema import Duration
from zoo.training.recipe.section import OpenSection
from zoo.training.recipe.train import Train


@dataclass(frozen=True)
class Setting:
    """The training that a method becomes a part of.

    Attributes:
        key: Where the recipe has the method, such as ``methods.teacher``.
        model: What is trained, not yet on the device.
        split: The training data; of several tasks, those of the first.
        train: How the loop runs.
        device: On which it does.
        seed: For what is random when the method begins.
        steps: Makes steps of a duration.
        teachers: Those that the method asks, which enter themselves.
    """

    key: str
    model: nn.Module
    split: Split
    train: Train
    device: torch.device
    seed: int
    steps: Callable[[Duration], int]
    teachers: list[Any] = field(default_factory=list)

    def autocast(self) -> torch.autocast:
        """The recipe's precision as a context."""
        return autocast(self.train.precision, self.device)

    def example(self) -> Tensor:
        """One input of the training data, on the device."""
        return self.split.fetch([0], 0)[0].to(self.device)

    def feature_model(self) -> ImageModel:
        """The model as one that gives feature maps.

        Raises:
            ValueError: It is none.
        """
        if not isinstance(self.model, ImageModel):
            raise ValueError(
                f"{self.key} asks the model for feature maps, and {type(self.model).__name__} gives none: take a plain "
                "image model, without model.heads and model.pyramid"
            )
        return self.model


Network = Callable[[Tensor], tuple[Tensor, Aux]]  # inputs to outputs and what is returned beside them


@dataclass(frozen=True)
class Pass:
    """What went through a network in one forward pass of a training, as methods see it.

    Attributes:
        step: The number of the step.
        inputs, targets: The batch, or a part of it.
        outputs: What the network made of the inputs, in float32.
        network: Which it was, of those that a method gave; None for the model itself.
        beside: What `Effect.forward` of the same method made of the network's feature maps, None without `levels`.
    """

    step: int
    inputs: Tensor
    targets: Tensor
    outputs: Tensor
    network: Network | None = None
    beside: Any = None

    @property
    def labels(self) -> Tensor:
        """The classes ``(B,)``; of soft targets, the largest."""
        return self.targets if self.targets.ndim == 1 else self.targets.argmax(1)


class Effect(DecayMarks):
    """What a method does in a training; each function does nothing unless a method defines it.

    It is a module: its parameters are trained with those of the model, by the same optimizer, and are in checkpoints
    with its buffers, but not in the model that is saved. What is not trained, such as a teacher, is no submodule of it
    (see `zoo.training.methods.teacher.Teacher`).

    Attributes:
        levels: Levels of the model, in its order, whose feature maps `forward` is given; none by default.
    """

    levels: tuple[int, ...] = ()

    def forward(self, maps: Sequence[Tensor]) -> Any:
        """What is computed of the maps ``(B, H, W, C)`` of `levels`, in the precision of the recipe; for `loss`."""
        return maps

    def networks(self, step: int) -> Sequence[Network | None]:
        """What is trained in this step, the mean of whose losses counts; None among them, and none, are the model."""
        return ()

    def loss(self, loss: Tensor, made: Pass) -> Tensor:
        """The loss to minimise, of that of the task (and of the methods before this one)."""
        return loss

    def change_gradients(self, step: int, parameters: Sequence[nn.Parameter]) -> None:
        """Change the gradients in place; they are those of the whole batch, and clipped."""


class Method(OpenSection, folder="zoo.training.methods"):
    """Base of the methods.

    Attributes:
        any_task: Whether it works whatever the task, and with several; otherwise it needs one, with a label an image.
        any_form: Whether it works whatever `train` says of how the model computes (`compile`, several processes).
    """

    any_task: ClassVar[bool] = False
    any_form: ClassVar[bool] = False

    @abstractmethod
    def begin(self, setting: Setting) -> Effect:
        """The method in a training.

        Raises:
            ValueError: It does not fit the model or the data; the message names `setting.key`.
            FileNotFoundError: A folder that it names is not there.
        """
