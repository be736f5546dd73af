"""Saving, loading, and what is said of a damaged or hostile folder."""

import http.server
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from conftest import TINY_VARIANTS, images, randomised
from safetensors.torch import save_file

import zoo


@pytest.fixture
def saved(tmp_path):
    model = randomised(zoo.create_model("vit_test", channel_mixer="glu"))
    zoo.save_pretrained(model, tmp_path / "model")
    return model, tmp_path / "model"


@pytest.mark.parametrize("name", TINY_VARIANTS)
def test_round_trip(name, tmp_path):
    model = randomised(zoo.create_model(name, num_classes=3))
    zoo.save_pretrained(model, tmp_path / "deep" / "folder")
    again = zoo.create_model(f"local-dir:{tmp_path / 'deep' / 'folder'}").eval()
    x = images(model)
    assert torch.equal(again(x), model(x)) and again.pretrained_cfg["architecture"] == name
    assert sorted(p.name for p in (tmp_path / "deep" / "folder").iterdir()) == ["config.json", "model.safetensors"]


def test_saving_again_replaces_and_leaves_nothing_behind(saved):
    _, folder = saved
    for seed in range(3):
        model = randomised(zoo.create_model("mixer_test"), std=0.1 * (seed + 1))
        zoo.save_pretrained(model, folder)
        x = images(model)
        assert torch.equal(zoo.create_model(f"local-dir:{folder}").eval()(x), model(x))
        assert len(list(folder.iterdir())) == 2


def test_precision_and_mode_are_kept_by_the_caller(saved, tmp_path):
    model = zoo.create_model("mixer_test").to(torch.bfloat16).train()
    zoo.save_pretrained(model, tmp_path / "half")
    assert model.training and model.head.weight.dtype is torch.bfloat16
    again = zoo.create_model(f"local-dir:{tmp_path / 'half'}", dtype=torch.bfloat16)
    assert torch.equal(again.blocks[0].norm1.weight, model.blocks[0].norm1.weight)


def test_overrides_at_opening(saved):
    model, folder = saved
    assert zoo.create_model(f"local-dir:{folder}", num_classes=4).head.out_features == 4
    assert zoo.create_model(f"local-dir:{folder}", in_chans=1)(torch.randn(1, 1, 32, 32)).shape == (1, 10)
    fresh = zoo.create_model(f"local-dir:{folder}", pretrained=False)
    assert not torch.equal(fresh.head.weight, model.head.weight)
    features = zoo.create_model(f"local-dir:{folder}", features_only=True, out_indices=[1])
    assert features(images(model))[0].shape == (2, 32, 4, 4)


def test_only_models_of_zoo_can_be_saved(saved, tmp_path):
    with pytest.raises(TypeError, match="takes a model of zoo.create_model, not a Linear"):
        zoo.save_pretrained(torch.nn.Linear(2, 2), tmp_path)


def test_a_model_without_weights_cannot_be_saved(tmp_path):
    with pytest.raises(ValueError, match="meta device has no weights"):
        zoo.save_pretrained(zoo.create_model("mixer_test", device="meta"), tmp_path)


def edit(folder: Path, change) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))


@pytest.mark.parametrize(
    "change, words",
    [
        (
            lambda c: c.update(architecture="vit_tiny_patch16"),
            r"config.json: model 'vit_tiny_patch16' is unknown; did you mean",
        ),
        (
            lambda c: c["model_args"].update(depht=3),
            r"config.json: vit_test has no argument 'depht'; did you mean 'depth'",
        ),
        (lambda c: c["model_args"].update(depth="3"), r"config.json: vit_test: depth is '3'"),
        (lambda c: c["model_args"].update(num_classes=-3), r"num_classes is -3"),
        (lambda c: c["model_args"].update(channel_mixer="glu(ratoi=2)"), r"no option 'ratoi'; did you mean 'ratio'"),
        (lambda c: c["model_args"].update(img_size=[30, 30]), r"whole number of 8 x 8 patches"),
        (lambda c: c.update(extra=1), r"config.json: key 'extra' is unknown"),
        (lambda c: c.pop("weights"), r"config.json has no key 'weights'"),
        (lambda c: c.update(model_args=[]), r"model_args is \[\]; it must be a dict"),
        (
            lambda c: c.update(weights="../other.safetensors"),
            r"must be the name of a .safetensors file in the same folder",
        ),
        (lambda c: c.update(weights="gone.safetensors"), r"there is no weight file .*gone.safetensors"),
        (lambda c: c["pretrained_cfg"].update(maen=1), r"pretrained_cfg has no key 'maen'; did you mean 'mean'"),
    ],
)
def test_bad_configurations(saved, change, words):
    edit(saved[1], change)
    with pytest.raises((ValueError, TypeError, FileNotFoundError), match=words):
        zoo.create_model(f"local-dir:{saved[1]}")


def test_damaged_folders(saved, tmp_path):
    _, folder = saved
    with pytest.raises(FileNotFoundError, match="holds no saved model"):
        zoo.create_model(f"local-dir:{tmp_path / 'nothing'}")
    with pytest.raises(ValueError, match="its own configuration"):
        zoo.create_model(f"local-dir:{folder}", pretrained_cfg_overlay={"file": "x"})
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    with pytest.raises(ValueError, match="model.safetensors is not a whole safetensors file"):
        zoo.create_model(f"local-dir:{folder}")
    (folder / "config.json").write_text('{"architecture": ')
    with pytest.raises(ValueError, match="config.json is not valid JSON"):
        zoo.create_model(f"local-dir:{folder}")
    (folder / "config.json").write_text("[]")
    with pytest.raises(ValueError, match="holds a list"):
        zoo.create_model(f"local-dir:{folder}")
    with pytest.raises(ValueError, match="download the repository and open it as local-dir"):
        zoo.create_model("hf-hub:me/model")


KILLED = """
import os, signal, sys
import torch, zoo
folder, instant = sys.argv[1], int(sys.argv[2])
calls = 0

def kill_at(function):
    def wrapper(*args, **kwargs):
        global calls
        calls += 1
        if calls == instant:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **kwargs)
    return wrapper

os.fsync, os.replace, os.unlink, os.chmod = map(kill_at, (os.fsync, os.replace, os.unlink, os.chmod))
import zoo.hub
zoo.hub.save_file = kill_at(zoo.hub.save_file)
torch.manual_seed(1)
model = zoo.create_model("mixer_test", head_init="trunc_normal")
zoo.save_pretrained(model, folder)
print("survived", calls)
"""


@pytest.mark.parametrize("instant", range(1, 9))
def test_a_killed_save_leaves_the_old_model_or_the_new_one(saved, instant):
    """The saving process is killed (SIGKILL) at the n-th of its operations on files; the folder still opens, whole."""
    old, folder = saved
    out = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", KILLED, str(folder), str(instant)], capture_output=True, text=True
    )
    model = zoo.create_model(f"local-dir:{folder}").eval()
    x = torch.randn(2, 3, 32, 32)
    if model.pretrained_cfg["architecture"] == "vit_test":
        assert torch.equal(model(x), old(x))
        assert out.returncode == -signal.SIGKILL
    else:
        torch.manual_seed(1)
        new = zoo.create_model("mixer_test", head_init="trunc_normal").eval()
        assert torch.equal(model(x), new(x))
    zoo.save_pretrained(old, folder)  # and the next save succeeds
    assert torch.equal(zoo.create_model(f"local-dir:{folder}").eval()(x), old(x))


def test_an_exception_while_writing_leaves_the_old_model(saved, monkeypatch):
    old, folder = saved
    monkeypatch.setattr("zoo.hub.save_file", lambda *a, **k: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        zoo.save_pretrained(zoo.create_model("mixer_test"), folder)
    assert sorted(p.name for p in folder.iterdir()) == ["config.json", "model.safetensors"]
    x = images(old)
    assert torch.equal(zoo.create_model(f"local-dir:{folder}").eval()(x), old(x))


FETCH = """
import timm, torch, zoo
model = zoo.create_model("resmlp_12_224.fb_in1k", pretrained=True).eval()
torch.manual_seed(0)
print(repr(model(torch.ones(1, 3, 224, 224))[0, :3].tolist()))
"""


def test_pretrained_fetches_from_the_hub(tmp_path, timm_checkpoint):
    """The real download, from a server on this machine that answers as the Hub does for one file."""
    theirs, path = timm_checkpoint("resmlp_12_224")
    data, asked = path.read_bytes(), []

    class Hub(http.server.BaseHTTPRequestHandler):
        def answer(self, body: bool) -> None:
            asked.append(self.path)
            if self.path != "/timm/resmlp_12_224.fb_in1k/resolve/main/model.safetensors":
                self.send_response(404)
                self.send_header("X-Error-Code", "EntryNotFound")
                self.end_headers()
                return
            self.send_response(200)
            for key, value in {"ETag": '"1"', "X-Repo-Commit": "a" * 40, "Content-Length": len(data)}.items():
                self.send_header(key, str(value))
            self.end_headers()
            if body:
                self.wfile.write(data)

        def do_HEAD(self):
            self.answer(False)

        def do_GET(self):
            self.answer(True)

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    env = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
    env |= {
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
        "HF_HOME": str(tmp_path),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_OFFLINE": "0",
    }
    out = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FETCH], capture_output=True, text=True, env=env, timeout=120
    )
    server.shutdown()
    assert out.returncode == 0, out.stderr[-2000:] + str(asked)
    with torch.no_grad():
        expected = theirs(torch.ones(1, 3, 224, 224))[0, :3]
    assert torch.allclose(torch.tensor(json.loads(out.stdout.splitlines()[-1])), expected, rtol=1e-4)


def test_a_url_is_fetched_too(tmp_path):
    """Weights that are published as a plain file: downloaded once, kept, read safely."""
    model = randomised(zoo.create_model("mixer_test"))
    (tmp_path / "web").mkdir()
    save_file(model.state_dict(), tmp_path / "web" / "weights.safetensors")
    handler = type(
        "Quiet",
        (http.server.SimpleHTTPRequestHandler,),
        {
            "log_message": lambda *a: None,
            "__init__": lambda self, *a: http.server.SimpleHTTPRequestHandler.__init__(
                self, *a, directory=str(tmp_path / "web")
            ),
        },
    )
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    overlay = {"url": f"http://127.0.0.1:{server.server_port}/weights.safetensors"}
    kwargs = dict(pretrained=True, pretrained_cfg_overlay=overlay, cache_dir=tmp_path / "cache")
    assert torch.equal(zoo.create_model("mixer_test", **kwargs).head.weight, model.head.weight)
    server.shutdown()
    assert torch.equal(zoo.create_model("mixer_test", **kwargs).head.weight, model.head.weight)  # from the cache
