"""Weights for one image size in a model of another: token mixers and position embeddings are resampled."""

import pytest
import torch
from conftest import images, randomised, relative_error

import zoo
from zoo.blocks.linear import resample_tokens

MIXERS = ("token_mlp", "token_mlp(gated=True)", "resmlp_linear", "spatial_gate")


def test_224_weights_in_a_256_model(timm_checkpoint):
    """mixer_s16_224 with img_size=256 loads 224 weights; everything but the token mixers stays as it was."""
    theirs, path = timm_checkpoint("mixer_s16_224")
    model = zoo.create_model(
        "mixer_s16_224", pretrained=True, pretrained_cfg_overlay={"file": str(path)}, img_size=256
    ).eval()
    assert model.grid == (16, 16) and model(torch.randn(1, 3, 256, 256)).shape == (1, 1000)
    fc1, fc2 = model.blocks[0].token_mixer.fc1, model.blocks[0].token_mixer.fc2
    assert fc1.weight.shape == (256, 256) and fc2.weight.shape == (256, 256) and fc2.bias.shape == (256,)
    source = theirs.blocks[0].mlp_tokens.fc1.weight
    assert torch.allclose(fc1.weight.sum(1), source.sum(1), atol=0.15), "what a constant image gives must not change"
    assert torch.equal(model.blocks[0].channel_mixer.fc1.weight, theirs.blocks[0].mlp_channels.fc1.weight)


@pytest.mark.parametrize("slot", MIXERS)
def test_a_smooth_input_is_mixed_alike_on_both_grids(slot):
    """Weights that vary smoothly over the grid, as trained ones do, act on an enlarged image almost as before."""
    mixer = zoo.create_block("token_mixer", slot, dim=8, grid=(8, 8))
    rows = torch.linspace(0, 3.14, 8)
    basis = torch.stack([torch.outer((i * rows).cos(), (j * rows).cos()).flatten() for i in range(3) for j in range(3)])
    with torch.no_grad():
        for layer in mixer.modules():
            if type(layer).__name__ == "TokenLinear":
                inputs, outputs = layer.weight.shape[1] == 64, layer.weight.shape[0] == 64
                smooth = (
                    torch.randn(9 if outputs else layer.weight.shape[0], 9 if inputs else layer.weight.shape[1]) / 30
                )
                smooth = basis.t() @ smooth if outputs else smooth
                layer.weight.copy_(smooth @ basis if inputs else smooth)
                layer.bias.copy_(torch.randn(9) @ basis if outputs else torch.randn(layer.bias.shape))

    def resize(t, side):
        return torch.nn.functional.interpolate(
            t.permute(0, 3, 1, 2), size=(side, side), mode="bicubic", antialias=True
        ).permute(0, 2, 3, 1)

    x = resize(torch.randn(2, 3, 3, 8), 8)
    with torch.no_grad():
        expected = resize(mixer(x), 12)
        mixer.set_grid((12, 12))
        found = mixer(resize(x, 12))
    inner = (slice(None), slice(2, -2), slice(2, -2))
    assert relative_error(found[inner], expected[inner]) < 0.15
    assert mixer.grid == (12, 12)


@pytest.mark.parametrize("slot", MIXERS)
def test_the_same_grid_changes_nothing(slot):
    mixer = zoo.create_block("token_mixer", slot, dim=8, grid=(4, 4))
    before = {k: v.clone() for k, v in mixer.state_dict().items()}
    mixer.set_grid((4, 4))
    assert all(torch.allclose(v, before[k], atol=1e-6) for k, v in mixer.state_dict().items())


def test_sequences_are_resampled_along_their_length():
    x = torch.linspace(0, 1, 8)[None]
    y = resample_tokens(x, (8,), (16,))
    assert y.shape == (1, 16) and (y.diff() > 0).all()
    with pytest.raises(ValueError, match="8 tokens are not a grid of"):
        resample_tokens(x, (3, 3), (4, 4))


@pytest.mark.parametrize("name", ["mixer_test", "gmlp_test", "vit_test"])
def test_a_resized_model_saves_and_loads(name, tmp_path):
    model = randomised(zoo.create_model(name))
    model.set_input_size(48, patch_size=8)
    zoo.save_pretrained(model, tmp_path)
    again = zoo.create_model(f"local-dir:{tmp_path}").eval()
    x = images(model)
    assert x.shape[-1] == 48 and torch.equal(again(x), model(x))


@pytest.mark.parametrize("name", ["mixer_test", "resmlp_test", "vit_test"])
def test_a_saved_model_opens_at_another_size(name, tmp_path):
    model = randomised(zoo.create_model(name))
    zoo.save_pretrained(model, tmp_path)
    larger = zoo.create_model(f"local-dir:{tmp_path}", img_size=64).eval()
    model.set_input_size(64)
    x = images(model)
    assert torch.equal(larger(x), model(x))


def test_patch_size_is_resampled_too():
    model = randomised(zoo.create_model("mixer_test"))
    model.set_input_size(64, patch_size=16)
    assert model.grid == (4, 4) and model(images(model)).shape == (2, 10)
    model.set_input_size(patch_size=8)
    assert model.grid == (8, 8) and model(images(model)).shape == (2, 10)


def test_mixers_without_a_grid_take_any_size():
    model = randomised(zoo.create_model("mixer_test", token_mixer="attention(heads=2)"))
    assert model(torch.randn(2, 3, 40, 64)).shape == (2, 10)
