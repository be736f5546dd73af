"""Weights of a plain model in a recombined one: what fits is loaded, some is converted, the rest starts anew."""

import copy
import itertools
import random
import warnings

import pytest
import timm
import torch
from conftest import TEST_VARIANTS, images, randomised, relative_error
from safetensors.torch import save_file

import zoo
from zoo.build.recombine import transplant
from zoo.tools.kan.grid import refine
from zoo.weights.loaded import part_of

CHANNEL_MIXERS = ("gr_kan", "moe", "glu", "grn_mlp", "spline_kan", "none")
TOKEN_MIXERS = ("pool", "attention", "depthwise_conv", "identity", "token_mlp", "window")
EXCHANGES = [
    *itertools.product(["channel_mixer"], CHANNEL_MIXERS),
    *itertools.product(["token_mixer"], TOKEN_MIXERS),
    *itertools.product(["norm"], ("rmsnorm", "affine")),
    *itertools.product(["act"], ("star_relu",)),
    *itertools.product(["head"], ("mlp",)),
]
PAIRS = random.Random(0).sample([(name, *exchange) for name in TEST_VARIANTS for exchange in EXCHANGES], 24)


def given(name: str, state: dict, **kwargs) -> torch.nn.Module:
    """A model with the weights of a state dict, as those that are released for it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        overlay = {"state_dict": state}
        return zoo.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay, **kwargs).eval()


def plain(name: str, **kwargs) -> torch.nn.Module:
    return randomised(zoo.create_model(name, **kwargs))


def recombined(model: torch.nn.Module, folder, **kwargs) -> torch.nn.Module:
    """A saved model, opened with other slots."""
    zoo.save_pretrained(model, folder)
    with pytest.warns(UserWarning, match="of the recombined model's tensors") as warned:
        other = zoo.create_model(f"local-dir:{folder}", **kwargs).eval()
    assert len(warned) == 1
    return other


def hows(model: torch.nn.Module) -> dict[str, set[str]]:
    """By part, what became of the tensors that the model has there."""
    found = {}
    for part in model.loaded.parts:
        if part.how != "left out":
            found.setdefault(part.name, set()).add(part.how)
    return found


def told(model: torch.nn.Module, name: str) -> list[tuple[str, str]]:
    return [(part.how, part.note) for part in model.loaded.parts if part.name.endswith(name)]


# --- Pairs of families and slots --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name, slot, block", PAIRS)
def test_what_is_loaded_is_the_plain_models_and_what_is_new_is_as_a_new_models(name, slot, block):
    theirs = plain(name).state_dict()
    torch.manual_seed(1)
    new = zoo.create_model(name, **{slot: block}).state_dict()
    torch.manual_seed(1)
    model = given(name, theirs, **{slot: block})
    state, how = model.state_dict(), hows(model)
    assert model.loaded.count("loaded", "converted", "new")[0] == len(state)
    assert model.loaded.count("loaded", "converted", "new")[1] == sum(value.numel() for value in state.values())
    for key, value in state.items():
        if how[part_of(key)] == {"loaded"}:
            assert torch.equal(value, theirs[key.replace(".mixer.", ".") if key not in theirs else key]), key
        if how[part_of(key)] == {"new"}:
            assert torch.equal(value, new[key]), key
    beside = ("norm1", "norm2", "scale1", "scale2", "res_scale1", "res_scale2")  # which are there if a mixer is
    may_change = {"act": ("mixer",), "norm": (*beside, "norm"), "head": ("head",)}.get(slot, (slot, *beside))
    assert all(part.endswith(may_change) for part, fates in how.items() if fates != {"loaded"})
    assert model(images(model)).isfinite().all()


# --- Conversions ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, before, after, within",
    [
        ("swin_test", "mlp", "moe(num_experts=4, top_k=2)", 1e-5),
        ("vit_test", "mlp(bias=False)", "moe(num_experts=3)", 1e-5),
        ("mixer_test", "glu(gate_last=True)", "moe(experts='glu')", 1e-5),
        ("vit_test", "hourglass", "moe(experts='mlp(ratio=0.25)')", 1e-5),
        ("convnext_test", "gr_kan", "moe(experts=['gr_kan'])", 1e-5),
        ("poolformer_test", "mlp", "grn_mlp", 1e-6),
        ("swin_test", "mlp", "gr_kan", 0.05),
        ("deit_test", "mlp(act='silu')", "gr_kan", 1e-3),
        ("mixer_test", "mlp", "moe(experts=['mlp', 'gr_kan'])", 0.05),
    ],
)
def test_a_converted_channel_mixer_computes_what_the_old_one_did(name, before, after, within, tmp_path):
    dense = plain(name, channel_mixer=before)
    model = recombined(dense, tmp_path, channel_mixer=after)
    x = images(dense)
    with torch.no_grad():
        assert relative_error(model(x), dense(x)) < within
    router = {"new"} if "moe" in after else set()
    assert {how for how, _ in told(model, "channel_mixer")} == {"converted"} | router
    notes = [note for how, note in told(model, "channel_mixer") if how == "converted"]
    assert all("copy" in note or "same function" in note or "nearest rational" in note for note in notes)


KERNELS = [
    ("convnext_test", "depthwise_conv(kernel_size=3)", "depthwise_conv(kernel_size=7)"),
    ("poolformer_test", "sep_conv(kernel_size=3)", "sep_conv(kernel_size=5)"),
]


@pytest.mark.parametrize("name, small, large", KERNELS)
def test_a_larger_kernel_is_the_smaller_one_with_zeros_around_it(name, small, large, tmp_path):
    old = plain(name, token_mixer=small)
    model = recombined(old, tmp_path / "large", token_mixer=large)
    x = images(old)
    with torch.no_grad():
        assert relative_error(model(x), old(x)) < 1e-6
    assert any("zeros around it" in note for _, note in told(model, "token_mixer"))
    back = recombined(model, tmp_path / "small", token_mixer=small)
    assert "new" in {how for how, _ in told(back, "token_mixer")}


def test_heads_of_another_number_have_the_same_maps_and_are_told():
    theirs = plain("vit_test").state_dict()
    model = given("vit_test", theirs, token_mixer="attention(heads=2)")
    assert told(model, "token_mixer") == [("converted", "heads 4 -> 2, same maps")]
    assert all(torch.equal(value, theirs[key]) for key, value in model.state_dict().items())


def test_biases_by_position_are_resampled_to_another_window_and_new_for_other_heads():
    theirs = plain("swin_test").state_dict()
    cycle = lambda options: [[f"window({options})", f"shifted_window({options})"]]
    windows = given("swin_test", theirs, token_mixer=cycle("window_size=2, head_dim=4"))
    assert ("converted", "window (4, 4) -> (2, 2), resampled") in told(windows, "token_mixer")
    heads = given("swin_test", theirs, token_mixer=cycle("window_size=4, heads=1"))
    assert {how for how, _ in told(heads, "token_mixer")} == {"new", "converted", "left out"}
    name = "stages.0.blocks.0.token_mixer.qkv.weight"
    assert torch.equal(heads.state_dict()[name], theirs[name])
    plain_windows = given("swin_test", theirs, token_mixer="window(window_size=4, head_dim=4)")
    assert {how for how, _ in told(plain_windows, "token_mixer")} == {"loaded"}  # shifted windows have the same weights


def test_attention_in_windows_takes_the_maps_of_attention_over_all():
    theirs = plain("vit_test").state_dict()
    model = given("vit_test", theirs, token_mixer="window(window_size=2)")
    assert {how for how, _ in told(model, "token_mixer")} == {"converted", "new"}
    key = "blocks.1.token_mixer.mixer.proj.weight"  # class token and patches are apart there
    assert torch.equal(model.state_dict()[key], theirs[key.replace(".mixer.", ".")])


def test_a_norm_of_another_kind_keeps_the_factors():
    theirs = plain("vit_test").state_dict()
    model = given("vit_test", theirs, norm="rmsnorm")
    assert torch.equal(model.blocks[1].norm1.weight, theirs["blocks.1.norm1.weight"])
    assert {how for how, _ in told(model, "norm1")} == {"converted", "left out"}
    assert hows(given("vit_test", theirs, norm="affine"))["blocks.*.norm1"] == {"new"}


def test_a_rational_that_is_asked_for_stays(tmp_path):
    model = given("deit_test", plain("deit_test").state_dict(), channel_mixer="gr_kan(rational='swish')")
    fresh = zoo.create_model("deit_test", channel_mixer="gr_kan(rational='swish')")
    act = model.blocks[0].channel_mixer.act2
    assert torch.equal(act.numerator, fresh.blocks[0].channel_mixer.act2.numerator)
    gelu = given("deit_test", plain("deit_test").state_dict(), channel_mixer="gr_kan")
    assert not torch.equal(gelu.blocks[0].channel_mixer.act2.numerator, act.numerator)


# --- What is not taken ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "before, after",
    [
        ("mlp(hidden=16)", "hourglass(hidden=16)"),  # one function; but nobody said so
        ("chebyshev_kan(hidden=8, degree=3)", "fourier_kan(hidden=8, num_frequencies=2)"),
        ("rbf_kan(hidden=8)", "rbf_kan(hidden=8, grid_range=(-1.0, 1.0))"),
        ("mlp(hidden=64)", "glu(hidden=32)"),
        ("mlp(ratio=4)", "moe(experts='mlp(ratio=2)')"),
        ("mlp(ratio=4)", "gr_kan(ratio=2)"),
        ("mlp(ratio=4)", "mlp(ratio=2)"),
    ],
)
def test_names_and_shapes_that_agree_by_chance_fill_nothing(before, after, tmp_path):
    old = plain("vit_test", channel_mixer=before)
    torch.manual_seed(1)
    new = zoo.create_model("vit_test", channel_mixer=after).state_dict()
    torch.manual_seed(1)
    model = recombined(old, tmp_path, channel_mixer=after)
    found = {key: value for key, value in model.state_dict().items() if "channel_mixer" in key}
    taken = [key for key, value in found.items() if not torch.equal(value, new[key])]
    assert all(".norm." in key for key in taken), taken  # the norm between the maps is the same


# --- Parts of a model -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value, changed", [({"every": {2: "moe"}}, {1}), ({"at": {-1: "glu", 0: "none"}}, {0, 2})])
def test_blocks_that_are_not_exchanged_are_loaded(value, changed):
    theirs = plain("vit_test").state_dict()
    model = given("vit_test", theirs, channel_mixer=value)
    for i in set(range(3)) - changed:
        state = model.blocks[i].channel_mixer.state_dict()
        assert all(torch.equal(tensor, theirs[f"blocks.{i}.channel_mixer.{key}"]) for key, tensor in state.items())
    assert "loaded" in hows(model)["blocks.*.channel_mixer"]
    assert all(torch.equal(v, theirs[k]) for k, v in model.state_dict().items() if "channel_mixer" not in k)


def test_a_grid_that_was_refined_is_taken_where_the_mixer_stays(tmp_path):
    refined = plain("vit_test", channel_mixer="spline_kan(hidden=8)")
    refine(refined, 12)
    theirs = refined.state_dict()
    model = recombined(refined, tmp_path, token_mixer="pool")
    assert hows(model)["blocks.*.channel_mixer"] == {"loaded"}
    assert all(torch.equal(v, theirs[k]) for k, v in model.state_dict().items() if "channel_mixer" in k)


def test_feature_maps_have_the_weights_too():
    theirs = plain("vit_test")
    maps = given(
        "vit_test", theirs.state_dict(), features_only=True, out_indices=(0, 1), token_mixer="attention(heads=4)"
    )
    x = images(theirs)
    expected = theirs.forward_intermediates(x, [0, 1], intermediates_only=True)
    assert all(torch.equal(found, one) for found, one in zip(maps(x), expected, strict=True))
    glu = given("vit_test", theirs.state_dict(), features_only=True, channel_mixer="glu")
    assert hows(glu)["blocks.*.channel_mixer"] == {"new"} and "head" not in hows(glu)
    assert given("vit_test", theirs.state_dict(), features_only=True).loaded.count("new") == (0, 0)


def test_other_classes_channels_and_sizes_beside_other_slots():
    theirs = plain("vit_test")
    model = given("vit_test", theirs.state_dict(), channel_mixer="gr_kan", num_classes=3, in_chans=1, img_size=64)
    assert model(torch.randn(1, 1, 64, 64)).shape == (1, 3) and model.config["img_size"] == (64, 64)
    assert hows(model)["head"] == {"new"} and ("converted", "channels 3 -> 1") in told(model, "stem")
    alone = given("vit_test", theirs.state_dict(), num_classes=3, in_chans=1, img_size=64)
    assert torch.equal(model.tokens.pos_embed, alone.tokens.pos_embed)
    assert torch.equal(model.stem.proj.weight, alone.stem.proj.weight)
    assert hows(alone)["head"] == {"new"} and ("converted", "channels 3 -> 1") in told(alone, "stem")


def test_a_recombined_model_in_half_precision():
    model = given("vit_test", plain("vit_test").state_dict(), channel_mixer="moe", dtype=torch.bfloat16)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}


def test_a_recombined_model_with_weights_comes_back_recombined(tmp_path):
    model = given("swin_test", plain("swin_test").state_dict(), channel_mixer={"at": {-1: "moe"}}, token_mixer="pool")
    zoo.save_pretrained(model, tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = zoo.create_model(f"local-dir:{tmp_path}").eval()
    x = images(model)
    assert torch.equal(again(x), model(x)) and again.config == model.config
    assert {how for fates in hows(again).values() for how in fates} == {"loaded"}


def test_published_names_are_read_as_those_of_the_plain_model():
    theirs = timm.create_model("deit_tiny_patch16_224", depth=2, img_size=64, num_classes=5).eval()
    cfg = {"state_dict": theirs.state_dict(), "num_classes": 5, "input_size": (3, 64, 64)}
    arguments = dict(depth=2, img_size=64, num_classes=5, channel_mixer="gr_kan")
    with pytest.warns(UserWarning, match="0 start anew"):
        model = zoo.create_model("deit_tiny_patch16_224", pretrained=True, pretrained_cfg_overlay=cfg, **arguments)
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert relative_error(model.eval()(x), theirs(x)) < 0.05


# --- Strictness -------------------------------------------------------------------------------------------------------


def spoilt(state: dict, kind: str) -> dict:
    state = dict(state)
    if kind == "missing":
        del state["blocks.1.norm1.bias"]
    elif kind == "extra":
        state["blocks.9.norm1.bias"] = torch.zeros(32)
    else:
        state["blocks.1.channel_mixer.fc1.weight"] = torch.zeros(7, 7)
    return state


@pytest.mark.parametrize("slots", [{}, {"channel_mixer": "gr_kan"}, {"token_mixer": "pool", "act": "relu"}])
@pytest.mark.parametrize("kind", ["missing", "extra", "shape"])
def test_a_file_that_is_not_whole_is_refused_whatever_was_exchanged(slots, kind):
    with pytest.raises(ValueError, match=r"do not fit the model.*blocks\.\d\.(norm1|channel_mixer)"):
        given("vit_test", spoilt(plain("vit_test").state_dict(), kind), **slots)


@pytest.mark.parametrize(
    "arguments", [{"depth": 2}, {"dim": 64}, {"class_token": False, "global_pool": "avg"}, {"layer_scale": 1e-5}]
)
def test_what_is_no_slot_is_as_strict_as_ever(arguments):
    for slots in ({}, {"channel_mixer": "moe"}):
        with pytest.raises(ValueError, match="do not fit the model"):
            given("vit_test", plain("vit_test").state_dict(), **arguments, **slots)


def test_parts_whose_size_follows_from_an_exchanged_one_are_told():
    state = plain("mixer_test").state_dict()
    with pytest.raises(
        ValueError, match=r"what was exchanged changes the size .*token_mixer.fc1.weight.*exchange these"
    ):
        given("mixer_test", state, stem="conv")
    assert hows(given("mixer_test", state, stem="conv", token_mixer="pool"))["stem"] == {"new"}


def test_weights_of_which_nothing_is_left_are_refused():
    with pytest.raises(ValueError, match="nothing of these weights can be used"):
        given("kan_test", plain("kan_test").state_dict(), layer="fourier")


def test_a_checkpoint_is_for_the_model_as_it_is(tmp_path):
    state, path = plain("vit_test").state_dict(), tmp_path / "plain.safetensors"
    save_file(state, path)
    with pytest.raises(ValueError, match="do not fit the model"):
        zoo.create_model("vit_test", channel_mixer="glu", checkpoint_path=path)
    assert zoo.create_model("vit_test", checkpoint_path=path).loaded.count("loaded")[0] == len(state)


def test_weights_of_the_recombined_model_itself_are_loaded():
    own = plain("vit_test", channel_mixer="glu", token_mixer="pool")
    overlay = {"state_dict": own.state_dict()}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = zoo.create_model(
            "vit_test", pretrained=True, pretrained_cfg_overlay=overlay, channel_mixer="glu", token_mixer="pool"
        )
    assert all(torch.equal(value, own.state_dict()[key]) for key, value in model.state_dict().items())
    assert {how for fates in hows(model).values() for how in fates} == {"loaded"}


def test_a_recombined_model_on_meta_takes_no_weights():
    with pytest.raises(ValueError, match="meta device"):
        given("vit_test", plain("vit_test").state_dict(), channel_mixer="glu", device="meta")


# --- What the model tells ---------------------------------------------------------------------------------------------


def test_a_model_without_weights_tells_nothing():
    assert zoo.create_model("vit_test").loaded is None
    assert zoo.create_model("vit_test", features_only=True).loaded is None


def test_what_was_loaded_is_beside_the_weights_and_the_arguments():
    model = given("vit_test", plain("vit_test").state_dict(), channel_mixer="moe")
    assert "loaded" not in model.config and not [key for key in model.state_dict() if "loaded" in key]
    assert copy.deepcopy(model).loaded == model.loaded
    with pytest.raises(AttributeError):
        model.loaded.source = "another"


def test_the_table_has_a_row_for_each_part_and_fate():
    model = given("vit_test", plain("vit_test").state_dict(), channel_mixer="moe(num_experts=2)")
    lines = str(model.loaded).splitlines()
    assert lines[0].split() == ["the", "given", "state", "dict", "fate", "tensors", "numbers"]
    mixtures = [line.split() for line in lines if line.startswith("blocks.*.channel_mixer")]
    assert [row[1:4] for row in mixtures] == [["new", "3", "192"], ["converted", "12", "50,112"]]
    assert repr(model.loaded) == "<Loaded from the given state dict: 32 loaded, 12 converted, 3 new>"


def test_one_warning_tells_how_much_starts_anew():
    state = plain("vit_test").state_dict()
    overlay = {"state_dict": state}
    with pytest.warns(UserWarning) as warned:
        zoo.create_model("vit_test", pretrained=True, pretrained_cfg_overlay=overlay, channel_mixer="glu")
    (one,) = [str(w.message) for w in warned]
    assert "32 are loaded, 0 converted and 12 start anew (25,086 of" in one
    assert "12 tensors of the weights have no place. print(model.loaded)" in one
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        zoo.create_model("vit_test", pretrained=True, pretrained_cfg_overlay=overlay, act="relu")
    with pytest.warns(UserWarning) as warned:
        zoo.create_model(
            "vit_test", pretrained=True, pretrained_cfg_overlay=overlay, channel_mixer="glu", num_classes=3
        )
    (one,) = [str(w.message) for w in warned]
    assert "30 are loaded" in one and one.endswith("For the file's own, give num_classes=10")


def test_a_gate_in_the_other_half_computes_the_same():
    """The maps have the same names and shapes, and mean something else: loaded as they are, they would be wrong."""
    model = plain("vit_test", channel_mixer="glu(gate_last=True)")
    other, x = zoo.create_model("vit_test", channel_mixer="glu").eval(), images(model)
    other.loaded = transplant(model, other, "the other")
    with torch.no_grad():
        assert relative_error(other(x), model(x)) < 1e-5
    assert told(other, "channel_mixer") == [("converted", "the other half is the gate, the same function")]


def test_resampling_for_another_size_of_images_is_told():
    model = given("vit_test", plain("vit_test").state_dict(), img_size=64)
    assert told(model, "tokens") == [("loaded", ""), ("converted", "resampled, images 32 x 32 -> 64 x 64")]
    assert model.loaded.count("loaded", "converted")[1] == sum(v.numel() for v in model.state_dict().values())
    assert {how for how, _ in told(given("vit_test", plain("vit_test").state_dict()), "tokens")} == {"loaded"}
