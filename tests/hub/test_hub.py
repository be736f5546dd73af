"""Saving, loading, and what is said of a damaged or hostile folder."""

import contextlib
import functools
import http.server
import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY_VARIANTS, images, randomised
from safetensors.torch import save_file

import zoo
from zoo.hub.bounds import Sizes
from zoo.slots import Slot, dump_slots, parse_slot
from zoo.storage.files import staging


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
    with pytest.warns(UserWarning, match="the file has 10 classes and the model 4"):
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
    with pytest.raises(ValueError, match="no repository on the Hub; write owner/name"):
        zoo.create_model("hf-hub:me/my/model")


def test_an_exception_while_writing_leaves_the_old_model(saved, monkeypatch):
    old, folder = saved
    monkeypatch.setattr("zoo.hub.save.save_file", lambda *a, **k: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        zoo.save_pretrained(zoo.create_model("mixer_test"), folder)
    assert sorted(p.name for p in folder.iterdir()) == ["config.json", "model.safetensors"]
    x = images(old)
    assert torch.equal(zoo.create_model(f"local-dir:{folder}").eval()(x), old(x))


# --- What is refused, and what is converted ---------------------------------------------------------------------------


class Double(torch.nn.Module):
    def __init__(self, dim, *, device=None, dtype=None):
        super().__init__()
        self.fc = torch.nn.Linear(dim, dim, device=device, dtype=dtype)

    def forward(self, x):
        return self.fc(x)


MOE = {"name": "moe", "num_experts": 2}
KAN = {"name": "rbf_kan"}


@pytest.mark.parametrize(
    "slot, words",
    [
        (Double, "channel_mixer was given as .*Double.*zoo.register_block"),
        ({**MOE, "experts": Double}, r"channel_mixer moe: experts is <class .*Double.*zoo.register_block"),
        ({**MOE, "experts": [Double, "mlp"]}, "channel_mixer moe: experts is .*zoo.register_block"),
        ({**MOE, "shared": functools.partial(Double)}, "channel_mixer moe: shared is .*zoo.register_block"),
        ({**MOE, "experts": [Slot(None, factory=Double)]}, "channel_mixer moe: experts is .*zoo.register_block"),
        ({"at": {1: {**MOE, "experts": Double}}}, "channel_mixer moe: experts is .*Double"),
    ],
)
def test_a_slot_that_no_file_can_hold_is_refused_before_anything_is_touched(saved, slot, words, tmp_path):
    old, folder = saved
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    model = zoo.create_model("vit_test", channel_mixer=slot)
    for place in (folder, tmp_path / "new"):
        with pytest.raises(ValueError, match=words):
            zoo.save_pretrained(model, place)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("value", [np.array([-1.0, 1.0]), torch.tensor([-1.0, 1.0]), (0.0, float("nan")), float("inf")])
def test_what_is_no_number_is_refused_before_a_model_could_be_saved_with_it(value):
    with pytest.raises((TypeError, ValueError), match=r"channel_mixer rbf_kan: grid_range(\[1\])? is .*it must be"):
        zoo.create_model("vit_test", channel_mixer={"name": "rbf_kan", "grid_range": value})


INF = float("inf")


@pytest.mark.parametrize(
    "slot, text",
    [
        ({**MOE, "router": Slot("top_k")}, "moe(num_experts=2, router='top_k')"),
        ({**MOE, "router": Slot("top_k", {"noise": 1})}, "moe(num_experts=2, router='top_k(noise=1)')"),
        ({**MOE, "experts": [Slot("mlp", {"ratio": 2}), "mlp"]}, "moe(num_experts=2, experts=['mlp(ratio=2)', 'mlp'])"),
        ({**KAN, "width": np.float32(0.5)}, "rbf_kan(width=0.5)"),
        ({**KAN, "grid_range": (-1, np.float64(0.5))}, "rbf_kan(grid_range=(-1, 0.5))"),
        ({**KAN, "grid_range": (np.float32(-0.1), 1)}, "rbf_kan(grid_range=(-0.10000000149011612, 1))"),
    ],
)
def test_a_value_with_an_equal_literal_is_saved_as_that(slot, text, tmp_path):
    model = randomised(zoo.create_model("vit_test", channel_mixer=slot))
    zoo.save_pretrained(model, tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["model_args"]["channel_mixer"] == text
    again, x = zoo.create_model(f"local-dir:{tmp_path}").eval(), images(model)
    assert torch.equal(again(x), model(x)) or not model(x).isfinite().all()
    assert str(again.config["channel_mixer"][0]) == str(model.config["channel_mixer"][0]) == text


@pytest.mark.parametrize(
    "value", [1, -0.5, INF, -INF, True, None, "it's", b"x", (), (1,), [1, (2.5, INF)], {"a": [None]}]
)
def test_options_are_read_back_equal(value):
    slot = Slot("any", {"option": value, "nested": {"of": [value, (value,)]}})
    assert parse_slot(dump_slots([slot])) == slot
    other = Slot("any", {"option": [value, np.int64(3)], "part": Slot("any", {"option": value})})
    found = parse_slot(dump_slots([other])).options
    assert found["option"] == [value, 3] and parse_slot(found["part"]) == Slot("any", {"option": value})


@pytest.mark.parametrize("slot", [Slot("my-mixer"), Slot("mlp", {"class": 1}), Slot("a b"), Slot("mlp", {"a-b": 1})])
def test_names_that_cannot_be_read_back_are_refused(slot):
    with pytest.raises(ValueError, match="channel_mixer .* cannot be read back .* must be identifiers"):
        dump_slots([slot], "channel_mixer")


@pytest.mark.parametrize("value, share", [(np.float64(0.25), np.float64(0.5)), (np.int64(0), np.int64(1)), (0.25, 0.5)])
def test_arguments_and_configurations_are_json(value, share, tmp_path):
    """Of a model whose arguments were changed by hand: what JSON can hold is saved as that, the rest is refused."""
    model = zoo.create_model("vit_test")
    model.config["drop_rate"] = value
    model.pretrained_cfg["crop_pct"] = share
    zoo.save_pretrained(model, tmp_path)
    again = zoo.create_model(f"local-dir:{tmp_path}")
    assert again.config["drop_rate"] == value and again.pretrained_cfg["crop_pct"] == share


@pytest.mark.parametrize("value", [INF, torch.tensor(0.5), np.zeros(2), {1: 2}, object(), torch.float32])
@pytest.mark.parametrize("where", ["config", "pretrained_cfg"])
def test_what_json_cannot_hold_is_refused(value, where, saved):
    model, folder = saved
    getattr(model, where)["crop_pct" if where == "pretrained_cfg" else "drop_rate"] = value
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(ValueError, match=r"(crop_pct|drop_rate) is .* config.json cannot hold; give finite numbers"):
        zoo.save_pretrained(model, folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def exchange_head(model):
    model.head = torch.nn.Linear(32, 3)


def wrap_block(model):
    model.blocks[1] = torch.nn.Sequential(model.blocks[1])


class Quantised(torch.Tensor):
    pass


def quantise(model):
    model.head.weight = torch.nn.Parameter(torch.zeros(10, 32).as_subclass(Quantised))


def remove_norm(model):
    model.norm = torch.nn.Identity()


@pytest.mark.parametrize(
    "change, words",
    [
        (exchange_head, r"head.weight is \(3, 32\) and was \(10, 32\).*reset_classifier"),
        (wrap_block, r"blocks.1.0.norm1.weight is \(32,\) and was not there"),
        (quantise, r"head.weight is a Quantised; quantised and distributed models are saved by what made them so"),
        (remove_norm, r"norm.weight is gone and was \(32,\)"),
        (lambda model: setattr(model, "head", torch.compile(model.head)), "head._orig_mod.weight is .* was not there"),
        (lambda model: model.config.update(dim=64), r"stem.proj.weight is \(32, .* and was \(64, "),
        (lambda model: model.config.update(depth=9), "vit_test cannot be saved: .*blocks.*is gone"),
        (lambda model: model.config.update(drop_rate=2.0), "its arguments do not build it again .*drop_rate is 2.0"),
    ],
)
def test_a_model_that_its_arguments_no_longer_build_is_refused(change, words, saved, tmp_path):
    model, _ = saved
    change(model)
    with pytest.raises(ValueError, match=words):
        zoo.save_pretrained(model, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_saving_draws_no_random_number(saved):
    before = torch.get_rng_state()
    zoo.save_pretrained(*saved)
    assert torch.equal(torch.get_rng_state(), before)


# --- What else lies in the folder -------------------------------------------------------------------------------------


def test_files_that_zoo_did_not_write_stay(saved):
    model, folder = saved
    mine = [
        "model_best.safetensors",
        "model_ema.safetensors",
        "model-00001-of-00002.safetensors",
        "modelling.safetensors",
    ]
    mine += ["model-00004000.safetensors", ".model.safetensors.tmp", ".notes.abcdefgh.tmp", "config.yaml"]
    for name in mine:
        (folder / name).write_bytes(b"precious")
    copied = folder / "model-0000beef.safetensors"  # of zoo's own, under a name like zoo's own
    shutil.copy(folder / "model.safetensors", copied)
    for _ in range(3):
        zoo.save_pretrained(model, folder)
    assert all((folder / name).read_bytes() == b"precious" for name in mine) and copied.exists()
    current = json.loads((folder / "config.json").read_text())["weights"]
    assert {path.name for path in folder.iterdir()} == {*mine, copied.name, current, "config.json"}


def test_weights_of_somebody_else_are_not_overwritten(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"precious")
    model = randomised(zoo.create_model("mixer_test"))
    zoo.save_pretrained(model, tmp_path)
    zoo.save_pretrained(model, tmp_path)
    x = images(model)
    assert (tmp_path / "model.safetensors").read_bytes() == b"precious" and len(list(tmp_path.iterdir())) == 3
    assert torch.equal(zoo.create_model(f"local-dir:{tmp_path}").eval()(x), model(x))


def test_a_configuration_of_somebody_else_is_not_overwritten(tmp_path):
    text = '{"architecture": "vit_tiny_patch16_224", "num_classes": 10}'  # as timm writes it
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(FileExistsError, match="config.json was not written by zoo .* choose another folder"):
        zoo.save_pretrained(zoo.create_model("mixer_test"), tmp_path)
    assert [path.read_text() for path in tmp_path.iterdir()] == [text]


def test_a_damaged_configuration_is_put_right(saved):
    model, folder = saved
    (folder / "config.json").write_text('{"zoo_ver')
    zoo.save_pretrained(model, folder)
    x = images(model)
    assert torch.equal(zoo.create_model(f"local-dir:{folder}").eval()(x), model(x)) and len(list(folder.iterdir())) == 2


def test_a_configuration_with_comments_is_somebody_elses(tmp_path):
    text = b'// my settings\n{"lr": 0.1}'
    for content in (text, b"lr: 0.1", b"\xff\xfe{"):
        (tmp_path / "config.json").write_bytes(content)
        for name in ("", "model.safetensors"):  # weights that were not saved so do not make it zoo's
            if name:
                save_file({"a": torch.ones(1)}, tmp_path / name)
            with pytest.raises(FileExistsError, match="config.json was not written by zoo"):
                zoo.save_pretrained(zoo.create_model("mixer_test"), tmp_path)
        assert (tmp_path / "config.json").read_bytes() == content
        (tmp_path / "model.safetensors").unlink()
    (tmp_path / "config.json").write_bytes(b"")
    zoo.save_pretrained(zoo.create_model("mixer_test"), tmp_path)
    assert zoo.create_model(f"local-dir:{tmp_path}").num_classes == 10


@pytest.mark.parametrize("weights", ["mine.safetensors", "../model.safetensors", 3])
def test_a_configuration_that_names_other_files_has_them_deleted_by_nobody(weights, saved):
    model, folder = saved
    for path in (folder / "mine.safetensors", folder.parent / "model.safetensors"):
        path.write_bytes(b"precious")
    edit(folder, lambda c: c.update(weights=weights))
    zoo.save_pretrained(model, folder)
    assert (folder / "mine.safetensors").exists() and (folder.parent / "model.safetensors").exists()


def test_nothing_is_taken_for_a_leftover_while_its_process_lives(saved):
    model, folder = saved
    with staging(folder) as stage:
        (stage / "model.safetensors").write_bytes(b"half of it")
        shutil.copytree(stage, folder / ".zoo-0123abcd.tmp")  # as of a process that was killed: nobody holds its lock
        zoo.save_pretrained(model, folder)
        assert {path for path in folder.iterdir() if path.is_dir()} == {stage}
    assert len(list(folder.iterdir())) == 2


# --- Versions ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "version, newer",
    [("99.1", True), ("0.1.1", True), ("0.1.0", False), ("0.1", False), ("0.0.9", False), ("?", False)],
)
@pytest.mark.parametrize(
    "change", [dict(family_rules=1), dict(architecture="vit2_test"), dict(weights="x.safetensors")]
)
def test_a_folder_of_a_newer_zoo_says_so_if_it_cannot_be_opened(saved, version, newer, change, monkeypatch):
    model, folder = saved
    monkeypatch.setattr("zoo.version.__version__", "0.1.0")
    edit(folder, lambda c: c.update(zoo_version=version))
    zoo.create_model(f"local-dir:{folder}")  # in silence, if it can be
    edit(folder, lambda c: c.update(change))
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        zoo.create_model(f"local-dir:{folder}")
    told = f"saved by zoo {version}, which is newer than this zoo 0.1.0: update zoo"
    assert (told in str(error.value)) is newer


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


def test_names_of_classes_are_the_models_or_left_out(tmp_path):
    model = zoo.create_model("vit_test", num_classes=2)
    model.pretrained_cfg["label_names"] = ["cat", "dog"]
    zoo.save_pretrained(model, tmp_path / "two")
    three = zoo.create_model(f"local-dir:{tmp_path / 'two'}", num_classes=3)
    with pytest.warns(UserWarning, match="label_names has 2 names and the model 3 classes: they are not saved"):
        zoo.save_pretrained(three, tmp_path / "three")
    opened = [zoo.create_model(f"local-dir:{tmp_path / n}").pretrained_cfg.get("label_names") for n in ("two", "three")]
    assert opened == [["cat", "dog"], None]


@pytest.mark.parametrize("name", TINY_VARIANTS)
def test_what_is_built_to_be_compared_draws_no_random_numbers(name):
    """Saving and opening build on meta; if that drew numbers, those of other threads would be others or come twice."""
    before = torch.get_rng_state()
    with Sizes():
        zoo.create_model(name, device="meta")
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("kind", ["token_mixer", "channel_mixer", "stem", "norm", "router", "experts"])
def test_no_block_on_meta_draws_random_numbers(kind):
    before = torch.get_rng_state()
    for name in zoo.list_blocks(kind):
        moe = kind in ("router", "experts")
        slot = {"channel_mixer": {"name": "moe", kind: name}} if moe else {kind: name}
        with contextlib.suppress(ValueError), Sizes():  # not every block fits
            zoo.create_model("mixer_test", device="meta", **slot)
        assert torch.equal(torch.get_rng_state(), before), name
