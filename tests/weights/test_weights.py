"""Rules for checkpoints, strict both ways, and files that are not what they should be."""

import argparse
import pickle
import warnings

import numpy as np
import pytest
import torch
from conftest import TINY_VARIANTS, images, randomised, relative_error
from safetensors.torch import save_file

import zoo
from zoo.tools.kan.grid import refine
from zoo.weights import drop, read_state_dict, remap, rename, reshape, stack, take_state_dict, transpose, unwrapped


def shapes(**sizes) -> dict[str, torch.Tensor]:
    return {k: torch.empty(v, device="meta") for k, v in sizes.items()}


def test_operations():
    x = torch.arange(12.0).view(1, 3, 4)
    got = remap(
        {"r": x, "t": x}, shapes(b=(12,), c=(1, 4, 3)), [rename("^r$", "b", reshape), rename("^t$", "c", transpose)]
    )
    assert torch.equal(got["b"], x.flatten()) and torch.equal(got["c"], x.transpose(1, 2))


def test_stack():
    experts = {f"mlp.{i}.w": torch.full((2,), float(i)) for i in (10, 2, 1)}
    got = remap(experts, {"experts.w": torch.empty(3, 2)}, [stack(r"^mlp\.\d+\.w$", "experts.w")])
    assert got["experts.w"][:, 0].tolist() == [1.0, 2.0, 10.0]


@pytest.mark.parametrize("rule", [rename("^x$", "y", reshape), rename("^x$", "y", transpose), stack("^x$", "y")])
def test_a_tensor_that_an_operation_cannot_take_is_told_like_any_other(rule):
    with pytest.raises(ValueError, match=r"shapes that differ \(1\): x: \(.*5,?\) in the file, \(2, 3\) in the model"):
        remap({"x": torch.zeros(5)}, shapes(y=(2, 3)), [rule])


def test_parts_of_different_shapes_are_not_stacked():
    source = {"mlp.0.w": torch.zeros(2), "mlp.1.w": torch.zeros(3)}
    with pytest.raises(ValueError, match="mlp.0.w and mlp.1.w both belong to w and differ in shape"):
        remap(source, shapes(w=(2, 2)), [stack(r"^mlp\.\d+\.w$", "w")])


def test_strict_both_ways_lists_everything():
    source = {"fc.weight": torch.zeros(2, 3), "old.bias": torch.zeros(2), "wrong": torch.zeros(5)}
    target = shapes(**{"fc.weight": (2, 3), "new.bias": (2,), "wrong": (4,)})
    with pytest.raises(ValueError) as error:
        remap(source, target, [], "weights.safetensors")
    text = str(error.value)
    for part in (
        "weights.safetensors",
        "no place for (1): old.bias",
        "source lacks (1): new.bias",
        "(5,) in the file, (4,) in the model",
    ):
        assert part in text
    assert list(remap({"head.w": torch.zeros(1)}, {}, [drop("^head", "no head")])) == []


def test_two_sources_of_one_key_are_an_error():
    with pytest.raises(ValueError, match="both become a"):
        remap({"a": torch.zeros(1), "b": torch.zeros(1)}, shapes(a=(1,)), [rename("^b$", "a")])


# --- Bad files --------------------------------------------------------------------------------------------------------


@pytest.fixture
def good(tmp_path):
    model = randomised(zoo.create_model("mixer_test"))
    path = tmp_path / "good.safetensors"
    save_file(model.state_dict(), path)
    return model, path


def load(path, **kwargs):
    return zoo.create_model("mixer_test", pretrained=True, pretrained_cfg_overlay={"file": str(path)}, **kwargs)


def test_a_good_file_loads(good):
    model, path = good
    assert torch.equal(load(path).head.weight, model.head.weight)


@pytest.mark.parametrize("cut", [0, 4, 100, -1])
def test_truncated_safetensors(good, tmp_path, cut):
    path = tmp_path / "cut.safetensors"
    path.write_bytes(good[1].read_bytes()[:cut])
    with pytest.raises(ValueError, match="cut.safetensors is not a whole safetensors file"):
        load(path)


def test_corrupt_safetensors(good, tmp_path):
    data = bytearray(good[1].read_bytes())
    data[8:40] = b"x" * 32
    path = tmp_path / "corrupt.safetensors"
    path.write_bytes(bytes(data))
    with pytest.raises(ValueError, match="corrupt.safetensors is not a whole safetensors file"):
        load(path)


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no weight file .*gone.safetensors"):
        load(tmp_path / "gone.safetensors")


def test_wrong_shape_missing_and_extra_keys(good, tmp_path):
    state = good[0].state_dict()
    state["norm.weight"] = torch.zeros(7)
    del state["blocks.1.norm1.bias"]
    state["blocks.9.norm1.bias"] = torch.zeros(32)
    path = tmp_path / "odd.safetensors"
    save_file(state, path)
    with pytest.raises(ValueError) as error:
        load(path)
    for part in (
        "odd.safetensors",
        "norm.weight: (7,) in the file, (32,) in the model",
        "blocks.1.norm1.bias",
        "blocks.9.norm1.bias",
    ):
        assert part in str(error.value)


class Bomb:
    def __reduce__(self):
        return print, ("code ran",)


def test_a_pth_with_code_is_refused_and_nothing_runs(tmp_path, capsys):
    path = tmp_path / "bomb.pth"
    torch.save({"state_dict": {"a": torch.zeros(1)}, "hook": Bomb()}, path)
    with pytest.raises(ValueError, match="bomb.pth is refused: .* could run code"):
        load(path)
    path.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(ValueError, match="bomb.pth"):
        load(path)
    assert "code ran" not in capsys.readouterr().out


def test_a_plain_pth_loads_and_a_broken_one_is_told(good, tmp_path):
    path = tmp_path / "weights.pth"
    torch.save({"model": good[0].state_dict(), "epoch": 3}, path)
    assert torch.equal(load(path).head.weight, good[0].head.weight)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ValueError, match="weights.pth"):
        load(path)
    torch.save({"epoch": 3}, path)
    with pytest.raises(ValueError, match="holds no mapping of names to tensors"):
        read_state_dict(path)


def test_checkpoint_path_takes_zoos_keys_and_timms(good, timm_checkpoint):
    model, path = good
    assert torch.equal(zoo.create_model("mixer_test", checkpoint_path=path).head.weight, model.head.weight)
    theirs, path = timm_checkpoint("resmlp_12_224")
    assert torch.equal(zoo.create_model("resmlp_12_224", checkpoint_path=path).head.weight, theirs.head.weight)


def test_features_of_a_pretrained_model(good):
    model, path = good
    x = torch.randn(1, 3, 32, 32)
    features = load(path, features_only=True, out_indices=[1]).eval()
    assert torch.equal(features(x)[0], model.forward_intermediates(x, [1], intermediates_only=True)[0])
    with pytest.raises(ValueError, match="checkpoint_path fills a whole model"):
        zoo.create_model("mixer_test", features_only=True, checkpoint_path=path)


def test_weights_into_a_meta_model_are_refused(good):
    with pytest.raises(ValueError, match="meta device"):
        load(good[1], device="meta")


def test_a_checkpoint_of_another_mixer_is_refused(good):
    with pytest.raises(ValueError, match="do not fit the model.* by pretrained=True with pretrained_cfg_overlay"):
        zoo.create_model("mixer_test", channel_mixer="glu", checkpoint_path=good[1])
    with pytest.raises(ValueError, match="do not fit the model") as error:
        zoo.create_model("mixer_test", dim=16, checkpoint_path=good[1])
    assert "overlay" not in str(error.value)


# --- Classifiers ------------------------------------------------------------------------------------------------------

CLASSIFIERS = [name for name in TINY_VARIANTS if zoo.model_info(name).arguments.get("head") != "image"]


def tuned(name: str, path, **kwargs) -> torch.nn.Module:
    """A model of 7 classes, and its weights in a file."""
    model = randomised(zoo.create_model(name, num_classes=7, **kwargs))
    save_file({key: value.contiguous() for key, value in model.state_dict().items()}, path)
    return model


def from_file(name: str, path, **kwargs) -> torch.nn.Module:
    return zoo.create_model(name, pretrained=True, pretrained_cfg_overlay={"file": str(path)}, **kwargs).eval()


@pytest.fixture
def no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        yield


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_classifier_that_fits_is_loaded_and_one_that_does_not_is_told(name, tmp_path):
    path = tmp_path / "tuned.safetensors"
    model = tuned(name, path)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        same = from_file(name, path, num_classes=7)
        bare = from_file(name, path, num_classes=0)
    x = images(model)
    assert torch.equal(same(x), model(x))
    assert torch.equal(bare.forward_features(x), model.forward_features(x))
    with pytest.warns(UserWarning, match=r"tuned.safetensors: the classifier starts anew \(.*head\..*7 classes .* 5"):
        other = from_file(name, path, num_classes=5)
    assert other(x).shape[1] == 5 and torch.equal(other.forward_features(x), model.forward_features(x))
    assert other.head.training is False and all(p.isfinite().all() for p in other.head.parameters())
    with pytest.raises(
        ValueError, match=r"do not fit the model: .*head\..* with, num_classes=7"
    ):  # nobody asked for 10
        from_file(name, path)


@pytest.mark.parametrize("name", ["vit_test", "caformer_test", "vmoe_test", "kan_test"])
def test_a_saved_folder_keeps_its_classifier_unless_it_cannot(name, tmp_path):
    model = randomised(zoo.create_model(name, num_classes=7))
    zoo.save_pretrained(model, tmp_path)
    x = images(model)
    with pytest.warns(UserWarning, match=r"7 classes .* model 5\. For the file's own, give num_classes=7"):
        assert zoo.create_model(f"local-dir:{tmp_path}", num_classes=5)(x).shape[1] == 5
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        assert torch.equal(zoo.create_model(f"local-dir:{tmp_path}", num_classes=7).eval()(x), model(x))
        zoo.create_model(f"local-dir:{tmp_path}", num_classes=0)


@pytest.mark.parametrize("how", ["file", "state_dict", "url", "pth"])
def test_every_source_keeps_a_classifier_that_fits(how, tmp_path, no_warning):
    path = tmp_path / "tuned.safetensors"
    model = tuned("mixer_test", path)
    torch.save(model.state_dict(), tmp_path / "tuned.pth")
    overlay = {
        "file": {"file": str(path)},
        "state_dict": {"state_dict": model.state_dict()},
        "url": {"url": path.as_uri()},
        "pth": {"file": str(tmp_path / "tuned.pth")},
    }[how]
    kwargs = dict(pretrained=True, pretrained_cfg_overlay=overlay, cache_dir=tmp_path / "cache")
    loaded = zoo.create_model("mixer_test", num_classes=7, **kwargs)
    assert torch.equal(loaded.head.weight, model.head.weight)


def test_features_of_a_tuned_file_need_no_classifier(tmp_path, no_warning):
    model = tuned("swin_test", tmp_path / "tuned.safetensors")
    x = images(model)
    features = from_file("swin_test", tmp_path / "tuned.safetensors", features_only=True)
    expected = model.forward_intermediates(x, intermediates_only=True)
    assert all(torch.equal(a, b) for a, b in zip(features(x), expected, strict=True))


def test_a_file_without_a_classifier_and_one_of_another_kind_are_told(tmp_path):
    path = tmp_path / "bare.safetensors"
    save_file(randomised(zoo.create_model("vit_test", num_classes=0)).state_dict(), path)
    with pytest.warns(UserWarning, match=r"\(head.weight, head.bias\), since the file has no classifier"):
        from_file("vit_test", path, num_classes=3)
    with pytest.raises(ValueError, match=r"the source lacks \(2\): head.weight, head.bias"):
        from_file("vit_test", path)
    tuned("vit_test", path, head="tanh")
    with pytest.warns(UserWarning, match="head.fc1.weight.*since it is of another kind than the model's"):
        from_file("vit_test", path, num_classes=7)


@pytest.mark.parametrize("name", ["caformer_s18", "swin_tiny_patch4_window7_224", "resmlp_12_224"])
def test_a_tuned_classifier_in_the_published_layout_is_loaded(name, timm_checkpoint):
    theirs, path = timm_checkpoint(name, num_classes=7)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        ours = from_file(name, path, num_classes=7)
    x = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        assert relative_error(ours(x), theirs(x)) < 1e-4
    with pytest.warns(UserWarning, match="the file has 7 classes and the model 5"):
        from_file(name, path, num_classes=5)


def test_a_refined_layer_whose_classifier_is_dropped_starts_anew(tmp_path):
    """Taking the file's number of knots loses the layer's own values: the new classifier is drawn, not zero."""
    model = zoo.create_model("kan_test", layer="spline(grid_size=3)", num_classes=7)
    refine(model, 6)
    zoo.save_pretrained(model, tmp_path)
    with pytest.warns(UserWarning, match="starts anew"):
        other = zoo.create_model(f"local-dir:{tmp_path}", num_classes=4)
    assert other.head.weight.abs().sum() > 0


# --- Checkpoints of training ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "keys, taken",
    [
        (["state_dict", "state_dict_ema"], "state_dict_ema"),
        (["model", "model_ema"], "model_ema"),
        (["model_ema", "state_dict_ema"], "state_dict_ema"),
        (["model", "state_dict"], "state_dict"),
        (["model_ema", "state_dict"], "model_ema"),
        (["model"], "model"),
    ],
)
@pytest.mark.parametrize("given", [False, True])
def test_averaged_weights_go_first_as_in_timm(keys, taken, given, tmp_path):
    from timm.models import load_state_dict

    path, held = tmp_path / "last.pth", {key: {"a": torch.full((2,), float(i))} for i, key in enumerate(keys)}
    args = argparse.Namespace(lr=1e-3)  # timm's training saves it too
    empty = {key: {} for key in ("state_dict_ema", "model_ema") if key not in held}  # no average was kept
    torch.save({"epoch": 9, "args": args, **dict.fromkeys(empty), **held}, path)
    found = take_state_dict({**empty, **held}, "given") if given else read_state_dict(path)
    assert torch.equal(found["a"], held[taken]["a"]) and torch.equal(load_state_dict(str(path))["a"], found["a"])


def test_one_holder_within_another_is_opened_and_a_circle_ends(tmp_path):
    inner = {"a": torch.ones(1)}
    assert take_state_dict({"model": {"state_dict": inner}}, "x") == inner
    circle = {}
    circle["model"] = circle
    with pytest.raises(ValueError, match="x holds no mapping of names to tensors: 'model' is of the type dict"):
        take_state_dict(circle, "x")
    for wrong in ({}, [], {"a": 1}, {1: torch.ones(1)}, {"state_dict": {}}):
        with pytest.raises(ValueError, match=r"x holds no mapping .*save model.state_dict\(\)"):
            take_state_dict(wrong, "x")


PREFIXES = ["module.", "_orig_mod.", "model.", "module._orig_mod.", "_orig_mod.module.", "model.module._orig_mod."]


def write(state: dict, path) -> dict:
    """The file, and what create_model is told of it."""
    if path.suffix == ".npz":
        np.savez(path, **{key: value.numpy() for key, value in state.items()})
    elif path.suffix == ".safetensors":
        save_file({key: value.contiguous() for key, value in state.items()}, path)
    else:
        torch.save({"state_dict": state}, path)
    return {"file": str(path)}


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("how", [".pth", ".safetensors", ".npz", "given", "checkpoint_path"])
def test_prefixes_of_wrappers_are_taken_off(prefix, how, good, tmp_path):
    model, _ = good
    state = {prefix + key: value for key, value in model.state_dict().items()}
    if how == "checkpoint_path":
        write(state, tmp_path / "w.pth")
        loaded = zoo.create_model("mixer_test", checkpoint_path=tmp_path / "w.pth")
    else:
        overlay = {"state_dict": state} if how == "given" else write(state, tmp_path / f"w{how}")
        loaded = zoo.create_model("mixer_test", pretrained=True, pretrained_cfg_overlay=overlay)
    x = images(model)
    assert torch.equal(loaded.eval()(x), model(x))


def test_prefixes_of_the_published_layout_are_taken_off_before_the_rules(timm_checkpoint, tmp_path):
    theirs, _ = timm_checkpoint("resmlp_12_224")
    state = {f"module.{key}": value for key, value in theirs.state_dict().items()}
    overlay = write(state, tmp_path / "w.pth")
    ours = zoo.create_model("resmlp_12_224", pretrained=True, pretrained_cfg_overlay=overlay)
    assert torch.equal(ours.head.weight, theirs.head.weight)


def test_a_prefix_that_only_some_keys_have_stays_and_is_told(good, tmp_path):
    state = {f"module.{key}": value for key, value in good[0].state_dict().items()}
    overlay = write({**state, "n_averaged": torch.ones(())}, tmp_path / "averaged.pth")
    with pytest.raises(ValueError, match=r"averaged.pth do not fit .*no place for \(\d+\): module\."):
        zoo.create_model("mixer_test", pretrained=True, pretrained_cfg_overlay=overlay)


def test_a_prefix_of_the_models_own_keys_stays():
    state = {"model.module.a": torch.ones(1), "model.module.b": torch.ones(1)}
    assert list(unwrapped(state, {"model.module.a": 0, "head.weight": 0})) == list(state)
    assert list(unwrapped(state, {"module.a": 0})) == ["module.a", "module.b"]
    assert list(unwrapped(state, {"a": 0}, [rename(r"^module\.(.)", r"\1")])) == ["module.a", "module.b"]
    assert unwrapped({}, {"a": 0}) == {}
