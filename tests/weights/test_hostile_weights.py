"""Weight files are input: damaged, odd and hostile ones are refused by name; those fetched are those asked for."""

import hashlib
import http.server
import io
import pickle
import random
import re
import struct
import threading
import zipfile

import numpy as np
import pytest
import torch
from conftest import images, randomised
from safetensors.torch import save, save_file

import zoo
from zoo.weights import check_fit, read_shapes, read_state_dict


def refused(path, read=read_state_dict) -> str:
    with pytest.raises(ValueError) as error:
        read(path)
    told = str(error.value)
    assert str(path) in told and len(told) < 2000 and told.isprintable(), told
    return told


# --- Damage -----------------------------------------------------------------------------------------------------------

STATE = {"a": torch.arange(12.0).view(3, 4), "b.bias": torch.zeros(5), "n": torch.tensor(3)}


def files() -> dict[str, bytes]:
    """Whole files of each kind, by the ending of their names."""
    found = {".safetensors": save(STATE)}
    for name, options in {"zip.pth": {}, "legacy.pth": {"_use_new_zipfile_serialization": False}}.items():
        file = io.BytesIO()
        torch.save({"state_dict": STATE, "epoch": 3}, file, **options)
        found[name] = file.getvalue()
    for name, write in {"plain.npz": np.savez, "packed.npz": np.savez_compressed}.items():
        file = io.BytesIO()
        write(file, **{key: value.numpy() for key, value in STATE.items()})
        found[name] = file.getvalue()
    return found


def damaged(data: bytes, draw: random.Random) -> bytes:
    """The data with bits flipped, cut off, with bytes inserted or taken out, or a part of it twice."""
    data = bytearray(data)
    for _ in range(draw.choice([1, 1, 2, 5])):
        at = draw.randrange(len(data))
        how = draw.randrange(5)
        if how == 0:
            data[at] ^= 1 << draw.randrange(8)
        elif how == 1:
            data[at] = draw.randrange(256)
        elif how == 2:
            data[at:at] = draw.randbytes(draw.choice([1, 8, 100]))
        elif how == 3:
            del data[at : at + draw.choice([1, 8, 100])]
        else:
            del data[at:]
        if not data:
            break
    return bytes(data)


def repacked(data: bytes, draw: random.Random) -> bytes:
    """A whole archive whose pickle, or first array, is damaged: no checksum of the archive tells."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w") as new:
        for i, name in enumerate(old.namelist()):
            content = old.read(name)
            new.writestr(name, damaged(content, draw) if name.endswith("data.pkl") or not i else content)
    return out.getvalue()


def fuzz(folder, count: int, seed: int = 0) -> int:
    """Reads damaged files; gives how many of them were refused. Anything but a ValueError ends the test."""
    draw, whole, wrong = random.Random(seed), files(), 0
    for i in range(count):
        name = list(whole)[i % len(whole)]
        change = repacked if i % 2 and zipfile.is_zipfile(io.BytesIO(whole[name])) else damaged
        path = folder / f"{i}{name}"
        path.write_bytes(change(whole[name], draw))
        try:
            read_state_dict(path)
        except ValueError as error:
            wrong += 1
            assert path.name in str(error) and len(str(error)) < 2000 and str(error).isprintable()
        path.unlink()
    return wrong


def test_damaged_files_are_refused_by_name(tmp_path):
    assert fuzz(tmp_path, 150) > 75


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 11))
def test_many_damaged_files_are_refused_by_name(seed, tmp_path):
    assert fuzz(tmp_path, 1000, seed) > 500


@pytest.mark.parametrize(
    "content", [b"", b"a,b\n1,2\n", b"PK\x03\x04", b"\x80\x02", b"{}", b"\x00" * 100, "ü".encode()]
)
@pytest.mark.parametrize("kind", [".pth", ".npz", ".safetensors", ".bin", ""])
def test_files_that_are_something_else(content, kind, tmp_path):
    path = tmp_path / f"weights{kind}"
    path.write_bytes(content)
    refused(path)


def test_paths_that_are_no_file(tmp_path):
    for path in (tmp_path, tmp_path / "gone.pth", "x" * 5000, "a\0.pth", "a\x1b[31m.pth"):
        with pytest.raises(FileNotFoundError, match="there is no weight file") as error:
            read_state_dict(path)
        assert str(error.value).isprintable() and len(str(error.value)) < 2000
    with pytest.raises(TypeError, match="a weight file is given as 3, a int"):
        read_state_dict(3)


# --- Claims -----------------------------------------------------------------------------------------------------------


def array(shape: str, kind: str = "<f4", content: bytes = b"") -> bytes:
    header = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}   \n".encode()
    return b"\x93NUMPY\x02\x00" + struct.pack("<I", len(header)) + header + content


@pytest.mark.parametrize(
    "content",
    [
        array("(1000000000000,)"),
        array("(1000, 1000, 1000, 1000)", "<f8"),
        array("(-1,)"),
        array("(3,)", "|O", pickle.dumps([1, 2, 3])),
        array("(3,)", "<U9", b"0" * 108),
        array("(3,)", ">f4", b"0" * 12),
        array("(" * 500 + ")" * 500),
        array("(2,)"),
    ],
)
def test_arrays_that_say_more_than_they_hold_or_hold_no_numbers(content, tmp_path):
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.npy", content)
    refused(path)


def test_archives_that_grow_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("zoo.weights.files.ALWAYS", 2**20)
    for name, file in (("a.npy", "a.npz"), ("archive/data.pkl", "a.pth"), ("archive/data/0", "b.pth")):
        with zipfile.ZipFile(tmp_path / file, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(name, array("(1000000,)") + bytes(4 * 10**6))
        assert "and says that it holds 4000" in refused(tmp_path / file)


def test_one_number_does_not_stand_for_many(tmp_path):
    path = tmp_path / "a.pth"
    torch.save({"a": torch.ones(1).expand(10**9)}, path)
    assert "says that it holds 4000000000" in refused(path)


def test_a_pickle_does_not_reserve_memory(tmp_path):
    path, reserve = tmp_path / "a.pth", b"\x80\x02cbuiltins\nbytearray\nJ\xff\xff\xff\x7f\x85R."
    path.write_bytes(reserve)
    assert "asks for memory of any size" in refused(path)
    torch.save({"a": torch.ones(1)}, path)
    data = io.BytesIO(path.read_bytes())
    with zipfile.ZipFile(data) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, reserve if name.endswith("data.pkl") else old.read(name))
    assert "asks for memory of any size" in refused(path)


def test_the_header_says_shapes_without_the_values(tmp_path):
    path = tmp_path / "a.safetensors"
    save_file(STATE, path)
    shapes, size = read_shapes(path)
    assert {k: v.shape for k, v in shapes.items()} == {k: v.shape for k, v in STATE.items()}
    assert all(value.is_meta for value in shapes.values()) and size == path.stat().st_size
    path.write_bytes(path.read_bytes()[:-1])
    refused(path, read_shapes)


# --- Tensors ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def state():
    return {key: value.clone() for key, value in zoo.create_model("vit_test").state_dict().items()}


def loaded(state, path, **kwargs):
    torch.save(state, path)
    return zoo.create_model("vit_test", checkpoint_path=path, **kwargs)


@pytest.mark.parametrize(
    "change, words",
    {
        "sparse": (lambda t: t.to_sparse(), "'head.weight' is a tensor that is sparse"),
        "compressed": (lambda t: t.to_sparse_csr(), "'head.weight' is a tensor that is sparse"),
        "meta": (lambda t: t.to("meta"), "'head.weight' is a tensor that is on the meta device"),
        "nested": (lambda t: torch.nested.nested_tensor([t]), "'head.weight' is a tensor that is nested"),
        "quantised": (
            lambda t: torch.quantize_per_tensor(t, 0.1, 0, torch.qint8),
            "'head.weight' is a tensor that is quantised",
        ),
        "whole numbers": (lambda t: (t * 9).to(torch.int8), r"head.weight is of torch.int8, and the model's of"),
        "truth values": (lambda t: t > 0, "head.weight is of torch.bool"),
        "complex": (lambda t: t.to(torch.complex64), "head.weight is of complex numbers"),
        "large": (
            lambda t: t.double() + 1e39,
            r"head.weight has numbers up to 1e\+39, which torch.float32 cannot hold",
        ),
        "numbers": (lambda t: 3, "holds no mapping of names to tensors: 'head.weight' is of the type int"),
        "flat": (lambda t: t.flatten(), r"head.weight: \(320,\) in the file, \(10, 32\) in the model"),
    }.values(),
)
@pytest.mark.filterwarnings("ignore::UserWarning")  # torch's, of what it will give up
def test_tensors_that_no_model_can_take(change, words, state, tmp_path):
    odd = {**state, "head.weight": change(state["head.weight"])}
    with pytest.raises(ValueError, match=rf"c.pth.*{words}"):
        loaded(odd, tmp_path / "c.pth")
    with pytest.raises(ValueError, match=words):
        zoo.create_model("vit_test", pretrained=True, pretrained_cfg_overlay={"state_dict": odd})


def test_float64_that_fits_is_taken(state, tmp_path):
    double = {key: value.double() if value.is_floating_point() else value for key, value in state.items()}
    assert torch.equal(loaded(double, tmp_path / "c.pth").head.weight, state["head.weight"])
    half = {key: value.half() if value.is_floating_point() else value for key, value in state.items()}
    loaded(half, tmp_path / "c.pth")
    with pytest.raises(ValueError, match="up to 7e.04, which torch.float16 cannot hold"):
        loaded({**state, "head.bias": torch.full((10,), 7e4)}, tmp_path / "c.pth", dtype=torch.float16)


@pytest.mark.parametrize("key", [0, ("a",), None, b"a"])
def test_keys_that_are_no_names(key, state, tmp_path):
    with pytest.raises(ValueError, match="c.pth holds no mapping of names to tensors"):
        loaded({**state, key: torch.ones(1)}, tmp_path / "c.pth")


@pytest.mark.parametrize("key", ["a\x1b]0;pwned\x07\x1b[31m", "x" * 10**5, "\ud800", "9" * 6000, "²", "\u202eabc"])
def test_keys_are_shown_short_and_escaped(key, state, tmp_path):
    with pytest.raises(ValueError, match="no place for") as error:
        zoo.create_model(
            "vit_test", pretrained=True, pretrained_cfg_overlay={"state_dict": {**state, key: torch.ones(1)}}
        )
    assert str(error.value).isprintable() and len(str(error.value)) < 2000
    many = {f"{i}{key}": torch.ones([1] * 60) for i in range(50)} | {
        f"blocks.0.{key}.{i}": state["head.bias"] for i in "ab"
    }
    with pytest.raises(ValueError) as error:
        zoo.create_model("vmoe_test", pretrained=True, pretrained_cfg_overlay={"state_dict": many})
    assert str(error.value).isprintable() and len(str(error.value)) < 2000


# --- Channels ---------------------------------------------------------------------------------------------------------


def test_channels_are_adapted_only_if_the_model_was_asked_for_with_others(tmp_path):
    path = tmp_path / "w.safetensors"
    save_file(randomised(zoo.create_model("vit_test", in_chans=5)).state_dict(), path)
    overlay = {"pretrained": True, "pretrained_cfg_overlay": {"file": str(path)}}
    for kwargs in ({}, {"in_chans": 1}):  # a file of 5 channels for weights that are said to be of 3
        with pytest.raises(ValueError, match=r"stem.proj.weight: \(32, 5, 8, 8\) in the file.* in_chans=5"):
            zoo.create_model("vit_test", **overlay, **kwargs)
        with pytest.raises(ValueError, match="stem.proj.weight.* in_chans=5"):
            zoo.create_model("vit_test", checkpoint_path=path, **kwargs)
    assert zoo.create_model("vit_test", in_chans=5, **overlay).in_chans == 5
    plain = randomised(zoo.create_model("vit_test"))
    save_file(plain.state_dict(), path)
    for model in (
        zoo.create_model("vit_test", in_chans=1, **overlay),
        zoo.create_model("vit_test", in_chans=1, checkpoint_path=path),
    ):
        assert torch.allclose(model.stem.proj.weight, plain.stem.proj.weight.sum(1, keepdim=True), atol=1e-6)
    zoo.save_pretrained(zoo.create_model("vit_test", in_chans=1), tmp_path / "grey")
    assert zoo.create_model(f"local-dir:{tmp_path / 'grey'}", in_chans=3).in_chans == 3


# --- Headers ----------------------------------------------------------------------------------------------------------


def test_refined_layers_are_compared_by_their_own_sizes(tmp_path):
    from zoo.tools.kan.grid import refine

    model = zoo.create_model("kan_test", layer="spline(grid_size=3)")
    refine(model, 6)
    zoo.save_pretrained(model, tmp_path)
    x = images(model)
    assert torch.equal(zoo.create_model(f"local-dir:{tmp_path}").eval()(x), model.eval()(x))
    shapes, _ = read_shapes(tmp_path / "model.safetensors")
    shapes["body.0.basis.knots"] = torch.empty(3, 3, device="meta")
    with pytest.raises(ValueError, match="w: the sizes of body.0 cannot be taken: knots have the shape"):
        check_fit(zoo.create_model("kan_test", layer="spline(grid_size=3)", device="meta"), shapes, "w")


# --- Addresses --------------------------------------------------------------------------------------------------------


@pytest.fixture
def web(tmp_path):
    """A server of a folder, which notes what it is asked for."""
    folder, asked = tmp_path / "web", []
    folder.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(folder))

        def do_GET(self):
            asked.append(self.path)
            super().do_GET()

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    server.folder, server.asked, server.cache = folder, asked, tmp_path / "cache"
    yield server
    server.shutdown()
    server.server_close()


def published(web, place: str, std: float = 0.05) -> torch.nn.Module:
    model = randomised(zoo.create_model("mixer_test"), std)
    path = web.folder / place
    path.parent.mkdir(exist_ok=True, parents=True)
    if path.suffix == ".safetensors":
        save_file(model.state_dict(), path)
    else:
        torch.save(model.state_dict(), path)
    return model


def fetched(web, address: str) -> torch.Tensor:
    overlay = {"url": f"http://127.0.0.1:{web.server_port}/{address}"}
    model = zoo.create_model("mixer_test", pretrained=True, pretrained_cfg_overlay=overlay, cache_dir=web.cache)
    return model.head.weight


def kept_file(web):
    """What was downloaded, without what was made of it."""
    (kept,) = [path for path in web.cache.iterdir() if path.is_file()]
    return kept


def test_files_of_one_name_are_kept_apart(web):
    models = {place: published(web, f"{place}/model.safetensors") for place in "ab"}
    for address in ("a/model.safetensors", "b/model.safetensors", "a/model.safetensors?v=2"):
        for _ in range(2):  # then from the cache
            assert torch.equal(fetched(web, address), models[address[0]].head.weight)
    assert len(web.asked) == 3 and len(list(web.cache.iterdir())) == 3


def test_a_download_has_a_bar_and_what_is_kept_has_none(web, capfd):
    published(web, "a.safetensors")
    fetched(web, "a.safetensors")
    assert re.search(r"a\.\w{16}\.safetensors: +\d+%", capfd.readouterr().err)
    fetched(web, "a.safetensors")
    assert not capfd.readouterr().err


@pytest.mark.parametrize("place", ["a.safetensors", "a.pth", "a%20b/%C3%BC.pth"])
def test_a_damaged_file_in_the_cache_is_fetched_again(place, web):
    from urllib.parse import unquote

    model = published(web, unquote(place))
    fetched(web, place)
    kept = kept_file(web)
    for damage in (b"", b"x" * 100, kept.read_bytes()[:-10]):
        kept.write_bytes(damage)
        assert torch.equal(fetched(web, place), model.head.weight)
    assert len(web.asked) == 4


def test_what_is_damaged_and_cannot_be_fetched_again_is_told(web):
    published(web, "a.safetensors")
    fetched(web, "a.safetensors")
    kept = kept_file(web)
    kept.write_bytes(b"x")
    (web.folder / "a.safetensors").unlink()
    with pytest.raises(ValueError, match=rf"{kept.name} is not a whole .* did not help .*404.*; remove .*{kept.name}"):
        fetched(web, "a.safetensors")
    (web.folder / "a.safetensors").write_bytes(b"y")
    for _ in range(2):
        with pytest.raises(ValueError, match=rf"is not a whole .*remove .*{kept.name} and try again"):
            fetched(web, "a.safetensors")
    model = published(web, "a.safetensors")
    assert torch.equal(fetched(web, "a.safetensors"), model.head.weight)  # and it heals when the source does


@pytest.mark.parametrize("how", ["name", "fragment"])
def test_a_known_hash_is_compared(how, web):
    model = published(web, "a.pth")
    data = (web.folder / "a.pth").read_bytes()
    right = hashlib.sha256(data).hexdigest()
    address = lambda digest: f"a-{digest[:8]}.pth" if how == "name" else f"a.pth#sha256={digest}"
    for digest in (right, "0123abcd" * 8):
        (web.folder / f"a-{digest[:8]}.pth").write_bytes(data)
    assert torch.equal(fetched(web, address(right)), model.head.weight)
    kept = kept_file(web)
    flipped = bytearray(data)
    flipped[data.index(model.head.bias.detach().numpy().tobytes())] ^= 1
    kept.write_bytes(bytes(flipped))
    assert torch.equal(fetched(web, address(right)), model.head.weight)
    assert kept.read_bytes() == data
    kept.unlink()
    with pytest.raises(ValueError, match="mixer_test could not be fetched from .*invalid hash value"):
        fetched(web, address("0123abcd" * 8))
    assert not [path for path in web.cache.iterdir() if path.is_file()]


def test_addresses_that_lead_nowhere_are_told(web):
    for address in ("gone.pth", "", "..", "%00", "a" * 3000, "a\x1b.pth"):
        with pytest.raises(
            ValueError, match="mixer_test could not be fetched from http|is not a whole|is refused"
        ) as error:
            fetched(web, address)
        assert str(error.value).isprintable() and len(str(error.value)) < 2000
