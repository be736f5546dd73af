"""Guidance by alignment, against what the official code gave for the same numbers."""

import pytest
import torch
from trainings import TINY

from zoo.training import Trainer, load_recipe
from zoo.training.methods.alignment import linear_cka, partners

X = torch.tensor([[0.5, -1.0, 2.0], [1.5, 0.3, -0.7], [-0.2, 0.8, 0.1], [2.2, -0.4, 1.1]])
Y = torch.tensor([[1.0, 0.2], [-0.6, 1.4], [0.3, -0.9], [0.8, 2.1]])
GUIDED = (
    "methods.guide={name: alignment, guide: convnext_test, guide_kwargs: {img_size: 8, patch_size: 1, in_chans: 1}, "
    "until: 2st}"
)


# Of `CKA.linear_CKA` of vsubramaniam851/untrainable-networks, rep_sim/rep_sims.py, in float64.
@pytest.mark.parametrize("y, official", [(Y, 0.7079387836226193), (X**2, 0.755586940930918)])
def test_linear_cka(y, official):
    assert linear_cka(X, y).item() == pytest.approx(official, abs=1e-6)


# Of `layer_supervision` of the same, rep_sim/layer_sim.py.
@pytest.mark.parametrize(
    "guides, levels, official",
    [(3, 5, [0, 2, 4]), (6, 3, [0, 0, 1, 1, 2, 2]), (1, 4, [0]), (5, 12, [0, 3, 6, 8, 11])],
)
def test_which_level_learns_from_which(guides, levels, official):
    assert partners(range(guides), range(levels)) == official


def test_maps_without_a_difference_leave_the_gradient_finite():
    x = torch.ones(4, 3, requires_grad=True)
    linear_cka(x, Y).backward()
    assert x.grad.isfinite().all()


@pytest.fixture
def trainer(tmp_path):
    (tmp_path / "recipe.yaml").write_text(TINY.replace("depth: 1", "depth: 3"))
    return Trainer(load_recipe(tmp_path / "recipe.yaml", [GUIDED]), tmp_path / "run")


def test_the_guide_is_asked_until_its_time_is_over(trainer):
    """Its levels, four in stages of halved grids, are near to three of the model that are spread evenly."""
    effect = trainer.methods.effects["guide"]
    assert effect.theirs == [0, 1, 2, 3] and effect.levels == (0, 1, 1, 2) and effect.end == 2
    images, labels = trainer.splits["train"].fetch(range(16), 0)
    zero = torch.zeros(())

    def extra(step):
        return trainer.methods.loss(trainer.model, step, (images, labels), lambda outputs, aux: zero, {})[0]

    maps = trainer.plain_model.forward_intermediates(images, output_fmt="NHWC", intermediates_only=True)
    theirs = effect.guide.maps(images, effect.theirs)
    expected = sum(1 - linear_cka(maps[level], other) for level, other in zip(effect.levels, theirs, strict=True))
    assert extra(1).item() == pytest.approx(expected.item(), rel=1e-5) and expected.item() > 0.1
    assert extra(2) is zero


def test_it_draws_the_model_towards_the_guide(trainer):
    images = trainer.splits["validation"].fetch(range(64), 0)[0]
    effect = trainer.methods.effects["guide"]
    effect.end = None

    @torch.no_grad()
    def kinship():
        maps = trainer.plain_model.eval().forward_intermediates(images, output_fmt="NHWC", intermediates_only=True)
        theirs = effect.guide.maps(images, effect.theirs)
        return sum(linear_cka(maps[level], other) for level, other in zip(effect.levels, theirs, strict=True)).item()

    before = kinship()
    trainer.fit()
    assert kinship() > before + 0.05
