"""Where weights come from is one object: published ones go through the family's rules, zoo's own never do."""

import dataclasses

import pytest
import torch
from conftest import randomised
from safetensors.torch import load_file, save_file
from timm.models import PretrainedCfg

import zoo
from zoo.registry import family_of, resolve_cfg
from zoo.weights import WeightSource, load_weights, published_weights, weights_in_file

RULES = family_of("mixer_test").rules


def mixer(seed: int = 0, **kwargs) -> torch.nn.Module:
    torch.manual_seed(seed)
    return randomised(zoo.create_model("mixer_test", **kwargs))


def published(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """A model's weights under the keys of MLP-Mixer's published checkpoints."""
    names = {"token_mixer": "mlp_tokens", "channel_mixer": "mlp_channels"}
    return {".".join(names.get(part, part) for part in key.split(".")): v for key, v in model.state_dict().items()}


def same(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    ours, theirs = a.state_dict(), b.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)


WAYS = {
    "file": lambda path: zoo.create_model("mixer_test", True, pretrained_cfg_overlay={"file": path}),
    "state_dict": lambda path: zoo.create_model(
        "mixer_test", True, pretrained_cfg_overlay={"state_dict": load_file(path)}
    ),
    "checkpoint_path": lambda path: zoo.create_model("mixer_test", checkpoint_path=path),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("keys", [published, torch.nn.Module.state_dict])
def test_published_keys_go_through_the_rules_and_zoos_own_need_none(way, keys, tmp_path):
    model, path = mixer(), tmp_path / "weights.safetensors"
    save_file(keys(model), path)
    assert same(WAYS[way](path), model)


@pytest.mark.parametrize("name", ["model", "mixer_test", "hf-hub:timm", "local-dir:mixer", "the given state dict"])
def test_a_folder_is_read_without_rules_whatever_it_is_called(name, tmp_path):
    model, folder = mixer(), tmp_path / name
    zoo.save_pretrained(model, folder)
    assert same(zoo.create_model(f"local-dir:{folder}"), model)
    save_file(published(model), folder / "model.safetensors")
    for bounded in (True, False):
        with pytest.raises(ValueError, match="do not fit .* keys that the model has no place for .*mlp_tokens"):
            zoo.create_model(f"local-dir:{folder}", bounded=bounded)


def test_a_checkpoint_goes_into_a_model_from_a_folder_by_the_rules_of_its_family(tmp_path):
    saved, other, path = mixer(1), mixer(2), tmp_path / "other.safetensors"
    zoo.save_pretrained(saved, tmp_path / "saved")
    save_file(published(other), path)
    assert same(zoo.create_model(f"local-dir:{tmp_path / 'saved'}", checkpoint_path=path), other)


def test_what_published_weights_are_of_is_what_their_configuration_says():
    cfg = PretrainedCfg(hf_hub_id="timm/mixer", num_classes=7, input_size=(4, 32, 32))
    source = published_weights(cfg, "mixer_test", RULES)
    assert (source.name, source.rules, source.classes, source.chans) == ("hf-hub:timm/mixer", RULES, 7, 4)


@pytest.mark.parametrize(
    "place, name",
    [
        ({"url": "https://a/b.pth", "hf_hub_id": "a/b", "file": "c", "state_dict": {"x": torch.zeros(1)}}, "the given"),
        ({"url": "https://a/b.pth", "hf_hub_id": "a/b", "file": "c"}, "c"),
        ({"url": "https://a/b.pth", "hf_hub_id": "a/b"}, "hf-hub:a/b"),
        ({"url": "https://a/b.pth"}, "https://a/b.pth"),
    ],
)
def test_a_source_is_called_by_the_place_that_counts(place, name):
    assert published_weights(PretrainedCfg(**place), "mixer_test", RULES).name.startswith(name)


def test_where_nothing_is_published_no_model_is_built(monkeypatch):
    monkeypatch.setattr("zoo.create.assemble", lambda *args: pytest.fail("a model was built"))
    with pytest.raises(ValueError, match="no weights are published for mixer_test; .*pretrained=False"):
        zoo.create_model("mixer_test", pretrained=True)


def test_a_source_is_read_when_a_model_is_there_and_once(tmp_path):
    model, calls = mixer(), []
    source = WeightSource("counted", lambda: calls.append(1) or model.state_dict())
    with pytest.raises(ValueError, match="cannot load counted into a model on the meta device"):
        load_weights(zoo.create_model("mixer_test", device="meta"), source)
    assert not calls
    twin = mixer(1)
    load_weights(twin, source)
    assert same(twin, model) and len(calls) == 1
    late = weights_in_file(tmp_path / "late.safetensors", RULES)  # which is written after the source was made
    save_file(published(model), tmp_path / "late.safetensors")
    load_weights(twin := mixer(2), late)
    assert same(twin, model)


def test_classes_and_channels_of_a_source_decide_whether_a_difference_was_asked_for():
    model = mixer()
    source = WeightSource("weights", lambda: published(model), RULES, classes=model.num_classes, chans=3)
    with pytest.warns(UserWarning, match="weights: the classifier starts anew"):
        load_weights(mixer(num_classes=5), source)
    load_weights(wide := mixer(in_chans=6), source)
    assert wide.stem.proj.weight.shape[1] == 6
    for unsaid, kwargs in (({"classes": None}, {"num_classes": 5}), ({"chans": None}, {"in_chans": 6})):
        with pytest.raises(ValueError, match="weights do not fit the model: shapes that differ"):
            load_weights(mixer(**kwargs), dataclasses.replace(source, **unsaid))


def test_a_source_cannot_be_changed():
    source = published_weights(resolve_cfg("mixer_test", overlay={"file": "a.pth"}), "mixer_test", RULES)
    with pytest.raises(dataclasses.FrozenInstanceError):
        source.rules = ()
