"""Checkpoints of V-MoE's own format, written here as its code describes them, are read whole or refused."""

import json

import pytest
import torch
from conftest import DATA
from safetensors import safe_open
from safetensors.torch import load_file

import zoo
from zoo.tools.authors import convert_files
from zoo.weights.jax_shards import read_jax_shards

msgpack = pytest.importorskip("msgpack")
pack = msgpack.packb


def slices(*places: tuple[int, int]) -> bytes:
    return pack([pack([start, stop, 1]) for start, stop in places])


def array(value: torch.Tensor) -> msgpack.ExtType:
    kind = str(value.dtype).removeprefix("torch.")
    data = value.contiguous().view(torch.uint8).numpy().tobytes()
    return msgpack.ExtType(1, pack([list(value.shape), kind, data]))


def write(folder, state: dict, shards: int = 3, **header) -> tuple:
    """Each array in two halves along its first side, one a shard, and what is long in pieces; gives the files."""
    tree, data = {}, [{"__msgpack_array_chunk_a87ca2__": True} for _ in range(shards)]
    for number, key in enumerate(sorted(state, key=lambda key: key.split("/"))):
        value, branch = state[key], tree
        *parents, leaf = key.split("/")
        for parent in parents:
            branch = branch.setdefault(parent, {})
        half = value.shape[0] // 2
        ends = [(0, half), (half, value.shape[0])] if half else [(0, value.shape[0])]
        places = [slices(end, *((0, side) for side in value.shape[1:])) for end in ends]
        where = [(number + i) % shards for i in range(len(ends))]
        for (start, stop), place, shard in zip(ends, places, where, strict=True):
            flat = value[start:stop].flatten()
            pieces = [array(piece) for piece in flat.split(100)]
            data[shard].setdefault(str(number), []).append([pieces, msgpack.ExtType(6, place)])
        shaped = pack([list(value.shape), str(value.dtype).removeprefix("torch."), False, {}])
        branch[leaf] = msgpack.ExtType(8, pack([shaped, places, where]))
    index = folder / "it.index"
    index.write_bytes(pack({"version": "20220622", "shard_count": shards, "index": tree, **header}))
    parts = [folder / f"it.data-{i:05d}-of-{shards:05d}" for i in range(shards)]
    for path, content in zip(parts, data, strict=True):
        path.write_bytes(pack(content))
    return index, parts


@pytest.fixture
def state():
    stored = load_file(DATA / "vmoe.safetensors")
    return {key.removeprefix("weights."): value for key, value in stored.items() if key.startswith("weights.")}


def test_arrays_are_put_together(state, tmp_path):
    params = {f"params/{key.removeprefix('params/')}": value for key, value in state.items()}
    index, _ = write(tmp_path, params | {"opt_state/0/mu/cls": torch.ones(4, 2), "step": torch.ones(1)})
    found = read_jax_shards(index)
    assert found.keys() == params.keys() and all(torch.equal(found[key], params[key]) for key in params)
    assert found[next(iter(found))].dtype == next(iter(params.values())).dtype
    plain, _ = write(tmp_path, {"a/b": torch.arange(10.0).double(), "a/10": torch.ones(1), "a/9": torch.zeros(3)}, 1)
    assert read_jax_shards(plain)["a/b"].tolist() == list(range(10))


def test_what_is_damaged_is_refused(state, tmp_path):
    index, (first, *_) = write(tmp_path, state)
    whole = first.read_bytes()
    for damage in (b"", b"\x81\xa11", whole[:-5], pack([1]), pack({"0": [[3, 4]]}), pack({})):
        first.write_bytes(damage)
        with pytest.raises(ValueError, match=r"it\.(data-00000-of-00003|index)"):
            read_jax_shards(index)
    first.unlink()
    with pytest.raises(FileNotFoundError, match="no weight file .*it.data-00000-of-00003"):
        read_jax_shards(index)
    for header in ({"index": 3}, {"index": {"a": 3}}, {"shard_count": "x"}):
        with pytest.raises(ValueError, match="it.index is not a whole index"):
            read_jax_shards(write(tmp_path, state, **header)[0])
    old, _ = write(tmp_path, {"params/a": torch.ones(2), "step": torch.ones(1)}, version=None)
    with pytest.raises(ValueError, match="before 2022-06-22"):
        read_jax_shards(old)


def test_convert_reads_them_by_their_index(state, tmp_path):
    index, parts = write(tmp_path, state)
    with pytest.raises(ValueError, match="data-00000-of-00003 is a part of a checkpoint of JAX; give its .index"):
        convert_files(parts, "vmoe_test", tmp_path / "out")
    with pytest.raises(ValueError, match="it.index do not fit the model: shapes that differ"):
        convert_files([index, *parts], "vmoe_test", tmp_path / "out")
    with safe_open(DATA / "vmoe.safetensors", "pt") as file:
        sizes = json.loads(file.metadata()["arguments"])
    overlay = {"num_classes": 10, "input_size": (3, 32, 32)}
    one, two = (
        zoo.create_model("vmoe_test", True, pretrained_cfg_overlay=overlay | {"state_dict": weights}, **sizes)
        for weights in (state, read_jax_shards(index))
    )
    assert all(torch.equal(value, two.state_dict()[key]) for key, value in one.state_dict().items())
