"""Distillation by logits: the model learns what a teacher says of the same images, whatever family that is of."""

from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from torch import Tensor
from torch.nn import functional as F

from zoo.checks import Interval
from zoo.training.methods.base import Effect, Method, Pass, Setting
from zoo.training.methods.teacher import Teacher
from zoo.training.recipe.schema import Share
from zoo.training.recipe.section import Misfit

Temperature = Annotated[float, Interval(above=0, most=1000)]


def soft_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Hinton's loss: the divergence of the softened probabilities of logits ``(B, classes)``, times temperature².

    Example:
        >>> import torch
        >>> logits = torch.tensor([[1.0, 2.0], [0.0, 3.0]])
        >>> soft_loss(logits, logits, 4.0).abs().item() < 1e-6
        True

    Source: Hinton et al., "Distilling the Knowledge in a Neural Network" (arXiv 1503.02531), section 2.
    Differs: the divergence in the place of the cross entropy, whose gradients are the same.
    """
    ours, theirs = (F.log_softmax(logits / temperature, 1) for logits in (student, teacher))
    return F.kl_div(ours, theirs, reduction="batchmean", log_target=True) * temperature**2


@dataclass(frozen=True)
class Distill(Method):
    """Distillation by logits: `(1 - weight) * loss + weight * the loss towards the teacher`.

    `soft` is Hinton's divergence of softened probabilities (arXiv 1503.02531); `hard` the cross entropy with the
    teacher's class, as in DeiT (arXiv 2012.12877, section 4), which has no temperature. The teacher sees the images as
    the model does, with all that was changed in them.
    """

    name: ClassVar[str] = "distill"
    any_form: ClassVar[bool] = True
    teacher: str  # folder of a run or of a model, or what `zoo.create_model` takes
    teacher_kwargs: dict[str, Any] = field(default_factory=dict)  # other arguments of `zoo.create_model`
    weight: Share = 0.5  # of the loss towards the teacher
    temperature: Temperature = 1.0  # that logits are divided by before the softmax
    labels: Literal["soft", "hard"] = "soft"  # whether the teacher gives probabilities or a class

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.labels == "hard" and self.temperature != 1:
            raise Misfit("temperature has no effect on hard labels: leave it out", "temperature")

    def begin(self, setting: Setting) -> Effect:
        teacher = Teacher(self.teacher, self.teacher_kwargs, setting, f"{setting.key}.teacher")
        teacher.check_classes()
        return Distilling(self, teacher)


class Distilling(Effect):
    """The loss towards a teacher's logits."""

    def __init__(self, method: Distill, teacher: Teacher):
        super().__init__()
        self.method, self.teacher = method, teacher

    def loss(self, loss: Tensor, made: Pass) -> Tensor:
        method, logits = self.method, self.teacher.logits(made.inputs)
        if method.labels == "hard":
            taught = F.cross_entropy(made.outputs, logits.argmax(1))
        else:
            taught = soft_loss(made.outputs, logits, method.temperature)
        return (1 - method.weight) * loss + method.weight * taught
