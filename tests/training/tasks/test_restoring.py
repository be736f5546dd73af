"""Tasks from image to image: what they make of an image, and what they refuse."""

import pytest
import torch

import zoo
from zoo.training.data.digits import Digits
from zoo.training.tasks.super_resolution import SuperResolution


def test_a_small_image_is_what_is_enlarged():
    """One that is smooth is hardly changed; of a pattern that is too fine for the small image, the mean is left."""
    ramp = torch.linspace(0, 1, 16).expand(1, 1, 16, 16)
    inputs, targets = SuperResolution(2).example(ramp, torch.zeros(1), torch.Generator())
    assert targets is ramp and inputs.shape == ramp.shape
    assert (inputs - ramp)[..., 2:-2].abs().max() < 0.02
    board = (torch.arange(16)[:, None] + torch.arange(16)).remainder(2).float()[None, None]
    inputs, _ = SuperResolution(4).example(board, torch.zeros(1), torch.Generator())
    assert (inputs - 0.5)[..., 4:-4, 4:-4].abs().max() < 0.05 and inputs.std() < 0.1 * board.std()


def test_super_resolution_refuses_what_does_not_fit():
    split = Digits().load()["train"]
    model = zoo.create_model("conventional_test", head="image")
    SuperResolution(4).check(model, split)
    with pytest.raises(ValueError, match="task.scale is 3, which does not divide 8 x 8 pixels"):
        SuperResolution(3).check(model, split)
    with pytest.raises(ValueError, match="gives 10 logits, not images: set model.kwargs.head=image"):
        SuperResolution(2).check(zoo.create_model("conventional_test"), split)
    with pytest.raises(ValueError, match="super_resolution is no task among several"):
        SuperResolution(2).check(model, split, "model.heads.ink")
