"""The losses of distillation, against what the official code gave for the same numbers."""

import pytest
import torch
from torch.nn import functional as F

import zoo
from zoo.training.methods.distill import soft_loss
from zoo.training.methods.exits import exit_levels, make_exits
from zoo.training.methods.ofa_kd import enhanced_loss

STUDENT = torch.tensor([[1.2, -0.7, 0.3, 2.1], [0.0, 0.5, -1.5, 0.9], [-0.4, 2.6, 0.8, -1.1]]).double()
TEACHER = torch.tensor([[3.1, 0.2, -0.6, 1.4], [-0.3, 0.1, 0.7, 2.2], [0.9, 1.8, 1.7, -2.0]]).double()
LABELS = torch.tensor([0, 3, 2])


# Of `ofa_loss` of Hao840/OFAKD, distillers/ofa.py, in float64.
@pytest.mark.parametrize(
    "gamma, temperature, official",
    [
        (1.0, 1.0, 1.3553796241641072),
        (1.5, 1.0, 1.591817333506546),
        (1.2, 4.0, 1.23819360064822),
        (0.8, 2.0, 1.5470348753437182),
    ],
)
def test_the_loss_of_ofa_kd(gamma, temperature, official):
    assert enhanced_loss(STUDENT, TEACHER, LABELS, gamma, temperature).item() == pytest.approx(official, abs=1e-7)


# Of `kd_loss` of Hao840/OFAKD, distillers/utils.py, in float64.
@pytest.mark.parametrize("temperature, official", [(1.0, 0.46480699953428073), (4.0, 0.5814954328503695)])
def test_hintons_loss(temperature, official):
    assert soft_loss(STUDENT, TEACHER, temperature).item() == pytest.approx(official, abs=1e-7)


def test_without_enhancement_it_is_the_cross_entropy_with_the_teacher():
    plain = F.cross_entropy(STUDENT, TEACHER.softmax(1))
    assert enhanced_loss(STUDENT, TEACHER, LABELS, 1.0, 1.0).item() == pytest.approx(plain.item(), abs=1e-7)


def test_a_probability_that_underflows_leaves_the_loss_finite():
    far = torch.tensor([[0.0, 1000.0]], requires_grad=True)
    enhanced_loss(far, torch.zeros(1, 2), torch.tensor([0]), 1.5, 1.0).backward()
    assert far.grad.isfinite().all()


@pytest.mark.parametrize("name", ["mixer_test", "hourglass_test", "vit_test", "swin_test", "convnext_test"])
@pytest.mark.parametrize("blocks", [None, 0])
def test_every_family_has_exits(name, blocks):
    """Two kinds of skeleton; a class token, one position, stages; and exits that are a classifier alone."""
    size = zoo.create_model(name, device="meta").img_size[0]
    model = zoo.create_model(name)
    levels = exit_levels(model, None, "levels")
    exits = make_exits(model, levels, width=40, num_classes=7, blocks=blocks)
    maps = model.forward_intermediates(
        torch.randn(2, model.in_chans, size, size), indices=levels, output_fmt="NHWC", intermediates_only=True
    )
    logits = [leave(features) for leave, features in zip(exits, maps, strict=True)]
    assert len(logits) == len(levels) and all(values.shape == (2, 7) for values in logits)
    sum(values.square().sum() for values in logits).backward()
    assert all(parameter.grad is not None for parameter in exits.parameters())


def test_exits_are_where_the_paper_has_them():
    model = zoo.create_model("mixer_b16_224", device="meta")
    assert exit_levels(model, None, "levels") == [1, 3, 9, 11]
    exits = make_exits(zoo.create_model("mixer_test", img_size=128, depth=12), [1, 3, 9, 11],
                       width=1, num_classes=3, blocks=None)  # fmt: skip
    kinds = [[type(layer).__name__ for layer in branch] for branch in exits]
    assert [names.count("MetaBlock") for names in kinds] == [3, 2, 1, 1]  # max(4 - stage, 1)
    assert [names.count("PatchMerging") for names in kinds] == [1] * 4  # 16 x 16 patches to 8 x 8
