"""The same weights give timm's logits, for every timm-named variant."""

import pytest
import torch
from conftest import TIMM_VARIANTS, randomised, relative_error

import zoo

SMALL = (
    "mixer_s32_224",
    "gmixer_12_224",
    "resmlp_12_224",
    "gmlp_ti16_224",
    "vit_tiny_patch16_224",
    "deit_tiny_patch16_224",
    "swin_tiny_patch4_window7_224",
    "swin_s3_tiny_224",
    "swinv2_tiny_window8_256",
    "poolformer_s12",
    "poolformerv2_s12",
    "convformer_s18",
    "caformer_s18",
    "convnext_tiny",
)


def check(name: str, timm_checkpoint, **kwargs) -> None:
    theirs, path = timm_checkpoint(name, **kwargs)
    ours = zoo.create_model(name, pretrained=True, pretrained_cfg_overlay={"file": str(path)}, **kwargs).eval()
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())
    x = torch.randn(2, *ours.pretrained_cfg["input_size"])
    with torch.no_grad():
        expected, found = theirs(x), ours(x)
        reference = theirs.forward_features(x)
        if reference.ndim == 4 and getattr(theirs, "output_fmt", "NCHW") == "NCHW":
            reference = reference.permute(0, 2, 3, 1)
        features = relative_error(ours.forward_features(x), reference)
    assert expected.std() > 0.01, "the reference is nearly constant, the comparison would be empty"
    assert relative_error(found, expected) < 1e-4
    assert features < 1e-4


@pytest.mark.parametrize("name", SMALL)
def test_logits_equal_timms(name, timm_checkpoint):
    check(name, timm_checkpoint)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(TIMM_VARIANTS) - set(SMALL)))
def test_logits_equal_timms_for_the_large_ones(name, timm_checkpoint):
    check(name, timm_checkpoint)


def test_gradients_equal_timms(timm_checkpoint):
    """One step of training is the same too: gradients of every parameter, through the family's own rules."""
    theirs, path = timm_checkpoint("gmlp_ti16_224")
    ours = zoo.create_model("gmlp_ti16_224", pretrained=True, pretrained_cfg_overlay={"file": str(path)}).eval()
    x = torch.randn(2, 3, 224, 224)
    for model in (theirs, ours):
        model(x).square().mean().backward()
    rules = zoo.registry.families()["gmlp"].rules
    grads = zoo.weights.remap({k: p.grad for k, p in theirs.named_parameters()}, dict(ours.named_parameters()), rules)
    for name, parameter in ours.named_parameters():
        assert relative_error(parameter.grad, grads[name]) < 1e-3, name


def test_the_authors_own_layout_of_resmlp_loads_too(timm_checkpoint):
    """facebookresearch/deit's keys differ from timm's; both are the same model."""
    theirs, _ = timm_checkpoint("resmlp_12_224")
    names = {
        "stem.": "patch_embed.",
        "linear_tokens.": "attn.",
        "mlp_channels.": "mlp.",
        ".ls1": ".gamma_1",
        ".ls2": ".gamma_2",
    }
    state = {}
    for key, value in theirs.state_dict().items():
        for old, new in names.items():
            key = key.replace(old, new)
        state[key] = value.flatten() if key.endswith(("alpha", "beta")) else value
    ours = zoo.create_model("resmlp_12_224", pretrained=True, pretrained_cfg_overlay={"state_dict": state}).eval()
    x = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        assert relative_error(ours(x), theirs(x)) < 1e-4


def test_weights_for_other_channels_and_classes_are_adapted_as_timm_does(timm_checkpoint):
    import timm

    theirs, path = timm_checkpoint("deit_tiny_patch16_224")
    overlay = {"file": str(path)}
    ours = zoo.create_model(
        "deit_tiny_patch16_224", pretrained=True, pretrained_cfg_overlay=overlay, in_chans=1, num_classes=0
    )
    reference = timm.create_model(
        "deit_tiny_patch16_224", pretrained=True, pretrained_cfg_overlay=overlay, in_chans=1, num_classes=0
    ).eval()
    x = torch.randn(2, 1, 224, 224)
    with torch.no_grad():
        assert relative_error(ours.eval()(x), reference(x)) < 1e-4
    fresh = zoo.create_model("deit_tiny_patch16_224", pretrained=True, pretrained_cfg_overlay=overlay, num_classes=7)
    assert fresh.head.weight.shape == (7, 192)


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "mixer_s32_224"])
def test_bf16_stays_close_to_timm(name, timm_checkpoint):
    theirs, path = timm_checkpoint(name)
    ours = zoo.create_model(name, pretrained=True, pretrained_cfg_overlay={"file": str(path)}).eval()
    x = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        exact = theirs(x)
        a, b = (model.to(torch.bfloat16)(x.to(torch.bfloat16)).float() for model in (theirs, ours))
    assert relative_error(b, exact) < 1.5 * relative_error(a, exact) + 0.01, "zoo loses more precision than timm"


def test_dynamic_image_size_equals_timms(timm_checkpoint):
    import timm

    _, path = timm_checkpoint("vit_tiny_patch16_224")
    kwargs = dict(pretrained=True, pretrained_cfg_overlay={"file": str(path)}, dynamic_img_size=True)
    x = torch.randn(1, 3, 192, 256)
    with torch.no_grad():
        expected = timm.create_model("vit_tiny_patch16_224", **kwargs).eval()(x)
        assert relative_error(zoo.create_model("vit_tiny_patch16_224", **kwargs).eval()(x), expected) < 1e-4


def test_input_size_of_vit_is_resampled_as_timm_does(timm_checkpoint):
    theirs, path = timm_checkpoint("vit_tiny_patch16_224")
    ours = zoo.create_model("vit_tiny_patch16_224", pretrained=True, pretrained_cfg_overlay={"file": str(path)}).eval()
    for model in (theirs, ours):
        model.set_input_size(img_size=(160, 192), patch_size=(8, 16))
    x = torch.randn(1, 3, 160, 192)
    with torch.no_grad():
        assert relative_error(ours(x), theirs(x)) < 1e-4


def test_randomised_reference_differs_between_weights():
    """The comparison above would fail for other weights: it is no comparison of constants."""
    a, b = (randomised(zoo.create_model("mixer_test")) for _ in range(2))
    x = torch.randn(2, 3, 32, 32)
    assert relative_error(a(x), b(x)) > 0.1
