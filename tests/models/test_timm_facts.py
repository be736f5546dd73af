"""What timm's own model tests ask of every model: that a configuration tells the truth about its model."""

import random

import pytest
import timm
import torch
from conftest import ALL_VARIANTS, TEST_VARIANTS, TIMM_VARIANTS, VECTOR_VARIANTS, images

import zoo
from zoo.registry import family_of
from zoo.skeletons.hierarchical import Hierarchical

FAMILIES = sorted({family_of(name).name for name in TEST_VARIANTS})
# A variant of every family, the same each time, and of those that timm has some more.
SAMPLE = {random.Random(name).choice([v for v in ALL_VARIANTS if family_of(v).name == name]) for name in FAMILIES}
SAMPLE |= set(random.Random(0).sample(TIMM_VARIANTS, 12))


def assert_true_of(model: torch.nn.Module) -> None:
    cfg, state = model.pretrained_cfg, model.state_dict()
    assert model.default_cfg is cfg
    convs = (cfg["first_conv"],) if isinstance(cfg["first_conv"], str) else cfg["first_conv"]
    assert [state[f"{conv}.weight"].shape[1] for conv in convs] == [model.in_chans] * len(convs)
    assert bool(convs) == any(isinstance(module, torch.nn.Conv2d) for module in model.stem.modules())
    if model.num_classes:
        assert state[f"{cfg['classifier']}.weight"].shape[0] == model.num_classes
    if not isinstance(model, Hierarchical):
        assert cfg["pool_size"] is None


@pytest.mark.parametrize("name", TEST_VARIANTS)
def test_the_configuration_is_that_of_the_model(name):
    model = zoo.create_model(name).eval()
    assert_true_of(model)
    x = torch.randn(1, *model.pretrained_cfg["input_size"])
    features = model.forward_features(x)
    if isinstance(model, Hierarchical):
        assert features.shape[1:3] == model.pretrained_cfg["pool_size"]
    assert features.shape[-1] == model.num_features
    pooled = model.forward_head(features, pre_logits=True)
    assert pooled.shape == (1, model.head_hidden_size)
    model.reset_classifier(0)
    assert torch.equal(model(x), pooled)
    model.reset_classifier(0, "")
    assert torch.equal(model(x), model.forward_head(features)) and model(x).shape == features.shape
    model.reset_classifier(7)
    assert_true_of(model)
    bare = zoo.create_model(name, num_classes=0, global_pool="").eval()
    assert bare(x).shape == features.shape and bare.pretrained_cfg["pool_size"] == model.pretrained_cfg["pool_size"]


@pytest.mark.parametrize("name", sorted(SAMPLE))
def test_the_configurations_of_variants(name):
    model = zoo.create_model(name, device="meta")
    assert_true_of(model)
    if name in TIMM_VARIANTS:
        assert model.pretrained_cfg["pool_size"] == timm.get_pretrained_cfg(name).pool_size
    elif timm.is_model(name):  # zoo's, by timm's door
        again = timm.create_model(name, device="meta")
        assert_true_of(again)
        assert again.pretrained_cfg == model.pretrained_cfg


@pytest.mark.parametrize("head", ["linear", "mlp", "tanh"])
@pytest.mark.parametrize("name", TEST_VARIANTS)
def test_heads_of_one_and_two_layers(name, head, tmp_path):
    model = zoo.create_model(name, head=head, num_classes=3)
    assert_true_of(model)
    zoo.save_pretrained(model, tmp_path)
    again = zoo.create_model(f"local-dir:{tmp_path}")
    assert_true_of(again)
    assert again.pretrained_cfg["classifier"] == model.pretrained_cfg["classifier"]


@pytest.mark.parametrize("stem", ["patch(patch_size=4)", "conv", "double_conv", "lift(kind='trained')"])
def test_other_stems(stem):
    for name in ("vit_test", "swin_test"):
        if "lift" not in stem or name == "vit_test":
            assert_true_of(zoo.create_model(name, stem=stem))


def test_an_image_as_output_has_a_last_layer_too():
    model = zoo.create_model("hourglass_test", head="image")
    assert f"{model.pretrained_cfg['classifier']}.weight" in model.state_dict()


@pytest.mark.parametrize("name", TEST_VARIANTS)
def test_feature_maps_keep_what_is_true_of_them(name):
    model = zoo.create_model(name, features_only=True, feature_cls="getter").eval()
    whole = zoo.create_model(name)
    assert {"classifier", "num_classes", "global_pool"}.isdisjoint(model.pretrained_cfg)
    assert model.pretrained_cfg["pool_size"] == whole.pretrained_cfg["pool_size"]
    assert model.pretrained_cfg["first_conv"] == whole.pretrained_cfg["first_conv"]
    assert model.output_fmt == "NCHW" and type(model) is type(zoo.create_model(name, features_only=True))
    assert timm.models.get_model_input_config(model)["input_size"] == whole.input_size
    maps, x = model(images(whole)), images(whole)
    assert len(maps) == len(model.feature_info.channels()) >= 3
    for found, channels, reduction in zip(
        model(x), model.feature_info.channels(), model.feature_info.reduction(), strict=True
    ):
        sides = [-(-side // reduction) for side in x.shape[2:]]
        assert found.shape[1] == channels and all(a <= b + 1 for a, b in zip(found.shape[2:], sides, strict=True))


@pytest.mark.parametrize("name", VECTOR_VARIANTS)
def test_models_of_vectors_tell_no_tales(name):
    model = zoo.create_model(name)
    cfg = model.pretrained_cfg
    assert cfg["first_conv"] == () and cfg["pool_size"] is None
    assert f"{cfg['classifier']}.weight" in model.state_dict()


def test_a_size_that_the_configuration_does_not_have():
    model = zoo.create_model("swin_test", stem="patch(patch_size=5)", img_size=40)
    assert model.pretrained_cfg["input_size"] == (3, 64, 64) and model.pretrained_cfg["pool_size"] is None
