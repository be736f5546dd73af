"""OFA-KD: distillation between unlike families, also at exits within the model, all in the space of logits."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from zoo.checks import Interval
from zoo.training.methods.base import Effect, Method, Pass, Setting
from zoo.training.methods.distill import Temperature
from zoo.training.methods.exits import Level, exit_levels, make_exits
from zoo.training.methods.teacher import Teacher
from zoo.training.seeds import seeded_globals

Weight = Annotated[float, Interval(0, 1_000_000)]


def enhanced_loss(student: Tensor, teacher: Tensor, labels: Tensor, gamma: float, temperature: float) -> Tensor:
    """The loss of OFA-KD with adaptive target enhancement, of logits ``(B, classes)`` and classes ``(B,)``.

    With p the teacher's probabilities and q the student's, c the class of the image: for gamma 1 it is the cross
    entropy of p with q. A greater gamma gives the class more of it and the other classes less, the more the surer the
    teacher is: the weight of the class is ``(1 + p_c)^gamma - 1``, that of another one ``p_k^gamma``.

    Example:
        >>> import torch
        >>> student, teacher = torch.zeros(1, 2), torch.tensor([[0.0, 0.0]])
        >>> [round(enhanced_loss(student, teacher, torch.tensor([0]), gamma, 1.0).item(), 4) for gamma in (1.0, 2.0)]
        [0.6931, 1.0397]

    Source: Hao et al., "One-for-All: Bridge the Gap Between Heterogeneous Architectures in Knowledge Distillation"
        (arXiv 2310.19444), equation 6; Hao840/OFAKD, distillers/ofa.py, where gamma is called eps.
    Differs: the logarithm of the softmax is taken as one, which is finite where a probability underflows.
    """
    mask = F.one_hot(labels, student.shape[1])
    target = (F.softmax(teacher / temperature, 1) + mask) ** gamma - mask
    return -(target * F.log_softmax(student / temperature, 1)).sum(1).mean()


@dataclass(frozen=True)
class OfaKd(Method):
    """OFA-KD (arXiv 2310.19444): the model and exits within it learn the teacher's logits, with enhanced targets.

    The loss is `task_weight` times that of the task, `weight` times that of the model's own logits, and `exit_weight`
    times the sum over the exits. An exit is a branch of its own (`zoo.training.methods.exits`), which is trained with
    the model and is no part of it afterwards.
    """

    name: ClassVar[str] = "ofa_kd"
    teacher: str  # folder of a run or of a model, or what `zoo.create_model` takes
    teacher_kwargs: dict[str, Any] = field(default_factory=dict)  # other arguments of `zoo.create_model`
    # Levels of the model that have an exit, negative ones from the end; null: each stage, or of equal blocks those at
    # 1/6, 1/3, 5/6 and all of the depth, as in the paper.
    levels: tuple[Level, ...] | None = None
    # Blocks of each exit, or the convolutions where the model has stages; null: as many as there are exits behind it.
    exit_blocks: Annotated[int, Interval(0, 16)] | None = None
    gamma: Annotated[float, Interval(above=0, most=100)] = 1.0  # how much the class is enhanced; 1: not
    temperature: Temperature = 1.0  # that logits are divided by before the softmax
    weight: Weight = 1.0  # of the loss of the model's logits towards the teacher
    exit_weight: Weight = 1.0  # of the sum of the losses of the exits
    task_weight: Weight = 1.0  # of the loss of the task

    def begin(self, setting: Setting) -> Effect:
        model, key = setting.feature_model(), f"{setting.key}.teacher"
        teacher = Teacher(self.teacher, self.teacher_kwargs, setting, key)
        teacher.check_classes()
        levels = exit_levels(model, self.levels, f"{setting.key}.levels")
        width = getattr(teacher.model, "num_features", 0)  # exits of stages are at least as wide as the teacher's end
        with seeded_globals(setting.seed):
            exits = make_exits(model, levels, width=width, num_classes=teacher.width, blocks=self.exit_blocks)
        return Exits(self, teacher, levels, exits)


class Exits(Effect):
    """The exits of a model, and the losses of OFA-KD."""

    def __init__(self, method: OfaKd, teacher: Teacher, levels: Sequence[int], exits: nn.ModuleList):
        super().__init__()
        self.method, self.teacher, self.levels = method, teacher, tuple(levels)
        self.exits = exits

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        return [leave(features) for leave, features in zip(self.exits, maps, strict=True)]

    def loss(self, loss: Tensor, made: Pass) -> Tensor:
        method, logits, labels = self.method, self.teacher.logits(made.inputs), made.labels

        def towards(outputs: Tensor) -> Tensor:
            return enhanced_loss(outputs.float(), logits, labels, method.gamma, method.temperature)

        total = method.task_weight * loss + method.weight * towards(made.outputs)
        return total + method.exit_weight * sum(map(towards, made.beside))
