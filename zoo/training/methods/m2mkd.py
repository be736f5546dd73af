"""m2mKD: a model learns module by module from the modules of a teacher, each in the place of a meta model's."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor, nn

from zoo.blocks.base import Aux, mean_losses, merge_aux
from zoo.blocks.linear import Linear
from zoo.checks import Interval
from zoo.skeletons.blocks import run_block
from zoo.skeletons.isotropic import Isotropic
from zoo.training.methods.base import Effect, Method, Network, Pass, Setting
from zoo.training.methods.distill import Temperature, soft_loss
from zoo.training.methods.teacher import Teacher
from zoo.training.recipe.schema import LONGEST, Duration, Lasting, Share
from zoo.training.seeds import seeded_globals


def module_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """The loss of m2mKD, of logits ``(B, classes)``: Hinton's, divided by the number of classes.

    Source: Lo et al., "m2mKD: Module-to-Module Knowledge Distillation for Modular Transformers" (arXiv 2402.16918),
        section 3.3; kamanphoebe/m2mKD, deep_incubation/losses.py, whose mean is over all numbers, as DeiT's.
    Differs: none known.
    """
    return soft_loss(student, teacher, temperature) / student.shape[1]


@dataclass(frozen=True)
class M2mKd(Method):
    """m2mKD (arXiv 2402.16918): until a step, modules of the model learn from a teacher's; then the task is learnt.

    Model and teacher are cut into `modules` parts of consecutive blocks, the first with the stem, the last with norm
    and head. A meta model has a block for each. In it a part of the model stands in the place of that block, and so
    does the teacher's part; the first learns the logits of the second. Meta model and teacher are as wide as each other
    and frozen; a linear map before and behind a part of the model, which is dropped afterwards, fits its width to
    theirs.
    All parts learn in the same steps, along the mean of their losses: none of them depends on another.
    """

    name: ClassVar[str] = "m2mkd"
    teacher: str  # folder of a run or of a model, or what `zoo.create_model` takes; isotropic
    meta: str  # likewise: a trained model of one block a module, as wide as the teacher
    until: Annotated[Duration, Lasting(1, LONGEST)]  # when the parts have learnt, and the whole begins to
    modules: Annotated[int, Interval(2, 64)] = 4  # parts
    teacher_kwargs: dict[str, Any] = field(default_factory=dict)  # other arguments of `zoo.create_model`
    meta_kwargs: dict[str, Any] = field(default_factory=dict)  # likewise
    weight: Share = 0.5  # of the loss towards the teacher; that of the task has the rest
    temperature: Temperature = 1.0  # that logits are divided by before the softmax

    def begin(self, setting: Setting) -> Effect:
        key = setting.key
        teacher = Teacher(self.teacher, self.teacher_kwargs, setting, f"{key}.teacher")
        meta = Teacher(self.meta, self.meta_kwargs, setting, f"{key}.meta")
        for one in (teacher, meta):
            one.check_classes()
        for name, model in (("model", setting.model), ("teacher", teacher.model), ("meta", meta.model)):
            self._check(name, model, setting)
        if (blocks := len(meta.model.blocks)) != self.modules:
            raise ValueError(f"{key}.meta has {blocks} blocks; it must have one a module, {self.modules}")
        if meta.model.config["dim"] != teacher.model.config["dim"]:
            raise ValueError(
                f"{key}.meta is {meta.model.config['dim']} wide, and the teacher {teacher.model.config['dim']}: they "
                "must be as wide as each other"
            )
        with seeded_globals(setting.seed):
            parts = [Part(setting.model, meta.model, number, self.modules) for number in range(self.modules)]
        taught = [Part(teacher.model, meta.model, number, self.modules) for number in range(self.modules)]
        return Incubating(self, setting, parts, taught)

    def _check(self, name: str, model: nn.Module, setting: Setting) -> None:
        """Check that a model can be cut, and that its parts take what the others' give."""
        if not isinstance(model, Isotropic) or len(model.blocks) < self.modules:
            raise ValueError(f"{setting.key}: the {name} must be isotropic, of {self.modules} blocks or more")
        ours, theirs = ((m.num_prefix_tokens, m.grid) for m in (model, setting.model))
        if ours != theirs:
            raise ValueError(
                f"{setting.key}: the {name} has {ours[0]} class tokens on a grid of {ours[1]}, the model {theirs[0]} "
                f"on {theirs[1]}: give them the same patch_size and class_token"
            )


def bounds(blocks: int, parts: int, number: int) -> slice:
    """The blocks of a part, of parts as equal as they can be.

    Example:
        >>> [bounds(6, 4, number) for number in range(4)]
        [slice(0, 1, None), slice(1, 3, None), slice(3, 4, None), slice(4, 6, None)]
    """
    return slice(number * blocks // parts, (number + 1) * blocks // parts)


class Part(nn.Module):
    """A meta model with a part of another model in the place of one of its blocks.

    Of its parameters, those of the two models are not its own: they are the models', and it registers neither.
    """

    def __init__(self, model: Isotropic, meta: Isotropic, number: int, parts: int):
        super().__init__()
        self.number, self.is_last = number, number == parts - 1
        self.models = (model, meta)  # in a tuple, which registers nothing
        self.blocks = bounds(len(model.blocks), parts, number)
        width, dim = meta.config["dim"], model.config["dim"]
        fits = width == dim
        self.before = None if fits or number == 0 else Linear(width, dim, init="trunc_normal")
        self.behind = None if fits or self.is_last else Linear(dim, width, init="trunc_normal")

    def forward(self, x: Tensor) -> tuple[Tensor, Aux]:
        model, meta = self.models
        first = model if self.number == 0 else meta
        x = _through(meta, meta.blocks[: self.number], first._enter(x))[0]
        x = x if self.before is None else self.before(x)
        x, aux = _through(model, model.blocks[self.blocks], x)
        x = x if self.behind is None else self.behind(x)
        last = model if self.is_last else meta
        if not self.is_last:
            x = _through(meta, meta.blocks[self.number + 1 :], x)[0]
        return last.forward_head(last._unpooled(last._final(x))), mean_losses(aux)


def _through(model: Isotropic, blocks: nn.Sequential, x: Tensor) -> tuple[Tensor, Aux]:
    auxes = []
    for block in blocks:
        x, aux = run_block(block, x, model.grad_checkpointing, {})
        auxes.append(aux)
    return x, merge_aux(auxes)


class Incubating(Effect):
    """The parts of a model in the meta model, and those of the teacher that they learn from."""

    def __init__(self, method: M2mKd, setting: Setting, parts: Sequence[Part], taught: Sequence[Part]):
        super().__init__()
        self.method, self.setting = method, setting
        self.parts, self.taught = nn.ModuleList(parts), tuple(taught)
        self.end = setting.steps(method.until)

    def networks(self, step: int) -> Sequence[Network]:
        return [*self.parts] if step < self.end else ()

    def loss(self, loss: Tensor, made: Pass) -> Tensor:
        learning = [*self.parts]
        if made.network not in learning:
            return loss
        with torch.no_grad(), self.setting.autocast():
            logits = self.taught[learning.index(made.network)](made.inputs)[0].float()
        weight = self.method.weight
        return (1 - weight) * loss + weight * module_loss(made.outputs, logits, self.method.temperature)
