"""Weights of the authors, in files: of one, of shards, of the processes of Tutel."""

import json

import pytest
import torch
from conftest import DATA, images, randomised
from safetensors.torch import load_file, save_file

import zoo
from zoo.cli import main
from zoo.tools.authors import convert_files, join


def opens_alike(folder, model) -> None:
    x = images(model)
    assert torch.equal(zoo.create_model(f"local-dir:{folder}").eval()(x), model.eval()(x))


def test_shards_of_one_file_are_joined_by_their_keys(tmp_path):
    model = randomised(zoo.create_model("vit_test"))
    state = model.state_dict()
    for rest, number in enumerate((0, 1, 10)):
        part = {key: state[key] for i, key in enumerate(state) if i % 3 == rest}
        torch.save({"model": part | {"norm.weight": state["norm.weight"]}}, tmp_path / f"w{number}.pth")
    files = [tmp_path / f"w{number}.pth" for number in (10, 0, 1)]
    opens_alike(tmp_path / "out", convert_files(files, "vit_test", tmp_path / "out"))
    opens_alike(tmp_path / "out", model)
    with pytest.raises(ValueError, match=r"w0.pth and 1 more do not fit the model: keys that the model needs"):
        convert_files(files[1:], "vit_test", tmp_path / "other")
    torch.save({"norm.weight": state["norm.weight"] + 1}, tmp_path / "w2.pth")
    with pytest.raises(
        ValueError, match="w0.pth and .*w2.pth both have norm.weight, with other values.*files of one model"
    ):
        convert_files([*files, tmp_path / "w2.pth"], "vit_test", tmp_path / "other")
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("split", ["experts", "hidden"])
def test_files_of_tutels_processes(split, tmp_path):
    """Each process has an expert, or, where there are more processes, a part of one's hidden width."""
    stored = load_file(DATA / "swin_moe.safetensors")  # in the layout of the authors
    state = {key.removeprefix("weights."): value for key, value in stored.items() if key.startswith("weights.")}
    experts = {key: value for key, value in state.items() if "._moe_layer.experts." in key}
    assert len({len(value) for value in experts.values()}) == 1
    count = len(next(iter(experts.values())))
    ranks = count if split == "experts" else 2 * count
    shards = {}
    for rank in range(ranks):
        own = {key: value.reshape(ranks, -1, *value.shape[2:])[rank : rank + 1] for key, value in experts.items()}
        shards[tmp_path / f"m.pth.rank{rank}"] = {key: state[key] for key in state if key not in experts} | own
    joined = join(shards, count)
    assert joined.keys() == state.keys() and all(torch.equal(joined[key], state[key]) for key in state)
    few = [path for path in shards if path.name[-1] != "1"]
    with pytest.raises(
        ValueError, match=r"\d files, from .*rank0 to .* have \d parts of .*experts.* file of every process"
    ):
        join({path: shards[path] for path in few}, count)


def test_what_is_no_file_of_weights(tmp_path):
    (tmp_path / "w.zip").write_bytes(b"PK\x03\x04")
    with pytest.raises(ValueError, match="w.zip is an archive; unpack it"):
        convert_files([tmp_path / "w.zip"], "vit_test", tmp_path / "out")
    with pytest.raises(FileNotFoundError, match="there is no weight file"):
        convert_files([tmp_path / "gone.pth"], "vit_test", tmp_path / "out")
    with pytest.raises(ValueError, match="model 'vit_tset' is unknown"):
        convert_files([tmp_path / "w.zip"], "vit_tset", tmp_path / "out")
    save_file({"a": torch.ones(1)}, tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match="w.safetensors do not fit the model"):
        convert_files([tmp_path / "w.safetensors"], "vit_test", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_command(tmp_path, capsys):
    model = randomised(zoo.create_model("mixer_test"))
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    main(
        ["convert", str(tmp_path / "w.safetensors"), "--as", "mixer_test", "--output", str(tmp_path / "out"), "--json"]
    )
    said = json.loads(capsys.readouterr().out)
    assert said == {"folder": str(tmp_path / "out"), "model": "mixer_test", "params": 33642}
    opens_alike(tmp_path / "out", model)
