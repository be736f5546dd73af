"""What hierarchical models add: any image size, feature pyramids, slots by stage, costs that grow with the area."""

import pytest
import timm
import torch
from conftest import randomised, relative_error

import zoo

SLIM = {
    "swin_tiny_patch4_window7_224": dict(depths=(2, 2, 2, 1)),
    "swinv2_tiny_window8_256": dict(depths=(2, 2, 2, 1)),
    "poolformer_s12": None,
    "caformer_s18": None,
    "convnext_tiny": dict(depths=(1, 1, 2, 1)),
}


@pytest.fixture
def twins(timm_checkpoint):
    """Makes timm's model and zoo's with the same weights; fewer blocks where timm allows it."""

    def make(name: str, theirs: dict | None = None, **kwargs) -> tuple[torch.nn.Module, torch.nn.Module]:
        slim = SLIM[name] or {}
        _, path = timm_checkpoint(name, **slim)
        overlay = dict(pretrained=True, pretrained_cfg_overlay={"file": str(path)}, **slim)
        model = timm.create_model(name, **overlay, **{**kwargs, **(theirs or {})})
        return model.eval(), zoo.create_model(name, **overlay, **kwargs).eval()

    return make


def check_equal(theirs: torch.nn.Module, ours: torch.nn.Module, size: tuple[int, int]) -> None:
    x = torch.randn(1, 3, *size)
    with torch.no_grad():
        assert relative_error(ours(x), theirs(x)) < 1e-4


# --- Sizes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(192, 256), (197, 211)])
@pytest.mark.parametrize("name", SLIM)
def test_any_image_size_without_rebuilding(name, size, twins):
    """Not square, not a whole number of windows, nor of patches: timm's logits."""
    if not name.startswith("swin"):
        check_equal(*twins(name), size)
        return
    theirs, ours = twins(name, {"strict_img_size": False})
    x = torch.randn(1, 3, *size)
    padded = torch.nn.functional.pad(x, (0, -size[1] % 4, 0, -size[0] % 4))  # timm wants whole patches
    with torch.no_grad():
        assert relative_error(ours(x), theirs(padded)) < 1e-4


@pytest.mark.parametrize("size", [(256, 256), (200, 260)])
@pytest.mark.parametrize("name", [name for name in SLIM if name.startswith("swin")])
def test_weights_of_one_size_in_a_model_of_another(name, size, twins):
    check_equal(*twins(name, img_size=size), size)


@pytest.mark.parametrize("window_size", [8, 5])
@pytest.mark.parametrize("name", [name for name in SLIM if name.startswith("swin")])
def test_other_windows(name, window_size, twins, tmp_path):
    """set_input_size with another window resamples the position bias as timm does, and the model travels so."""
    theirs, ours = twins(name)
    for model in (theirs, ours):
        model.set_input_size((160, 224), window_size=window_size)
    check_equal(theirs, ours, (160, 224))
    zoo.save_pretrained(ours, tmp_path)
    again = zoo.create_model(f"local-dir:{tmp_path}").eval()
    x = torch.randn(1, 3, 160, 224)
    with torch.no_grad():
        assert torch.equal(again(x), ours(x))
    assert again.stages[0].blocks[0].token_mixer.window_size == ours.stages[0].blocks[0].token_mixer.window_size


def test_other_patches_equal_timms(twins):
    theirs, ours = twins("swin_tiny_patch4_window7_224")
    theirs.set_input_size((112, 224), patch_size=2, window_size=7)
    ours.set_input_size((112, 224), patch_size=2)
    check_equal(theirs, ours, (112, 224))
    assert [f["reduction"] for f in ours.feature_info] == [2, 4, 8, 16]


def test_weights_over_the_grid_are_resampled_when_asked(tmp_path):
    """RandFormer's matrices belong to one grid, in the authors' code for ever."""
    model = randomised(zoo.create_model("randformer_test"))
    x = torch.randn(1, 3, 96, 64)
    with pytest.raises(ValueError, match=r"call model.set_input_size\(\(96, 64\)\)"):
        model(x)
    model.set_input_size((96, 64))
    assert model(x).shape == (1, 10)
    mixer = model.stages[2].blocks[0].token_mixer
    assert mixer.random_matrix.shape == (24, 24)
    assert torch.allclose(mixer.random_matrix.sum(1), torch.ones(24), atol=1e-5)


def test_cost_of_swin_is_linear_in_the_area():
    def macs(size):
        model = zoo.create_model("swin_tiny_patch4_window7_224", img_size=size, num_classes=0, device="meta")
        return zoo.count_flops(model).macs

    assert macs(448) == 4 * macs(224)
    assert macs((224, 448)) == 2 * macs(224)


def test_attention_over_the_whole_map_is_not():
    macs = lambda size: (
        zoo.count_flops(zoo.create_model("caformer_s18", img_size=size, num_classes=0, device="meta")).macs
    )
    assert macs(448) > 4.05 * macs(224)


# --- Features ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SLIM)
def test_feature_maps_equal_timms(name, twins):
    theirs, ours = twins(name, features_only=True, out_indices=(0, 2, 3))
    assert ours.feature_info.channels() == theirs.feature_info.channels()
    assert ours.feature_info.reduction() == theirs.feature_info.reduction()
    x = torch.randn(1, 3, *ours.pretrained_cfg["input_size"][1:])
    with torch.no_grad():
        for found, expected in zip(ours(x), theirs(x), strict=True):
            if expected.shape != found.shape:
                expected = expected.permute(0, 3, 1, 2)  # timm's Swin gives channels last
            assert relative_error(found, expected) < 1e-4


def test_all_stages_are_features_by_default():
    maps = zoo.create_model("poolformer_s12", features_only=True, device="meta")(
        torch.empty(1, 3, 224, 224, device="meta")
    )
    assert [m.shape for m in maps] == [(1, 64, 56, 56), (1, 128, 28, 28), (1, 320, 14, 14), (1, 512, 7, 7)]


# --- Slots ------------------------------------------------------------------------------------------------------------


def kinds(model: torch.nn.Module, name: str = "token_mixer") -> list[list[str]]:
    return [[type(getattr(block, name)).__name__ for block in stage.blocks] for stage in model.stages]


def test_a_slot_a_stage_a_cycle_within_one_and_single_blocks():
    model = zoo.create_model(
        "poolformer_test",
        depths=(1, 2, 3, 1),
        token_mixer=["pool", "none", ["window", "shifted_window"], "attention"],
        channel_mixer={"name": "mlp", "at": {-1: "glu", 0: "none"}},
    )
    windows = ["WindowAttention", "ShiftedWindowAttention", "WindowAttention"]
    assert kinds(model) == [["Pool"], ["NoneType"] * 2, windows, ["Attention"]]
    assert kinds(model, "channel_mixer") == [["NoneType"], ["Mlp"] * 2, ["Mlp"] * 3, ["Glu"]]


def test_one_cycle_in_every_stage():
    model = zoo.create_model("convnext_test", depths=(2, 1, 2, 1), token_mixer=[["pool", "identity"]])
    assert kinds(model) == [["Pool", "Identity"], ["Pool"], ["Pool", "Identity"], ["Pool"]]


def test_a_mixer_over_the_grid_gets_that_of_its_stage():
    model = zoo.create_model("swin_test", token_mixer="token_mlp")
    assert [stage.blocks[0].token_mixer.grid for stage in model.stages] == [(16, 16), (8, 8), (4, 4), (2, 2)]
    model.set_input_size((64, 100))
    assert [stage.blocks[0].token_mixer.grid for stage in model.stages] == [(16, 25), (8, 13), (4, 7), (2, 4)]
    assert model(torch.randn(1, 3, 64, 100)).shape == (1, 10)


@pytest.mark.parametrize("stem", ["patch(patch_size=8)", "conv(kernel_size=3, stride=2, padding=1)", "double_conv"])
@pytest.mark.parametrize("downsample", ["merge", "conv(norm='layernorm')", ["merge", "conv", "merge(norm_last=True)"]])
def test_stems_and_downsampling_are_slots(stem, downsample, tmp_path):
    model = randomised(zoo.create_model("poolformer_test", stem=stem, downsample=downsample))
    stride = {"patch": 8, "conv(": 2, "doubl": 4}[stem[:5]]
    assert [f["reduction"] for f in model.feature_info] == [stride, 2 * stride, 4 * stride, 8 * stride]
    zoo.save_pretrained(model, tmp_path)
    x = torch.randn(1, 3, 70, 64)
    if stem.startswith("patch"):
        with pytest.raises(ValueError, match="not a whole number of 8 x 8 patches"):
            model(x)
        x = torch.randn(1, 3, 72, 64)
    assert torch.equal(zoo.create_model(f"local-dir:{tmp_path}").eval()(x), model(x))


def test_drop_path_rises_over_all_stages():
    model = zoo.create_model("swin_test", depths=(2, 1, 1, 1), drop_path_rate=0.4)
    rates = [b.drop_path.drop_prob if b.drop_path else 0.0 for stage in model.stages for b in stage.blocks]
    assert rates == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])


def test_scales_stand_where_the_family_has_them():
    model = zoo.create_model("caformer_test")
    assert [stage.blocks[0].res_scale1 is not None for stage in model.stages] == [False, False, True, True]
    assert zoo.create_model("convnext_test").stages[0].blocks[0].scale1 is None  # one branch, one scale


# --- Merging ----------------------------------------------------------------------------------------------------------


def test_merged_branches_travel_in_any_model(tmp_path):
    """A large kernel in a ViT, merged, saved, opened; a model without branches is left alone."""
    model = randomised(zoo.create_model("vit_test", token_mixer="large_kernel(kernel_size=7)", channel_mixer="grn_mlp"))
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        before = model(x)
        count = sum(p.numel() for p in model.parameters())
        model.reparameterize()
        assert relative_error(model(x), before) < 1e-5
    assert sum(p.numel() for p in model.parameters()) < count
    zoo.save_pretrained(model, tmp_path)
    again = zoo.create_model(f"local-dir:{tmp_path}").eval()
    assert again.deployed and torch.equal(again(x), model(x))
    plain = zoo.create_model("swin_test")
    plain.reparameterize()
    assert not plain.deployed


# --- Shortcuts between stages -----------------------------------------------------------------------------------------

SHORT = dict(shortcut="conv", dims=(8, 12, 16, 24), depths=(1, 1, 1, 1), downsample="merge", token_mixer="pool")


def test_what_enters_a_stage_is_added_to_what_enters_all_later_ones():
    model = randomised(zoo.create_model("poolformer_test", **SHORT))
    x = torch.randn(2, 3, 60, 52)  # 15 x 13, 8 x 7, 4 x 4, 2 x 2 positions
    y, entered = model.stem(x), []
    for i, stage in enumerate(model.stages):
        if i:
            y = stage.downsample(y)
            arrived = [short(z) for short, z in zip(stage.shortcuts, entered, strict=True)]
            entered = [*arrived, y]
            y = sum(arrived, y)
        for block in stage.blocks:
            y = block(y)
    assert [len(stage.shortcuts or ()) for stage in model.stages] == [0, 0, 1, 2]
    assert torch.allclose(model.forward_features(x), model._final(y), atol=1e-5)


@pytest.mark.parametrize("stride", [1, 4])
def test_shortcuts_make_the_grid_of_the_downsampling(stride):
    with pytest.raises(ValueError, match=rf"shortcut conv\(stride={stride}\) makes a grid of .*; give it the stride"):
        zoo.create_model("swin_test", **{**SHORT, "shortcut": f"conv(stride={stride})"})


def test_a_model_with_shortcuts_is_cut_saved_and_checkpointed(tmp_path):
    model, x = randomised(zoo.create_model("poolformer_test", **SHORT)), torch.randn(2, 3, 64, 64)
    zoo.save_pretrained(model, tmp_path)
    again = zoo.create_model(f"local-dir:{tmp_path}").eval()
    assert torch.equal(again(x), model(x))
    expected = model.forward_intermediates(x, intermediates_only=True)
    maps = zoo.create_model(f"local-dir:{tmp_path}", features_only=True, out_indices=(1, 2)).eval()(x)
    assert all(torch.equal(a, b) for a, b in zip(maps, expected[1:3], strict=True))
    again.set_grad_checkpointing()
    again(x).sum().backward()
    model(x).sum().backward()
    assert torch.equal(again.stages[2].shortcuts[0].conv.weight.grad, model.stages[2].shortcuts[0].conv.weight.grad)


def test_a_shortcut_takes_the_stride_of_the_downsampling_and_of_a_mixture_the_losses():
    strided = dict(SHORT, downsample="conv(kernel_size=3, stride=3)", channel_mixer="moe(num_experts=2)")
    model = zoo.create_model("poolformer_test", **strided)
    assert model.stages[3].shortcuts[1].conv.stride == (3, 3)
    logits, aux = model(torch.randn(2, 3, 120, 120), return_aux=True)
    assert logits.shape == (2, 10) and "loss/balance" in aux


def test_shortcuts_of_two_stages_would_do_nothing():
    with pytest.raises(ValueError, match="shortcut='conv' is given, and no part takes it"):
        zoo.create_model("poolformer_test", shortcut="conv", dims=(8, 16), depths=(1, 1))
    assert zoo.create_model("strip_mlp_test", shortcut="none").stages[3].shortcuts is None
