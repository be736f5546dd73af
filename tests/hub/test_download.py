"""Models from the Hub: the Hub's own client downloads them from a process on this machine, and whatever goes wrong."""

import hashlib
import json
import os
import pickle
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import timm
import torch
from conftest import ROOT, randomised
from huggingface_hub import constants
from server import TOKEN, oid_of, reached_at, serving

import zoo
from zoo.weights.converted import FOLDER

X = torch.linspace(-1, 1, 2 * 3 * 32 * 32).view(2, 3, 32, 32)
OF_ZOO = "zoo"  # the mapping of config.json that has zoo's own keys
WAYS_OUT = r"pretrained_cfg_overlay=.*local-dir:<folder>.*HF_HUB_OFFLINE=1"


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("hub")) as found:
        yield found


@pytest.fixture
def hub(server, monkeypatch, tmp_path):
    reached_at(monkeypatch, server.address)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "torch"))
    server.cache = tmp_path / "cache"
    return server


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A model of zoo, recombined, and the files of its folder."""
    torch.manual_seed(0)
    model, folder = randomised(zoo.create_model("vit_test", channel_mixer="glu")), tmp_path_factory.mktemp("saved")
    zoo.save_pretrained(model, folder)
    return model, {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def of_timm(tmp_path_factory):
    """A model of timm, and the files that timm writes for the Hub, of both kinds."""
    torch.manual_seed(0)
    sizes = dict(img_size=32, patch_size=8, depth=2, num_classes=5)
    model, folder = randomised(timm.create_model("vit_tiny_patch16_224", **sizes)), tmp_path_factory.mktemp("timm")
    timm.models.save_for_hf(model, folder, safe_serialization="both")
    return model, {path.name: path.read_bytes() for path in folder.iterdir()}


def fresh(hub, files: dict, request, revision: str = "main") -> str:
    """A repository of the test's own."""
    name = "me/" + re.sub("[^a-z0-9]+", "-", request.node.name)[:60].strip("-")
    hub.put(name, files, revision)
    return name


def opened(name: str, **kwargs) -> torch.nn.Module:
    return zoo.create_model(f"hf-hub:{name}", **kwargs).eval()


def refused(name: str, match: str, **kwargs) -> None:
    with pytest.raises(ValueError, match=match) as error:
        opened(name, **kwargs)
    assert str(error.value).isprintable() and len(str(error.value)) < 2000


def assert_whole(cache: Path) -> None:
    """Nothing half-written lies in a cache: each file there has the hash that it is named after."""
    assert not [path for path in cache.rglob("*") if path.name.endswith(".incomplete") or ".zoo-" in str(path)]
    for path in cache.rglob("blobs/*"):
        data = path.read_bytes()
        assert path.name in (hashlib.sha256(data).hexdigest(), oid_of(data))
    assert all(path.exists() for path in cache.rglob("snapshots/*/*")), "a name points to nothing"


# --- What goes well ---------------------------------------------------------------------------------------------------


def test_a_folder_of_zoo(hub, saved, request):
    model, files = saved
    name = fresh(hub, files, request)
    for _ in range(2):  # then from the cache
        assert torch.equal(opened(name)(X), model(X))
    asked = hub.asked(name)
    assert sum(method == "GET" for method, *_ in asked) == 2  # the configuration, the weights
    (snapshot,) = hub.cache.rglob("snapshots/*")
    assert any(path.endswith(f"/{snapshot.name}/model.safetensors") for _, path, _ in asked)  # of the same commit
    blobs = {path.name for path in hub.cache.rglob("blobs/*")}
    assert blobs == {hashlib.sha256(files["model.safetensors"]).hexdigest(), oid_of(files["config.json"])}
    assert_whole(hub.cache)
    wider = opened(name, in_chans=1, drop_path_rate=0.1)
    assert wider.in_chans == 1 and wider.blocks[0].channel_mixer.__class__ is model.blocks[0].channel_mixer.__class__


def test_revisions(hub, saved, request):
    model, files = saved
    name = fresh(hub, files, request)
    other = randomised(zoo.create_model("mixer_test"))
    folder = hub.cache.parent / "other"
    zoo.save_pretrained(other, folder)
    fresh(hub, {path.name: path for path in folder.iterdir()}, request, "v1")
    assert torch.equal(opened(f"{name}@v1")(X), other(X)) and torch.equal(opened(f"{name}@main")(X), model(X))
    commit = next(
        path.name for path in hub.cache.rglob("snapshots/*") if b"mixer_test" in (path / "config.json").read_bytes()
    )
    before = len(hub.asked(name))
    assert torch.equal(opened(f"{name}@{commit}")(X), other(X))
    assert not [each for each in hub.asked(name)[before:] if each[0] == "GET"]


def test_without_weights_none_are_fetched(hub, saved, request):
    name = fresh(hub, saved[1], request)
    assert opened(name, pretrained=False).num_classes == 10
    assert not [path for _, path, _ in hub.asked(name) if "safetensors" in path]


def test_a_repository_in_timms_layout(hub, of_timm, request):
    model, files = of_timm
    name = fresh(hub, {key: files[key] for key in ("config.json", "model.safetensors")}, request)
    assert torch.allclose(opened(name)(X), model(X), atol=1e-5)
    found = opened(name)
    assert found.pretrained_cfg["tag"] == model.pretrained_cfg["tag"] and found.pretrained_cfg["crop_pct"] == 0.9
    with pytest.warns(UserWarning, match="the classifier starts anew"):
        assert opened(name, num_classes=3)(X).shape == (2, 3)
    (snapshot,) = hub.cache.rglob("snapshots/*")
    assert torch.allclose(zoo.create_model(f"local-dir:{snapshot}").eval()(X), model(X), atol=1e-5)


def test_a_pickle_is_converted_once(hub, of_timm, request, monkeypatch):
    model, files = of_timm
    name = fresh(hub, {key: files[key] for key in ("config.json", "pytorch_model.bin")}, request)
    assert torch.allclose(opened(name)(X), model(X), atol=1e-5)
    (kept,) = (hub.cache.parent / "torch" / FOLDER).iterdir()
    for damage in (b"", kept.read_bytes()[:-1]):
        kept.write_bytes(damage)
        assert torch.allclose(opened(name)(X), model(X), atol=1e-5)
    monkeypatch.setattr(torch, "load", None)
    assert torch.allclose(opened(name)(X), model(X), atol=1e-5)
    assert len(list((hub.cache.parent / "torch" / FOLDER).iterdir())) == 1


def test_published_weights_of_the_hub(hub, of_timm, request):
    """By id, by id and file, whose twin is preferred, and by an address of the Hub's."""
    model, files = of_timm
    pickled, plain = files["pytorch_model.bin"], files["model.safetensors"]
    name = fresh(
        hub, {"model.safetensors": plain, "a/x.pth": pickled, "b/x.pth": b"", "b/x.safetensors": plain}, request
    )
    for place in (
        {"hf_hub_id": f"{name}@main"},
        {"hf_hub_id": name, "hf_hub_filename": "a/x.pth"},
        {"hf_hub_id": name, "hf_hub_filename": "b/x.pth"},
        {"hf_hub_id": None, "url": f"https://huggingface.co/{name}/resolve/main/a/x.pth"},
    ):
        overlay = dict(place, num_classes=5, input_size=(3, 32, 32))
        sizes = dict(patch_size=8, depth=2)
        found = zoo.create_model(
            "vit_tiny_patch16_224", pretrained=True, pretrained_cfg_overlay=overlay, cache_dir=hub.cache, **sizes
        )
        assert torch.allclose(found.eval()(X), model(X), atol=1e-5)
    assert len(list((hub.cache / FOLDER).iterdir())) == 2  # of two places
    with pytest.raises(
        ValueError, match="vit_tiny_patch16_224 could not be fetched.*has no file gone.safetensors or gone.pth"
    ):
        overlay = {"hf_hub_id": name, "hf_hub_filename": "gone.pth"}
        zoo.create_model("vit_tiny_patch16_224", pretrained=True, pretrained_cfg_overlay=overlay)


# --- Without a network ------------------------------------------------------------------------------------------------


def closed_port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"


@pytest.mark.parametrize("how", ["offline", "refused", "no such host"])
def test_without_a_network_what_is_kept_opens_and_the_rest_is_told_at_once(how, hub, saved, request, monkeypatch):
    model, files = saved
    name = fresh(hub, files, request)
    opened(name)
    if how == "offline":
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    else:
        reached_at(monkeypatch, closed_port() if how == "refused" else "http://nowhere.invalid")
    monkeypatch.setattr(time, "sleep", None)  # nobody waits and tries again
    assert torch.equal(opened(name)(X), model(X))
    refused("me/other", f"hf-hub:me/other: config.json cannot be had, since the Hub cannot be reached.*{WAYS_OUT}")
    refused(f"{name}@v7", f"@v7: config.json cannot be had, since the Hub cannot be reached.*{WAYS_OUT}")
    for place in ({"hf_hub_id": "me/other"}, {"hf_hub_id": None, "url": f"{closed_port()}/weights.pth"}):
        with pytest.raises(ValueError, match=f"mixer_test could not be fetched.*{WAYS_OUT}"):
            zoo.create_model("mixer_test", pretrained=True, pretrained_cfg_overlay=place)


# --- What the Hub answers ---------------------------------------------------------------------------------------------


def test_what_is_not_there(hub, saved, request):
    name = fresh(hub, saved[1], request)
    refused("me/gone", "hf-hub:me/gone: config.json cannot be had: the Hub has no such repository, or it is private")
    refused(f"{name}@v2", r"the repository has no revision 'v2'. Name a branch")
    (hub.folder / name / "main" / "model.safetensors").unlink()
    refused(name, "has no file model.safetensors")
    refused(fresh(hub, {"README.md": b"#"}, request, "empty") + "@empty", "has no file config.json")
    hub.put(name, saved[1])
    assert torch.equal(opened(name)(X), saved[0](X))
    for bad in ("../x", "a/b/c", "me/it@", "me/it@../x", "me/it@a/../../x", "", "@main", "a" * 300):
        with pytest.raises(ValueError, match="is no repository on the Hub|looks like a folder|unknown|no model"):
            opened(bad)


def test_what_is_gated_opens_with_a_token(hub, saved, request, monkeypatch):
    name = fresh(hub, saved[1], request)
    hub.fault(name, gated=None)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(hub.cache / "no token"))
    for token in (None, "hf_other"):  # it is answered 401, then 403
        if token:
            monkeypatch.setenv("HF_TOKEN", token)
        refused(name, "who may read the repository is chosen by its owner. Ask for access.*HF_TOKEN")
    assert_whole(hub.cache)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert torch.equal(opened(name)(X), saved[0](X))


@pytest.mark.parametrize("status", ["n429", "n503"])
def test_a_busy_hub_is_waited_for_as_long_as_the_client_does(status, hub, saved, request, monkeypatch):
    name, waits = fresh(hub, saved[1], request), []
    monkeypatch.setattr(time, "sleep", waits.append)
    hub.fault(name, **{status: 4})
    assert torch.equal(opened(name)(X), saved[0](X))
    assert waits == [1.0, 1.0]  # as Retry-After says, and one
    hub.fault(name, **{status: None})
    assert torch.equal(opened(name)(X), saved[0](X))  # which is kept
    refused(name, f"cannot be had: HfHubHTTPError.*{status[1:]}.*Try again later", cache_dir=hub.cache / "other")
    assert_whole(hub.cache)


# --- What comes ------------------------------------------------------------------------------------------------------


def test_a_download_that_was_cut_is_gone_on_with(hub, saved, request, monkeypatch):
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)  # of what is less than a chunk, nothing is kept
    name = fresh(hub, saved[1], request)
    hub.fault(name, cut=1)
    assert torch.equal(opened(name)(X), saved[0](X))
    half = len(saved[1]["model.safetensors"]) // 2 // 1000 * 1000
    assert [wanted for method, path, wanted in hub.asked(name) if "/storage/" in path and method == "GET"] == [
        None,
        f"bytes={half}-",
    ]
    assert_whole(hub.cache)


@pytest.mark.parametrize(
    "fault, words", {"short": "should be of size", "wrong": "SHA-256.*not kept; try again"}.items()
)
def test_what_comes_damaged_is_told_and_not_kept(fault, words, hub, saved, of_timm, request):
    name = fresh(hub, saved[1], request)
    hub.fault(name, **{fault: 1})
    refused(name, f"hf-hub:{name}@.*{words}")
    assert_whole(hub.cache)
    assert torch.equal(opened(name)(X), saved[0](X))
    other = f"{name}-published"
    hub.put(other, {"model.bin": of_timm[1]["pytorch_model.bin"]})
    hub.fault(other, **{fault: 1})
    overlay = {"hf_hub_id": other, "hf_hub_filename": "model.bin"}
    with pytest.raises(ValueError, match=f"mixer_test could not be fetched.*{words}"):
        zoo.create_model("mixer_test", pretrained=True, pretrained_cfg_overlay=overlay)
    assert_whole(hub.cache)


@pytest.mark.parametrize("file", ["config.json", "model.safetensors"])
def test_what_is_damaged_in_the_cache_is_fetched_again(file, hub, saved, request, monkeypatch):
    model, files = saved
    name = fresh(hub, files, request)
    opened(name)
    (kept,) = hub.cache.rglob(f"snapshots/*/{file}")
    for damage in (b"", files[file][:-9]):
        kept.resolve().write_bytes(damage)
        assert torch.equal(opened(name)(X), model(X))
        assert_whole(hub.cache)
    before = len(hub.asked(name))
    with pytest.raises(ValueError, match="vit_test has no argument 'colour'"):
        opened(name, colour=3)  # a mistake of the user's
    assert not [each for each in hub.asked(name)[before:] if each[0] == "GET"]
    kept.resolve().write_bytes(b"")
    hub.fault(name, n503=None)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    refused(name, "config.json is not valid JSON|model.safetensors is not a whole safetensors file")


def test_a_file_of_published_weights_that_is_damaged_in_the_cache_is_fetched_again(hub, of_timm, request):
    name = fresh(hub, {"model.safetensors": of_timm[1]["model.safetensors"]}, request)
    overlay = {"hf_hub_id": name, "num_classes": 5, "input_size": (3, 32, 32)}
    create = lambda: zoo.create_model(
        "vit_tiny_patch16_224", pretrained=True, pretrained_cfg_overlay=overlay, patch_size=8, depth=2
    )
    create()
    (kept,) = hub.cache.rglob("blobs/*")
    flipped = bytearray(kept.read_bytes())
    flipped[-1] ^= 1
    for damage in (b"", bytes(flipped)):
        kept.write_bytes(damage)
        assert torch.allclose(create().eval()(X), of_timm[0](X), atol=1e-5)
    assert_whole(hub.cache)


# --- What is hostile --------------------------------------------------------------------------------------------------


def changed(files: dict, within: str | None = None, **changes) -> dict:
    """The files with other values in their config.json, or in a mapping of it."""
    config = json.loads(files["config.json"])
    (config[within] if within else config).update(changes)
    return {**files, "config.json": json.dumps(config).encode()}


def test_a_configuration_of_fifty_megabytes_is_not_fetched(hub, saved, request):
    name = fresh(hub, {**saved[1], "config.json": b" " * 50 * 2**20}, request)
    refused(name, r"config.json has 52428800 bytes; \d+ are the most")
    assert [method for method, *_ in hub.asked(name)] == ["HEAD"] and not list(hub.cache.rglob("blobs/*"))
    hub.put(name, saved[1])
    assert torch.equal(opened(name)(X), saved[0](X))


@pytest.mark.parametrize("key", ["a\x1b[31m", "\u202eabc", "x" * 10**5, "__class__"])
def test_hostile_keys(key, hub, saved, of_timm):
    name = "me/hostile-" + hashlib.sha256(key.encode()).hexdigest()[:8]
    hub.put(name, changed(saved[1], OF_ZOO, model_args={key: 1}))
    refused(name, "config.json.*vit_test has no argument")
    hub.put(name, changed(saved[1], "pretrained_cfg", **{key: 1}), "other")
    refused(f"{name}@other", "config.json: pretrained_cfg has no key")
    hub.put(name, changed(of_timm[1], model_args={key: 1}), "timm")
    refused(f"{name}@timm", "config.json.*mean nothing to zoo's vit_tiny_patch16_224, which takes .*depth")


@pytest.mark.parametrize("weights", ["../x", "../../refs/main", "/etc/passwd", "a/../../x.safetensors", "x.bin", ""])
def test_a_name_that_climbs_out_is_refused_before_it_is_asked_for(weights, hub, saved, request):
    name = fresh(hub, changed(saved[1], OF_ZOO, weights=weights), request)
    refused(name, r"config.json: weights is .*must be the name of a .safetensors file in the same folder")
    assert not [path for _, path, _ in hub.asked(name) if not path.endswith("config.json")]


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_pickle_with_code_does_not_run(hub, of_timm, request):
    mark = hub.cache.parent / "ran"
    name = fresh(hub, {"config.json": of_timm[1]["config.json"]}, request)
    for content in (pickle.dumps(Bomb(mark)), b"\x80\x02cos\nsystem\nX\x02\x00\x00\x00ls\x85R."):
        hub.put(name, {"pytorch_model.bin": content})
        refused(name, "pytorch_model.bin is refused: it is corrupt, or it holds objects other than tensors")
    assert not mark.exists() and not (hub.cache.parent / "torch" / FOLDER).exists()
    hub.put(name, {"pytorch_model.bin": of_timm[1]["pytorch_model.bin"]})
    assert torch.allclose(opened(name)(X), of_timm[0](X), atol=1e-5)


def test_a_hostile_configuration_in_timms_layout(hub, of_timm, request):
    files = of_timm[1]
    cfg = json.loads(files["config.json"])["pretrained_cfg"]
    places = {"file": "/etc/passwd", "url": "http://127.0.0.1:1/x.pth", "state_dict": {"a": 1}, "custom_load": True}
    name = fresh(hub, changed(files, pretrained_cfg=cfg | places | {"new in timm": 1}), request)
    found = opened(name)
    assert torch.allclose(found(X), of_timm[0](X), atol=1e-5)
    assert not any(found.pretrained_cfg.get(key) for key in places)
    for revision, changes, words in (
        ("deep", {"model_args": {"depth": 512}}, "more parts than its weights have|do not fit the model"),
        ("wide", {"model_args": {"num_classes": 10**12}}, "num_classes is 1000000000000; it must be from 0 to"),
        ("path", {"architecture": "../x"}, "is unknown"),
        ("list", {"architecture": ["x"]}, "architecture is"),
        ("args", {"model_args": [1]}, "model_args is"),
        ("cfg", {"pretrained_cfg": 3}, "pretrained_cfg is 3; it must be a dict"),
        ("place", {"model_args": {"device": "cuda"}}, "'device'|device mean nothing"),
    ):
        hub.put(name, changed(files, **changes), revision)
        refused(f"{name}@{revision}", words)


# --- Two at once ------------------------------------------------------------------------------------------------------

PROGRAM = """
import torch, zoo
model = zoo.create_model("hf-hub:{name}", num_classes=5).eval()
print(model(torch.linspace(-1, 1, 2 * 3 * 32 * 32).view(2, 3, 32, 32)).flatten()[:5].tolist())
"""


def test_two_processes_at_once(hub, of_timm, request, tmp_path):
    """With the client's variables: where the Hub is, and where what it sends is kept; and with a connection cut."""
    model, files = of_timm
    name = fresh(hub, {key: files[key] for key in ("config.json", "pytorch_model.bin")}, request)
    hub.fault(name, cut=1, slow=2)
    folders = {"HF_HOME": str(tmp_path / "home"), "TORCH_HOME": str(tmp_path / "home" / "torch")}
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_ENDPOINT": hub.address} | folders
    command = [sys.executable, "-c", PROGRAM.format(name=name)]
    running = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    for process in running:
        found = json.loads(process.communicate(timeout=300)[0])
        assert process.returncode == 0 and found == pytest.approx(model(X).flatten()[:5].tolist(), abs=1e-4)
    assert_whole(tmp_path / "home")
    assert len(list((tmp_path / "home" / "torch" / "hub" / FOLDER).iterdir())) == 1
