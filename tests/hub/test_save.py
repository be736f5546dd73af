"""What is written of a model: one file or several, read back before the old one goes, nothing of this machine."""

import json

import pytest
import torch
from conftest import images, randomised
from safetensors.torch import load_file, save_file

import zoo
from zoo.hub import remove_saved
from zoo.hub.config import OF_TIMM, OF_TRANSFORMERS


def glu(**kwargs) -> torch.nn.Module:
    return randomised(zoo.create_model("vit_test", channel_mixer="glu", **kwargs))


def opened(folder, **kwargs) -> torch.nn.Module:
    return zoo.create_model(f"local-dir:{folder}", **kwargs).eval()


def config_of(folder) -> dict:
    return json.loads((folder / "config.json").read_text())


def names(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# --- Several files ----------------------------------------------------------------------------------------------------


@pytest.fixture
def sharded(tmp_path):
    model = glu()
    zoo.save_pretrained(model, tmp_path / "model", max_shard_size="20KB")
    return model, tmp_path / "model"


def test_many_bytes_become_several_files(sharded):
    model, folder = sharded
    index = json.loads((folder / config_of(folder)["zoo"]["weights"]).read_text())
    shards = sorted(set(index["weight_map"].values()))
    assert len(shards) > 2 and all(f"-of-{len(shards):05}.safetensors" in name for name in shards)
    assert names(folder) == sorted(["config.json", "model.safetensors.index.json", *shards])
    assert all((folder / name).stat().st_size < 30_000 for name in shards)
    x = images(model)
    assert torch.equal(opened(folder)(x), model(x))
    assert opened(folder, pretrained=False).config == model.config


def test_several_files_are_exchanged_as_one(sharded):
    """For other ones, for a single file and back; what somebody else has put there stays."""
    _, folder = sharded
    (folder / "model-00001-of-00099.safetensors").write_bytes(b"precious")
    for size in ("20KB", "5GB", "30KB"):
        model = glu()
        zoo.save_pretrained(model, folder, max_shard_size=size)
        x = images(model)
        assert torch.equal(opened(folder)(x), model(x))
        weights = config_of(folder)["zoo"]["weights"]
        assert weights.endswith(".json") is (size != "5GB")
        assert len(names(folder)) == 3 or size != "5GB"
    assert (folder / "model-00001-of-00099.safetensors").read_bytes() == b"precious"
    remove_saved(folder)
    assert names(folder) == ["model-00001-of-00099.safetensors"]


def test_a_damaged_configuration_beside_several_files_is_put_right(sharded):
    model, folder = sharded
    (folder / "config.json").write_text('{"architecture": ')
    zoo.save_pretrained(model, folder)
    assert len(names(folder)) == 2 and torch.equal(opened(folder).head.weight, model.head.weight)


def move_a_key(index: dict, shards: list[str]) -> None:
    index["weight_map"]["head.bias"] = next(name for name in shards if name != index["weight_map"]["head.bias"])


@pytest.mark.parametrize(
    "change, words",
    [
        (move_a_key, "'?head.bias'? of model-.* are in one of the two alone"),
        (
            lambda index, shards: index["weight_map"].update({"head.bias": "../x.safetensors"}),
            "no .safetensors file",
        ),
        (lambda index, shards: index["weight_map"].update({"head.bias": 3}), "'head.bias' is said to be in 3"),
        (lambda index, shards: index["weight_map"].update({"head.bias": "x.safetensors"}), "x.safetensors|alone"),
        (lambda index, shards: index.pop("weight_map"), "is no index of weights"),
    ],
)
@pytest.mark.parametrize("pretrained", [True, False])
def test_an_index_is_input(change, words, pretrained, sharded):
    _, folder = sharded
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    change(index, sorted(set(index["weight_map"].values())))
    path.write_text(json.dumps(index))
    with pytest.raises((ValueError, FileNotFoundError), match=words) as error:
        opened(folder, pretrained=pretrained)
    assert "model" in str(error.value) and len(str(error.value)) < 2000


# --- What is read back ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", ["5GB", "20KB"])
def test_what_the_disk_did_not_keep_does_not_take_the_old_ones_place(size, tmp_path, monkeypatch):
    old = glu()
    zoo.save_pretrained(old, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def forgetful(tensors, path, **kwargs):
        save_file({key: torch.zeros_like(value) for key, value in tensors.items()}, path, **kwargs)

    monkeypatch.setattr("zoo.hub.shards.save_file", forgetful)
    with pytest.raises(OSError, match="does not hold what was written to it; the old model stays"):
        zoo.save_pretrained(glu(), tmp_path, max_shard_size=size)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


# --- What config.json says --------------------------------------------------------------------------------------------


def test_nothing_of_this_machine_is_told(tmp_path):
    model = glu(num_classes=3)
    zoo.save_pretrained(model, tmp_path / "first")
    file = str(tmp_path / "first" / "model.safetensors")
    overlay = {"file": file, "url": f"file://{file}"}
    again = zoo.create_model(
        "vit_test", channel_mixer="glu", num_classes=3, pretrained=True, pretrained_cfg_overlay=overlay
    )
    zoo.save_pretrained(again, tmp_path / "second")
    zoo.save_pretrained(opened(tmp_path / "second"), tmp_path / "third")
    for name in ("second", "third"):
        assert str(tmp_path) not in (tmp_path / name / "config.json").read_text()
    assert config_of(tmp_path / "second") == config_of(tmp_path / "third") == config_of(tmp_path / "first")


def test_what_timm_and_transformers_write_beside_is_no_error_and_the_rest_is(tmp_path):
    model = glu()
    zoo.save_pretrained(model, tmp_path)
    config = config_of(tmp_path)
    for key in {*OF_TIMM, *OF_TRANSFORMERS} - {*config, "label_names", "label_descriptions"}:
        config[key] = {"any": [1]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert torch.equal(opened(tmp_path).head.weight, model.head.weight)
    (tmp_path / "config.json").write_text(json.dumps({**config, "model_typ": "x"}))
    with pytest.raises(ValueError, match="key 'model_typ' is unknown; did you mean 'model_type'"):
        opened(tmp_path)


def test_precision_is_kept_where_timm_has_the_model(tmp_path):
    """Its keys are made of every kind of number, and what is not finite is moved like the rest."""
    model = zoo.create_model("deit_tiny_patch16_224", img_size=32, num_classes=2).to(torch.bfloat16)
    with torch.no_grad():
        model.head.bias.copy_(torch.tensor([float("nan"), -0.0]))
    zoo.save_pretrained(model, tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    assert {value.dtype for value in state.values()} == {torch.bfloat16} and "patch_embed.proj.weight" in state
    again = opened(tmp_path, dtype=torch.bfloat16)
    for key, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[key].view(torch.int16), value.view(torch.int16)), key
