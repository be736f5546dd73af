"""Activator mixes no tokens: what a patch holds stays with it, until the mean; one slot changes that."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import zoo
from zoo.blocks.channel.activator import Activator

PATCH = 8  # of the test variants, on 32 x 32 pixels


def shuffled(x: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
    """Images with their patches in another order."""
    patches = F.unfold(x, PATCH, stride=PATCH)[..., order]
    return F.fold(patches, x.shape[-2:], PATCH, stride=PATCH)


def test_the_unit_is_a_gate_and_a_value_behind_one_norm():
    unit, x = Activator(8, hidden=6), torch.randn(2, 3, 8)
    nn.init.normal_(unit.norm.weight)
    gate, value = unit.fc1(x), unit.value(x)
    norm = lambda y: F.layer_norm(y, (6,), unit.norm.weight, unit.norm.bias, 1e-5)
    assert torch.allclose(unit(x), unit.fc2(norm(F.gelu(gate)) * norm(value)), atol=1e-6)


@pytest.mark.parametrize("name", ["activator_test", "activator_only_geglu_test"])
def test_a_changed_patch_changes_its_own_token_alone(name):
    model, x = zoo.create_model(name).eval(), torch.randn(2, 3, 32, 32)
    changed = x.clone()
    changed[..., 8:16, 16:24] += 1  # in the second row the third of four
    difference = (model.forward_features(changed) - model.forward_features(x)).abs().amax((0, 2))
    assert difference[6] > 1e-2 and torch.equal(difference.nonzero().flatten(), torch.tensor([6]))


def test_the_order_of_the_patches_is_nothing_to_it_until_a_mixer_has_a_slot():
    x, order = torch.randn(2, 3, 32, 32), torch.randperm(16)
    for token_mixer, channel_mixer, blind in (
        ("activator", "mlp", True),
        ("none", "activator", True),
        ("token_mlp", "activator", False),
        ("pool", "activator", False),
    ):
        model = zoo.create_model("activator_test", token_mixer=token_mixer, channel_mixer=channel_mixer).eval()
        same = torch.allclose(model(shuffled(x, order)), model(x), atol=1e-6)
        assert same == blind, token_mixer


def test_only_the_perceptron_has_the_dropout():
    model = zoo.create_model("activator_test", proj_drop_rate=0.5)
    assert [type(m.drop).__name__ for m in (model.blocks[0].token_mixer, model.blocks[0].channel_mixer)] == [
        "NoneType",
        "Dropout",
    ]
    with pytest.raises(ValueError, match="proj_drop_rate"):
        zoo.create_model("activator_only_geglu_test", proj_drop_rate=0.5)
