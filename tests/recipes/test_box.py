"""The trained models that come with zoo: every family has one, and the file measures what is said of it."""

import dataclasses
import json
import shutil
import socket
import sys
import types

import pytest
import torch
from conftest import ROOT
from safetensors.torch import load_file, save_file

import zoo
from zoo.registry import boxed, families, family_of
from zoo.registry.box import FACTS, boxed_of, file_of

pytest.importorskip("accelerate", reason="the recipes need zoo[train]")

from recipes import box
from zoo.training import load_recipe
from zoo.training.recipe.reading import compose
from zoo.training.recipe.recipe import Recipe, differences
from zoo.training.recipe.schema import build

OWN = {name: family for name, family in families().items() if family.module.startswith("zoo.")}
BOXED = {arch: boxed(arch) for family in OWN.values() for arch in family.variants if boxed(arch)}
ALL = 6 * 10**6  # bytes of all files


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*_):
        raise AssertionError("it asked for the network")

    for way in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, way, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def test_every_family_has_a_trained_model_and_all_are_small():
    missing = [name for name, family in OWN.items() if not set(family.variants) & set(BOXED)]
    assert not missing, f"train a variant of {missing} by a recipe, and put it into the box: python recipes/box.py"
    files = {path.name for path in (ROOT / "zoo").rglob("*.safetensors")}
    assert files == {each.file.name for each in BOXED.values()}  # none is there without its variant
    assert sum(each.file.stat().st_size for each in BOXED.values()) < ALL


@pytest.mark.parametrize("arch", BOXED)
def test_the_shipped_file_measures_what_it_says(arch, no_network):
    facts = BOXED[arch]
    recipe = load_recipe(ROOT / "recipes" / facts.recipe, [f"train.seed={facts.seed}"])
    assert (recipe.model.name, recipe.model.kwargs) == (arch, {})
    settings = build(Recipe, compose(facts.settings, "the settings of a file in the box"))
    assert not differences(settings, recipe), "the recipe is another now: train again, python recipes/box.py"
    model = zoo.create_model(arch, pretrained=True).eval()
    assert sum(parameter.numel() for parameter in model.parameters()) == facts.parameters
    exact = recipe.expect.metric.endswith("top1")  # a number of images
    assert box.measured(model, recipe) == pytest.approx(facts.value, rel=1e-9 if exact else box.SAME)
    assert abs(facts.value - recipe.expect.value) <= recipe.expect.tolerance


@pytest.mark.parametrize("arch", BOXED)
def test_its_configuration_says_how_it_was_trained(arch):
    cfg = zoo.create_model(arch, device="meta").pretrained_cfg
    assert cfg["license"] == "apache-2.0" and cfg["file"] == str(BOXED[arch].file)
    if arch.endswith("_digits"):
        assert cfg["num_classes"] == 10 and cfg["label_names"] == tuple("0123456789")
        assert (cfg["mean"], cfg["std"]) == ((0.0,), (1.0,))
        assert cfg["input_size"] == ((1, 8, 8) if family_of(arch).model.vision else (64,))


def test_they_are_listed_and_told_of():
    assert set(BOXED) <= set(zoo.list_models(pretrained=True))
    info = zoo.model_info("vit_digits")
    assert info.boxed == boxed("vit_digits") and boxed("vit_test") is None
    assert "they come with zoo: apache-2.0; test/top1" in str(info)
    assert "without a tag: apache-2.0" in str(zoo.model_info("randformer_s12"))
    with pytest.raises(ValueError, match="'vit_digitz' is unknown; did you mean 'vit_digits'"):
        boxed("vit_digitz")


def test_they_begin_another_model(tmp_path, no_network):
    with pytest.warns(UserWarning, match="the classifier starts anew"):
        model = zoo.create_model("vit_digits", pretrained=True, num_classes=3)
    assert torch.equal(model.stem.proj.weight, zoo.create_model("vit_digits", pretrained=True).stem.proj.weight)
    assert zoo.create_model("swin_digits", pretrained=True, img_size=16)(torch.zeros(1, 1, 16, 16)).shape == (1, 10)
    model = zoo.create_model("mixer_digits", pretrained=True)
    zoo.save_pretrained(model, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text("utf-8"))
    assert "file" not in config["pretrained_cfg"] and config["pretrained_cfg"]["label_names"] == list("0123456789")
    again = zoo.create_model(f"local-dir:{tmp_path}")
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in model.state_dict().items())


@pytest.fixture
def outside(tmp_path, monkeypatch):
    """A family whose file lies in a folder of its own."""
    module = types.ModuleType("outside_family")
    module.__file__ = str(tmp_path / "outside_family.py")
    monkeypatch.setitem(sys.modules, "outside_family", module)
    return dataclasses.replace(families()["mixer"], module="outside_family")


def test_a_family_brings_its_own_and_a_damaged_file_is_left_out(outside):
    assert boxed_of(outside, "mixer_digits") is None
    file = file_of(outside, "mixer_digits")
    file.parent.mkdir()
    shutil.copy(BOXED["mixer_digits"].file, file)
    assert boxed_of(outside, "mixer_digits") == dataclasses.replace(BOXED["mixer_digits"], file=file)
    weights = {"head.weight": torch.zeros(1)}
    for spoil in (
        lambda: file.write_bytes(b"\0" * 20),
        lambda: save_file(weights, file),
        lambda: save_file(weights, file, metadata={FACTS: "[]"}),
        lambda: save_file(weights, file, metadata={FACTS: '{"cfg": {"meen": [0.0]}}'}),
    ):
        spoil()
        with pytest.warns(UserWarning, match="mixer_digits.safetensors is left out .*install zoo again"):
            assert boxed_of(outside, "mixer_digits") is None
    assert boxed_of(dataclasses.replace(outside, module="no_such_module"), "mixer_digits") is None


def test_a_run_is_put_into_the_box(outside, tmp_path, monkeypatch):
    from zoo.training import Trainer

    path = ROOT / "recipes" / "digits" / "mixer.yaml"
    monkeypatch.setattr(box, "family_of", lambda name: outside)
    short = ["train.duration=1st", "schedule.warmup=0st"]
    monkeypatch.setattr(box, "load_recipe", lambda path, more=(): load_recipe(path, [*more, *short]))
    Trainer(box.load_recipe(path, ["train.seed=7", "optim.lr=1e-4"]), tmp_path / "run").run()
    with pytest.raises(ValueError, match="trained by another recipe than .*optim.lr: 0.0001 -> 0.003"):
        box.put(path, tmp_path / "run")
    monkeypatch.setattr(box, "differences", lambda old, new: [])
    for half, dtype in ((50.0, torch.float16), (49.0, torch.float32)):
        values = iter((50.0, half))
        monkeypatch.setattr(box, "measured", lambda model, recipe, values=values: next(values))
        assert {value.dtype for value in load_file(box.put(path, tmp_path / "run")).values()} == {dtype}
        facts = boxed_of(outside, "mixer_digits")
        assert (facts.recipe, facts.seed, facts.metric, facts.value) == ("digits/mixer.yaml", 7, "test/top1", 50.0)
    with pytest.raises(SystemExit, match="a recipe and --run belong together"):
        box.main([str(path)])
    with pytest.raises(SystemExit, match="fit_mlp.yaml has a model with arguments of its own: make a variant"):
        box.main([str(ROOT / "recipes" / "fit_mlp.yaml"), "--run", str(tmp_path / "run")])
