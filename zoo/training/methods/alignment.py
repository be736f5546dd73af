"""Guidance by alignment: feature maps of the model are drawn towards the kinship of images in those of a guide."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

from torch import Tensor

from zoo.checks import Interval
from zoo.training.methods.base import Effect, Method, Pass, Setting
from zoo.training.methods.exits import Level, taken_levels
from zoo.training.methods.teacher import Teacher
from zoo.training.recipe.schema import LONGEST, Duration, Lasting

TINY = 1e-12  # below the norm of any Gram matrix of images that differ


def linear_cka(x: Tensor, y: Tensor) -> Tensor:
    """Linear centred kernel alignment of two representations of the same examples ``(B, *)``, in [0, 1].

    Example:
        >>> import torch
        >>> x = torch.randn(6, 5, generator=torch.Generator().manual_seed(0))
        >>> round(linear_cka(x, 3 * x.flip(1) + 1).item(), 4)  # turned, scaled and moved: the same to it
        1.0

    Source: Kornblith et al., "Similarity of Neural Network Representations Revisited" (arXiv 1905.00414), section 3.
    Differs: none known. The numbers are centred in the place of the Gram matrices, which is the same.
    """

    def gram(values: Tensor) -> Tensor:
        values = values.flatten(1).float()
        values = values - values.mean(0)
        return values @ values.t()

    k, l = gram(x), gram(y)  # noqa: E741, as in the paper
    return (k * l).sum() / (k.norm() * l.norm()).clamp_min(TINY)


def partners(guides: Sequence[int], levels: Sequence[int]) -> list[int]:
    """For each level of the guide the one of the model that learns from it: spread evenly, first to first.

    Example:
        >>> partners([0, 1, 2], [4, 5, 6, 7, 8]), partners([0, 1, 2], [7])
        ([4, 6, 8], [7, 7, 7])
    """
    step = (len(levels) - 1) / (len(guides) - 1) if len(guides) > 1 else 1
    return [levels[min(round(i * step), len(levels) - 1)] for i in range(len(guides))]


@dataclass(frozen=True)
class Alignment(Method):
    """Guidance (arXiv 2410.20035): `weight` times the sum over levels of 1 - CKA of model and guide is added.

    The guide is a network of whatever family, trained or with weights as they are drawn, whose architecture the model
    takes over a bias from. Each of its levels has a partner in the model, spread evenly over the depth. CKA is that of
    the images of a batch (of a part of it, with `train.accumulate`), so that widths and grids may differ.
    """

    name: ClassVar[str] = "alignment"
    guide: str  # folder of a run or of a model, or what `zoo.create_model` takes: then its weights are drawn
    guide_kwargs: dict[str, Any] = field(default_factory=dict)  # other arguments of `zoo.create_model`
    weight: Annotated[float, Interval(0, 1_000_000)] = 1.0  # of the sum
    levels: tuple[Level, ...] | None = None  # of the model, negative ones from the end; null: all
    guide_levels: tuple[Level, ...] | None = None  # of the guide; null: all
    until: Annotated[Duration, Lasting(0, LONGEST)] | None = None  # when guidance ends; null: with the training

    def begin(self, setting: Setting) -> Effect:
        model = setting.feature_model()
        guide = Teacher(self.guide, self.guide_kwargs, setting, f"{setting.key}.guide")
        theirs = taken_levels(guide.feature_model(), self.guide_levels, f"{setting.key}.guide_levels")
        ours = partners(theirs, taken_levels(model, self.levels, f"{setting.key}.levels"))
        return Aligning(self, guide, theirs, ours, None if self.until is None else setting.steps(self.until))


class Aligning(Effect):
    """The distances between the levels of a model and of its guide."""

    def __init__(self, method: Alignment, guide: Teacher, theirs: list[int], ours: list[int], end: int | None):
        super().__init__()
        self.method, self.guide, self.theirs, self.end = method, guide, theirs, end
        self.levels = tuple(ours)

    def loss(self, loss: Tensor, made: Pass) -> Tensor:
        if self.end is not None and made.step >= self.end:
            return loss
        guides = self.guide.maps(made.inputs, self.theirs)
        apart = sum(1 - linear_cka(ours, theirs) for ours, theirs in zip(made.beside, guides, strict=True))
        return loss + self.method.weight * apart
