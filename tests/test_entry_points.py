"""What users call: numbers of numpy are right wherever Python's are, and wrong values get a sentence."""

import functools

import numpy as np
import pytest
import torch
from timm.models import PretrainedCfg
from torch import nn

import zoo
from zoo.training.models.multitask import MultiTask
from zoo.training.models.segmenter import Pyramid, Segmenter

ONE = np.int64(1)


def kinds(value) -> set[type]:
    """The types of all values in a model's arguments."""
    if isinstance(value, dict):
        return set().union(*map(kinds, value.keys()), *map(kinds, value.values()))
    if isinstance(value, list | tuple):
        return set().union(*map(kinds, value))
    return kinds(value.options) if isinstance(value, zoo.slots.Slot) else {type(value)}


@pytest.mark.parametrize(
    "name, arguments",
    [
        ("vit_test", {"num_classes": np.int64(5)}),
        ("vit_test", {"depth": np.int32(2)}),
        ("vit_test", {"img_size": np.int64(64)}),
        ("vit_test", {"img_size": (np.int64(64), 32)}),
        ("vit_test", {"img_size": np.array([64, 32])}),
        ("vit_test", {"patch_size": np.uint8(8)}),
        ("vit_test", {"patch_size": [np.int64(8), np.int64(4)]}),
        ("vit_test", {"channel_mixer": {"at": {np.int64(-1): "glu"}}}),
        ("vit_test", {"channel_mixer": {"every": {np.int64(2): {"name": "glu", "ratio": np.float32(2)}}}}),
        ("vit_test", {"channel_mixer": np.array(["glu", "mlp"])}),
        ("vit_test", {"drop_rate": np.float64(0.5), "class_token": np.True_, "global_pool": np.str_("avg")}),
        ("convnext_test", {"num_classes": np.int64(5), "depths": tuple(np.array([1, 1, 1, 1]))}),
        ("vit_test", {"in_chans": np.int16(1), "pretrained": np.False_}),
    ],
)
def test_numbers_of_numpy_make_the_model_that_those_of_python_make(name, arguments, tmp_path):
    model = zoo.create_model(name, **arguments)
    assert not [kind for kind in kinds(model.config) if issubclass(kind, np.generic)]
    assert model(torch.zeros(1, model.in_chans, *model.img_size)).shape == (1, model.num_classes)
    zoo.save_pretrained(model, tmp_path)
    assert repr(zoo.create_model(f"local-dir:{tmp_path}")) == repr(model)


def test_sizes_and_classifiers_of_numpy():
    model = zoo.create_model("vit_test")
    model.reset_classifier(np.int64(7))
    model.set_input_size((np.int64(64), 32), np.int64(8))
    assert model(torch.zeros(1, 3, 64, 32)).shape == (1, 7) and type(model.num_classes) is int
    assert model.img_size == (64, 32) and set(map(type, (*model.img_size, *model.config["patch_size"]))) == {int}
    model.set_input_size(np.array([32, 32]))
    assert model.img_size == (32, 32)
    swin = zoo.create_model("swin_test")
    swin.set_input_size(window_size=np.int64(2))
    assert np.int64 not in kinds(swin.config)
    stack = zoo.create_model("kan_test")
    stack.reset_classifier(np.int32(4))
    assert type(stack.num_classes) is int


@pytest.mark.parametrize("indices", [np.array([0, 1]), [np.int64(0), ONE], (0, ONE), range(2), np.int64(2), 2])
@pytest.mark.parametrize("only", [1, True, np.True_, np.int64(1)])
def test_features_are_asked_for_as_before(only, indices):
    model = zoo.create_model("vit_test", features_only=only, out_indices=indices)
    assert len(model(torch.zeros(1, 3, 32, 32))) == 2
    assert not isinstance(zoo.create_model("vit_test", features_only=0), zoo.skeletons.features.FeatureMaps)


def test_blocks_take_numbers_of_numpy():
    block = zoo.create_block("channel_mixer", {"name": "mlp", "ratio": np.float32(2)}, dim=np.int64(8))
    assert block(torch.zeros(1, 4, 8)).shape == (1, 4, 8)
    block = zoo.create_block("token_mixer", "token_mlp", np.int64(8), grid=(np.int64(2), np.int64(2)))
    assert block(torch.zeros(1, 2, 2, 8)).shape == (1, 2, 2, 8)
    assert zoo.create_block("norm", "layernorm", np.int32(8))(torch.ones(1, 8)).shape == (1, 8)


# --- Wrong values -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error, match, arguments, others",
    [
        (TypeError, "takes a module.* not None", (None,), {}),
        (TypeError, "takes a module.* not 3", (3,), {}),
        (TypeError, "input_size is a tensor of shape .*inputs=", (torch.zeros(1, 3, 32, 32),), {}),
        (TypeError, "input_size is 5, a int", (5,), {}),
        (TypeError, r"input_size\[1\] is 'a'", ((3, "a", 32),), {}),
        (ValueError, r"input_size is \(1, 4, 32, 32\).* batch_size=", ((1, 4, 32, 32),), {}),
        (ValueError, r"input_size is \(4, 32, 32\)", ((4, 32, 32),), {}),
        (ValueError, r"input_size\[0\] is 0; it must be at least 1", ((0, 3, 32, 32),), {}),
        (ValueError, r"input_size\[2\] is -1", ((3, 32, -1),), {}),
        (ValueError, "larger than any memory", ((3, 2**40, 2**40),), {}),
        (TypeError, "inputs is 3", (), {"inputs": 3}),
        (TypeError, r"inputs is \[3\]", (), {"inputs": [3]}),
        (ValueError, "inputs is empty", (), {"inputs": []}),
        (ValueError, "cannot be traced .*got .1, 4, 32, 32", (), {"inputs": torch.zeros(1, 4, 32, 32)}),
    ],
)
def test_costs_of_what_has_none(error, match, arguments, others):
    model = zoo.create_model("vit_test", device="meta")
    first = () if "module" in match else (model,)
    with pytest.raises(error, match=match) as caught:
        zoo.count_flops(*first, *arguments, **others)
    assert len(str(caught.value)) < 2000


def test_costs_by_numbers_of_numpy():
    model = zoo.create_model("vit_test", device="meta")
    macs = zoo.count_flops(model, (3, 32, 32)).macs
    assert zoo.count_flops(model, np.array([3, 32, 32]), batch_size=np.int64(2)).macs == macs
    assert zoo.count_flops(model, (np.int64(3), 32, np.int32(32))).macs == macs


@pytest.mark.parametrize("value", [3, [("a", 1)], b"x", 2.5, {1, 2}])
@pytest.mark.parametrize("name", ["pretrained_cfg", "pretrained_cfg_overlay"])
def test_configurations_that_are_none(name, value):
    with pytest.raises(TypeError, match=f"^{name} is .*it must be a"):
        zoo.create_model("vit_test", **{name: value})
    with pytest.raises(TypeError, match=f"^{name} is .*it must be a"):
        zoo.create_model("mixer_b16_224", **{name: value}, device="meta")


def test_an_overlay_is_no_tag_and_an_object_of_timm_is_a_configuration():
    with pytest.raises(TypeError, match="^pretrained_cfg_overlay is 'a', a str"):
        zoo.create_model("vit_test", pretrained_cfg_overlay="a")
    cfg = PretrainedCfg(num_classes=7, input_size=(3, 32, 32))
    assert zoo.create_model("vit_test", pretrained_cfg=cfg).pretrained_cfg["num_classes"] == 7


@pytest.mark.parametrize("made", [int, str, dict, object, functools.partial(int), functools.partial(max)])
@pytest.mark.parametrize("slot", ["channel_mixer", "token_mixer", "norm", "act", "stem"])
def test_what_makes_no_block(slot, made):
    with pytest.raises(TypeError, match=rf"^{slot}\S* is "):
        zoo.create_model("vit_test", **{slot: made})
    with pytest.raises(TypeError, match=f"^{slot} is "):
        zoo.create_block(slot, made, 8)


def test_functions_that_make_no_block():
    with pytest.raises(TypeError, match="^channel_mixer <lambda> cannot be called .* let it take 1 by position"):
        zoo.create_model("vit_test", channel_mixer=lambda: nn.Identity())
    with pytest.raises(TypeError, match="^channel_mixer <lambda> made 3, a int"):
        zoo.create_model("vit_test", channel_mixer=lambda dim: 3)
    model = zoo.create_model("vit_test", channel_mixer=lambda dim: nn.Linear(dim, dim))
    assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 10)


@pytest.mark.parametrize("folder", [None, 3, b"x", ["a"]])
def test_folders_that_are_none(folder):
    model = Segmenter("vit_test", Pyramid(num_classes=2, width=8))
    for call in (
        lambda: zoo.save_pretrained(model.backbone.model, folder),
        lambda: model.save(folder),
        lambda: Segmenter.open(folder),
        lambda: MultiTask.open(folder),
    ):
        with pytest.raises(TypeError, match="^folder is .*; it must be the path of .*, a str or a Path"):
            call()


# --- What torch allows ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "slots",
    [
        {"channel_mixer": "mlp(drop=1)"},
        {"token_mixer": "attention(drop=1.0, attn_drop=1.0)"},
        {"norm": "layernorm(eps=0)"},
        {"channel_mixer": "moe(num_experts=2, drop=1, experts='mlp(hidden_drop=1)')"},
    ],
)
def test_a_folder_with_dropout_of_one_or_without_an_epsilon_opens(slots, tmp_path):
    zoo.save_pretrained(zoo.create_model("vit_test", **slots), tmp_path)
    model = zoo.create_model(f"local-dir:{tmp_path}").train()
    assert model(torch.randn(2, 3, 32, 32)).isfinite().all()


def test_rates_that_cannot_be():
    with pytest.raises(ValueError, match=r"drop is 1.5; it must be from 0 to 1"):
        zoo.create_block("channel_mixer", "mlp(drop=1.5)", 8)
    with pytest.raises(ValueError, match=r"eps is -1e-06; it must be from 0 to 1"):
        zoo.create_block("norm", "layernorm(eps=-1e-6)", 8)
    with pytest.raises(ValueError, match=r"drop_path_rate is 1.0; it must be at least 0 and below 1"):
        zoo.create_model("vit_test", drop_path_rate=1.0)


@pytest.mark.parametrize("layout", ["sparse_coo", "sparse_csr", "sparse_csc", "sparse_bsr", "sparse_bsc"])
def test_sparse_inputs_get_a_sentence(layout):
    options = {"blocksize": (1, 1)} if "bs" in layout else {}
    make = lambda x: x.to_sparse(layout=getattr(torch, layout), **options)
    match = f"in a dense tensor, got one of torch.{layout}; give `x.to_dense"
    vectors = zoo.create_model("kan_test")
    with pytest.raises(TypeError, match="expected vectors " + match):
        vectors(make(torch.eye(4)[:, : vectors.input_size[0]]))
    with pytest.raises(TypeError, match="expected images " + match):
        zoo.create_model("vit_test")(make(torch.eye(32).expand(1, 3, 32, 32).contiguous()))
