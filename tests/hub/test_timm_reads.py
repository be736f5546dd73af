"""What zoo saves, timm and transformers read: without zoo what is a model of timm's too, and all else with it."""

import json
import subprocess
import sys

import pytest
import timm
import torch
from conftest import TIMM_VARIANTS, images, randomised, sampled
from safetensors.torch import load_file, save_file
from test_save import config_of

import zoo
from zoo.registry import family_of
from zoo.weights import drop, rename
from zoo.weights.inverse import NoWayBack, published_keys

SMALL = "vit_tiny_patch16_224"


@torch.no_grad()
def assert_close(found, expected) -> None:
    assert expected.std() > 1e-3 and ((found - expected).abs().max() / expected.abs().max()) < 1e-4


WITHOUT_ZOO = """
import sys, torch, timm
from safetensors.torch import load_file, save_file
from torchvision.transforms.functional import to_pil_image
from transformers import AutoModelForImageClassification, pipeline

folder = sys.argv[1]
x = load_file(folder + "/x.st")["x"]
by_timm = timm.create_model("local-dir:" + folder, pretrained=True).eval()
by_transformers = AutoModelForImageClassification.from_pretrained(folder).eval()
save_file({"timm": by_timm(x).detach(), "transformers": by_transformers(x).logits.detach()}, folder + "/y.st")
found = pipeline("image-classification", model=folder)(to_pil_image(torch.rand(3, 80, 100)), top_k=7)
print(sorted(each["label"] for each in found))
by_transformers.save_pretrained(folder + "/again")
assert not any(name.split(".")[0] == "zoo" for name in sys.modules)
"""


def test_a_model_of_timms_needs_no_zoo(tmp_path):
    pytest.importorskip("transformers")
    model = randomised(zoo.create_model(SMALL, num_classes=7, img_size=64))
    model.pretrained_cfg["label_names"] = names = list("abcdefg")
    zoo.save_pretrained(model, tmp_path)
    x = images(model)
    save_file({"x": x}, tmp_path / "x.st")
    command = [sys.executable, "-W", "ignore", "-c", WITHOUT_ZOO, str(tmp_path)]
    out = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=tmp_path)
    assert out.returncode == 0, out.stderr[-2000:]
    for found in load_file(tmp_path / "y.st").values():
        assert_close(found, model(x))
    assert str(names) in out.stdout
    again = zoo.create_model(f"local-dir:{tmp_path / 'again'}").eval()  # as transformers saved it
    assert torch.equal(again(x), model(x)) and again.pretrained_cfg["label_names"] == names


CASES = {
    "deit_tiny_patch16_224": dict(in_chans=1, img_size=(64, 96), drop_rate=0.1),
    "gmlp_ti16_224": dict(num_classes=3, img_size=64, drop_path_rate=0.1),
    "poolformer_s12": dict(num_classes=5, img_size=64, global_pool="max"),
    "resmlp_12_224": dict(num_classes=0, img_size=64),
}


@pytest.mark.parametrize("name", CASES)
def test_logits_are_equal_and_the_round_trip_is_exact(name, tmp_path):
    model = randomised(zoo.create_model(name, **CASES[name]))
    zoo.save_pretrained(model, tmp_path)
    x, config = images(model), config_of(tmp_path)
    theirs = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    again = zoo.create_model(f"local-dir:{tmp_path}").eval()
    assert not type(theirs).__module__.startswith("zoo") and config["architecture"] == name
    assert config["num_classes"] == model.num_classes == theirs.num_classes
    assert_close(theirs(x), y := model(x))
    assert torch.equal(again(x), y) and again.config == model.config
    assert tuple(timm.data.resolve_data_config({}, model=theirs)["input_size"][-2:]) == model.img_size


def test_timm_may_change_what_it_reads(tmp_path):
    """The names of its own first and last layers travel, so that it finds them."""
    model = randomised(zoo.create_model(SMALL, img_size=64))
    zoo.save_pretrained(model, tmp_path)
    theirs = timm.create_model(f"local-dir:{tmp_path}", pretrained=True, num_classes=3, in_chans=1).eval()
    assert theirs(torch.randn(1, 1, 64, 64)).shape == (1, 3)
    assert torch.equal(theirs.blocks[2].mlp.fc1.weight, model.blocks[2].channel_mixer.fc1.weight)
    ours = zoo.create_model(f"local-dir:{tmp_path}", img_size=96, in_chans=1, features_only=True)
    assert ours(torch.randn(1, 1, 96, 96))[-1].shape == (1, 192, 6, 6)


@pytest.mark.parametrize("name", sampled(TIMM_VARIANTS, 1))
@pytest.mark.slow
def test_every_variant_of_timms_has_its_keys(name, tmp_path):
    state, rules = zoo.create_model(name).state_dict(), family_of(name).rules
    keys = timm.create_model(name, device="meta").state_dict()
    assert published_keys(state, keys, rules).keys() == keys.keys()


# --- What timm does not have ------------------------------------------------------------------------------------------

OTHERS = {
    "recombined": (SMALL, dict(channel_mixer="glu(ratio=1)", img_size=64, depth=2)),
    "other pooling": (SMALL, dict(global_pool="avg", img_size=64)),  # timm puts the norm behind it
    "mixture": ("vit_test", dict(channel_mixer={"every": {2: "moe(num_experts=2)"}})),
    "of zoo alone": ("unireplknet_test", dict(num_classes=3)),
    "vectors": ("kan_test", {}),
}


@pytest.mark.parametrize("name, arguments", OTHERS.values(), ids=OTHERS)
def test_all_else_opens_in_timm_by_zoo(name, arguments, tmp_path):
    model = randomised(zoo.create_model(name, **arguments))
    zoo.save_pretrained(model, tmp_path)
    assert config_of(tmp_path)["architecture"] == "zoo"
    x = images(model)
    assert torch.equal(timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()(x), model(x))
    assert torch.equal(zoo.create_model(f"local-dir:{tmp_path}").eval()(x), model(x))
    fresh = timm.create_model(f"local-dir:{tmp_path}")
    assert not torch.equal(fresh.head.weight, model.head.weight) and fresh.config == model.config


def test_the_name_under_which_timm_knows_these_is_no_model():
    with pytest.raises(ValueError, match="'zoo' is no model but stands for those in folders"):
        timm.create_model("zoo")


# --- Rules the other way ----------------------------------------------------------------------------------------------


def test_numbers_are_moved_back_bit_for_bit():
    half = torch.tensor([1.0, -0.0, float("nan"), float("inf")], dtype=torch.bfloat16)
    rules = [rename(r"^a$", "x", lambda value, shape: value.flip(0)), rename(r"^b\.(\d)$", r"y.\1")]
    published = {"b.0": torch.empty(2, device="meta"), "a": torch.empty(4, device="meta")}
    found = published_keys({"x": half, "y.0": torch.arange(2)}, published, rules)
    assert list(found) == ["b.0", "a"] and torch.equal(found["b.0"], torch.arange(2))
    assert torch.equal(found["a"].view(torch.int16), half.flip(0).view(torch.int16))


@pytest.mark.parametrize(
    "rules, words",
    [
        ([], "lacks"),
        ([rename("^a$", "x", lambda value, shape: value[:2])], "lacks|shapes|nothing here"),
        ([rename("^a$", "x", lambda value, shape: value + 1)], "nothing here becomes|do more"),
        ([rename("^a$", "x"), drop("^b$", "a table")], "nothing here becomes b"),
    ],
)
def test_what_does_more_than_to_move_has_no_way_back(rules, words):
    state = {"x": torch.ones(4)}
    published = {"a": torch.empty(4)} | ({"b": torch.empty(1)} if len(rules) == 2 else {})
    with pytest.raises(NoWayBack, match=words):
        published_keys(state, published, rules)


def test_labels_of_another_classifier_are_not_taken_from_a_folder_of_timms(tmp_path):
    model = zoo.create_model("poolformer_s12", depths=(1, 1, 1, 1), num_classes=3)
    config = {"architecture": "poolformer_s12", "num_classes": 3, "model_args": {"depths": [1, 1, 1, 1]}}
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    for labels, taken in ((["a"], None), (["a", "b", "c"], ["a", "b", "c"])):
        (tmp_path / "config.json").write_text(json.dumps({**config, "label_names": labels}))
        assert zoo.create_model(f"local-dir:{tmp_path}").pretrained_cfg.get("label_names") == taken
