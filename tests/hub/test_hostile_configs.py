"""A config.json is input: what asks for too much, contradicts itself or is none is refused by file and key."""

import json
import os
import random
import resource
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from conftest import FULL_VARIANTS, randomised

import zoo
from zoo.build import Variant, assemble
from zoo.build.arguments import check_arguments
from zoo.checks import check_type
from zoo.checks.ranges import Classes, lifted
from zoo.hub.bounds import Metered, check_size
from zoo.hub.config import BYTES, naming, read_config, read_json
from zoo.registry import family_of
from zoo.registry.cfgs import classes_of, resolve_cfg


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    for name in ("vit_test", "swin_test", "kan_test", "hourglass_test"):
        zoo.save_pretrained(zoo.create_model(name), root / name)
    return {folder.name: ((folder / "config.json").read_text(), folder) for folder in root.iterdir()}


@pytest.fixture
def case(folders):
    """Opens a folder whose config.json is another text, or has other arguments; gives what is said of it."""

    def opened(text=None, name="vit_test", *, model_args=None, pretrained_cfg=None, **kwargs) -> str:
        original, folder = folders[name]
        if text is None:
            config = json.loads(original)
            config["zoo"]["model_args"] |= model_args or {}
            config["pretrained_cfg"] |= pretrained_cfg or {}
            text = json.dumps(config)
        path = folder / "config.json"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        try:
            with pytest.raises((ValueError, TypeError, FileNotFoundError)) as error:
                zoo.create_model(f"local-dir:{folder}", **kwargs)
        finally:
            path.write_text(original)
        told = str(error.value)
        assert type(error.value) in (ValueError, TypeError, FileNotFoundError)
        assert str(path) in told and len(told) < 2000 and told.isprintable(), told
        return told

    return opened


# --- Sizes ------------------------------------------------------------------------------------------------------------

BASE = {"class_token": False, "global_pool": "avg"}
HUGE = [
    ("vit_test", {"num_classes": 20_000_000}, "num_classes"),
    ("vit_test", {"num_classes": 900_000}, "num_classes"),
    ("vit_test", {"dim": 4096}, "dim"),
    ("vit_test", {"dim": 65_536}, "dim"),
    ("vit_test", {"dim": 10**19}, "dim"),
    ("vit_test", {"depth": 1000}, "depth"),
    ("vit_test", {"depth": 10**9}, "depth"),
    ("vit_test", {"in_chans": 60_000}, "in_chans"),
    ("vit_test", {"img_size": [4096, 4096]}, "img_size"),
    ("vit_test", {"channel_mixer": "mlp(ratio=1000)"}, "channel_mixer"),
    ("vit_test", {"channel_mixer": "mlp(hidden=10000000)"}, "hidden"),
    ("vit_test", {"channel_mixer": "moe(num_experts=4000)"}, "channel_mixer"),
    ("vit_test", {"channel_mixer": "moe(num_experts=20000)"}, "channel_mixer"),
    ("vit_test", {"channel_mixer": {"name": "moe", "num_experts": 10**7}}, "num_experts"),
    ("vit_test", {"channel_mixer": ["mlp", "moe(experts='mlp(hidden=100000000)', num_experts=4)", "mlp"]}, "hidden"),
    ("vit_test", {"channel_mixer": "moe(router='gumbel(samples=60000)', num_experts=4096)"}, "channel_mixer"),
    ("vit_test", {"channel_mixer": "spline_kan(order=100000)"}, "order"),
    ("vit_test", {"channel_mixer": "spline_kan(grid_size=60000)"}, "channel_mixer"),
    ("vit_test", {"channel_mixer": "chebyshev_kan(degree=10000)"}, "degree"),
    ("vit_test", {"token_mixer": "large_kernel(kernel_size=2001)", **BASE}, "kernel_size"),
    ("vit_test", {"token_mixer": "large_kernel(kernel_size=1001)", **BASE}, "token_mixer"),
    ("vit_test", {"stem": "lift", "img_size": [1024, 2048], **BASE}, ""),
    ("vit_test", {"channel_mixer": {"name": "mlp", "every": {"2": "moe(num_experts=1000000)"}}}, "num_experts"),
    ("swin_test", {"img_size": [16384, 16384]}, "img_size"),
    ("swin_test", {"img_size": [4096, 4096]}, "img_size"),
    ("swin_test", {"token_mixer": "window(window_size=1024)", "img_size": [4096, 4096]}, ""),
    ("swin_test", {"depths": [500, 500, 500]}, "depths"),
    ("swin_test", {"depths": [400, 500]}, "depths"),
    ("kan_test", {"hidden": [1] * 100_000}, "hidden"),
    ("kan_test", {"hidden": [1] * 900}, "hidden"),
    ("kan_test", {"hidden": [60_000] * 900}, "hidden"),
    ("kan_test", {"layer": "spline(grid_size=1000000)"}, "grid_size"),
    ("hourglass_test", {"img_size": [4000, 4000]}, "img_size"),
]


@pytest.mark.parametrize("name, arguments, key", HUGE)
def test_what_is_asked_for_beyond_the_weights_is_refused_before_it_is_made(name, arguments, key, case):
    case("{}")  # whatever is imported late
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    told = case(name=name, model_args=arguments)
    assert key in told
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300 * 1024  # KB
    assert time.process_time() - start < 10


def test_without_weights_there_are_bounds_too(case, folders, tmp_path):
    for arguments in ({"depth": 10**6}, {"dim": 40_000, "depth": 900}, {"num_classes": 500_000}):
        case(model_args=arguments, pretrained=False)
    config = json.loads(folders["vit_test"][0])
    config["zoo"]["model_args"] |= {"dim": 32_768, "depth": 24}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="config.json: .*without its weights may have"):
        zoo.create_model(f"local-dir:{tmp_path}", pretrained=False)


LIFTED = [
    ("vit_test", dict(depth=1100, dim=4, token_mixer="pool", channel_mixer=None, norm="none", **BASE)),
    ("vit_test", dict(img_size=[8192, 4096], patch_size=[4096, 4096], dim=4, in_chans=1, **BASE)),
    ("vit_test", dict(channel_mixer="mlp(ratio=2000)", dim=4, token_mixer="attention(heads=2)")),
    ("kan_digits", dict(hidden=[1] * 70)),
    ("swin_test", dict(depths=[600, 600], dims=[4, 4], token_mixer="pool", channel_mixer=None, norm="none")),
]


@pytest.mark.parametrize("name, arguments", LIFTED)
def test_a_keyword_lifts_the_bounds(name, arguments, tmp_path):
    with pytest.raises(ValueError, match="bounded=False"):
        zoo.create_model(name, **arguments)
    model = randomised(zoo.create_model(name, bounded=False, **arguments))
    with pytest.warns(UserWarning, match="needs bounded=False to be opened"):
        zoo.save_pretrained(model, tmp_path)
    with pytest.raises(ValueError, match="config.json: .*bounded=False"):
        zoo.create_model(f"local-dir:{tmp_path}")
    again = zoo.create_model(f"local-dir:{tmp_path}", bounded=False)
    assert torch.equal(again.head.weight, model.head.weight)


def test_lower_ends_and_other_threads_are_not_lifted():
    for wrong in (dict(depth=0), dict(drop_rate=2.0), dict(dim=-1)):
        with pytest.raises(ValueError, match="it must be"):
            zoo.create_model("vit_test", bounded=False, **wrong)
    with pytest.raises(TypeError, match="bounded is 'no'"):
        zoo.create_model("vit_test", bounded="no")
    with lifted(), ThreadPoolExecutor(1) as others:
        refused = others.submit(zoo.create_model, "vit_test", depth=2000).exception()
    assert isinstance(refused, ValueError) and "from 1 to 1024" in str(refused)


SAVED = [
    ("kan_digits", dict(hidden=[70_000], layer="none")),
    pytest.param(
        "vit_test",
        dict(depth=1024, dim=4, token_mixer="attention(heads=2)", channel_mixer=None),
        marks=pytest.mark.slow,
    ),
    ("vit_test", dict(depth=1024, dim=4, token_mixer="pool", channel_mixer=None, norm="none", **BASE)),
    ("vit_test", dict(num_classes=1_100_000, dim=4, depth=1, token_mixer="attention(heads=2)")),
    ("vit_test", dict(channel_mixer="moe(num_experts=5000)", dim=4, depth=1, token_mixer="attention(heads=2)")),
    ("vit_test", dict(channel_mixer="mlp(hidden=70000)", depth=1)),
    ("vit_test", dict(img_size=4096, patch_size=2048, dim=4, in_chans=1, token_mixer="attention(heads=2)")),
]


@pytest.mark.parametrize("name, arguments", SAVED)
def test_what_is_built_and_saved_without_a_word_is_opened(name, arguments, tmp_path, recwarn):
    model = zoo.create_model(name, **arguments)
    zoo.save_pretrained(model, tmp_path)
    assert not recwarn.list
    assert torch.equal(zoo.create_model(f"local-dir:{tmp_path}").head.weight, model.head.weight)


def test_a_value_of_the_models_own_configuration_is_reported_of_the_model(tmp_path):
    model = zoo.create_model("vit_test")
    model.pretrained_cfg["std"] = (0.5, 0.0, 0.5)
    with pytest.raises(ValueError, match=r"^vit_test cannot be saved: pretrained_cfg: std\[1\] is 0.0; it must be"):
        zoo.save_pretrained(model, tmp_path / "new")
    assert not list(tmp_path.iterdir())


def test_a_mistake_of_zoo_is_not_said_to_be_the_files(tmp_path):
    for kind in (AttributeError, NameError, KeyError, IndexError, AssertionError):
        with pytest.raises(kind, match="^'?mine'?$"), naming(tmp_path, any_error=True):
            raise kind("mine")
    for kind in (RuntimeError, MemoryError, OverflowError, ZeroDivisionError, RecursionError):
        said = pytest.raises(ValueError, match=f"no model can be built of it .{kind.__name__}: theirs")
        with said, naming(tmp_path, any_error=True):
            raise kind("theirs")


def test_a_users_own_arguments_are_not_bounded(folders):
    _, folder = folders["vit_test"]
    with pytest.warns(UserWarning, match="starts anew"):
        assert zoo.create_model(f"local-dir:{folder}", num_classes=1_200_000).num_classes == 1_200_000
    assert len(zoo.create_model(f"local-dir:{folder}", pretrained=False, depth=7).blocks) == 7


def test_every_published_variant_is_within_the_bounds():
    for name in FULL_VARIANTS:
        family = family_of(name)
        check_arguments(family.model, family.arguments(name), name)
        check_type(name, max(classes_of(name)), Classes)


def metered(name: str) -> torch.nn.Module:
    """A variant on meta, with no more calls than the number of its weights allows; and with the size of these."""
    shapes = len(zoo.create_model(name, device="meta").state_dict())
    with torch.random.fork_rng(devices=[]), Metered(shapes):
        family = family_of(name)
        variant = Variant(name, family, family.arguments(name), resolve_cfg(name))
        return assemble(variant, {"device": "meta"})


LARGEST = ["vmoe_h14_every2_224", "swinv2_base_window12to24_192to384", "hourglass_mlp_base", "unireplknet_s"]


@pytest.mark.parametrize("name", LARGEST)
def test_the_largest_models_are_let_through(name):
    check_size(metered(name), None)


@pytest.mark.slow
@pytest.mark.parametrize("name", FULL_VARIANTS)
def test_every_model_is_let_through(name):
    check_size(metered(name), None)


# --- JSON -------------------------------------------------------------------------------------------------------------


def test_texts_that_are_no_configuration(case, folders):
    text = folders["vit_test"][0]
    for wrong, words in {
        "[" * 5000 + "]" * 5000: "nested too deep",
        "[" * 200_000: "nested too deep",
        '{"a":' * 40 + "1" + "}" * 40: "nested too deep; 32 levels",
        text.replace('"depth": 3', '"depth": ' + "9" * 5000): "model_args: depth is a whole number of 5000 digits",
        text.replace('"depth": 3', '"depth": -' + "9" * 30): "model_args: depth is a whole number of 30 digits",
        text.replace('"depth": 3', '"depth": 1e999'): "model_args: depth is 1e999; it must be a finite number",
        text.replace('"depth": 3', '"depth": -Infinity'): "model_args: depth is -Infinity",
        text.replace('"depth": 3', '"depth": 99, "depth": 3'): "the key 'depth' is given twice",
        text.replace('"weights"', '"version": "1", "weights"'): "the key 'version' is given twice",
        "\ufeff" + text: "BOM",
        text.encode("utf-16"): "is not valid JSON",
        text.encode() + b"\xff": "is not valid JSON",
        "": "is not valid JSON",
        "{": "is not valid JSON",
        " " * BYTES + text: f"more than {BYTES} bytes",
        "3": "holds a int",
        "null": "holds a NoneType",
    }.items():
        assert words in case(wrong), wrong[:100]


@pytest.mark.parametrize("what", ["a folder", "a fifo", "a closed one", "a link to itself"])
def test_a_configuration_that_is_no_file(what, folders, tmp_path):
    path = tmp_path / "config.json"
    if what == "a folder":
        path.mkdir()
    elif what == "a fifo":
        os.mkfifo(path)
    elif what == "a closed one":
        path.write_text("{}")
        path.chmod(0)
        if os.access(path, os.R_OK):
            pytest.skip("whoever runs this may read everything")
    else:
        path.symlink_to(path)
    for function in (read_json, read_config, lambda path: zoo.create_model(f"local-dir:{path.parent}")):
        with pytest.raises((ValueError, FileNotFoundError), match="config.json"):
            function(path)


def test_a_folder_with_any_name_is_told():
    for name in ("x" * 5000, "a\0b", "a\x1b[31m", "."):
        with pytest.raises((ValueError, FileNotFoundError)) as error:
            zoo.create_model(f"local-dir:{name}")
        assert len(str(error.value)) < 2000 and str(error.value).isprintable()


# --- Values -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "key, value",
    {
        "input_size": [],
        "mean": "x",
        "std": [0, 0, 0],
        "crop_pct": 0,
        "interpolation": "cubical",
        "crop_mode": 3,
        "label_names": 3,
        "num_classes": -1,
        "test_input_size": [3, 0, 224],
        "min_input_size": [[3], 4, 4],
        "pool_size": ["a"],
        "first_conv": 7,
        "classifier": {"a": 1},
        "license": ["mit"],
        "fixed_input_size": "yes",
        "label_descriptions": [1],
        "url": 5,
        "hf_hub_id": 5,
        "custom_load": 1.5,
        "mea\x1b[31mn": 1,
    }.items(),
)
def test_values_of_a_pretrained_configuration(key, value, case):
    told = case(pretrained_cfg={key: value})
    assert "pretrained_cfg" in told and key.split("\x1b")[0] in told
    overlay = {key: value}
    with pytest.raises((ValueError, TypeError), match="pretrained_cfg_overlay"):
        zoo.create_model("vit_test", pretrained_cfg_overlay=overlay)
    with pytest.raises((ValueError, TypeError), match="pretrained_cfg"):
        zoo.create_model("vit_test", pretrained_cfg=overlay)


def test_values_that_contradict_each_other(case):
    assert "num_classes is 10, and pretrained_cfg: num_classes is 7" in case(pretrained_cfg={"num_classes": 7})
    assert "mean has 1 numbers and std 3" in case(pretrained_cfg={"mean": [0.5]})
    assert "label_names has 2 names" in case(pretrained_cfg={"label_names": ["a", "b"]})
    assert "input_size must be (channels, height, width)" in case(pretrained_cfg={"input_size": [3]})
    assert "input_size has 2 numbers" in case(pretrained_cfg={"input_size": [3, 32]})


def test_a_model_of_other_classes_than_its_configuration_is_saved_and_opened(tmp_path):
    """What was saved says the classes of the model, whatever the variant's own and a user's configuration may say."""
    zoo.save_pretrained(zoo.create_model("vit_test", num_classes=3), tmp_path)
    assert read_config(tmp_path / "config.json")["pretrained_cfg"]["num_classes"] == 3
    assert zoo.create_model(f"local-dir:{tmp_path}").num_classes == 3
    zoo.save_pretrained(
        zoo.create_model("vit_test", num_classes=3, pretrained_cfg_overlay={"num_classes": 5}), tmp_path
    )
    assert zoo.create_model(f"local-dir:{tmp_path}").num_classes == 3


@pytest.mark.parametrize(
    "key, value",
    {
        "device": "cuda:7",
        "dtype": "x",
        "depth": 0,
        "drop_rate": 2.0,
        "global_pool": "nonsense",
        "head": "x" * 10**6,
        "layer_scale": 10**19,
        "token_std": -1.0,
        "act": 3,
        "norm": {},
        "stem": None,
        "channel_mixer": [],
        "token_mixer": {"at": {"99": "pool"}},
        "img_size": [30, 30],
        "patch_size": 5,
        "final_norm": 7,
        "a\x1b[2J": 1,
    }.items(),
)
def test_arguments_are_refused_by_name(key, value, case):
    assert key.split("\x1b")[0] in case(model_args={key: value})


def test_missing_arguments_are_listed(case, folders):
    config = json.loads(folders["vit_test"][0])
    assert "needs dim, depth, token_mixer, channel_mixer" in case(
        json.dumps(config | {"zoo": {**config["zoo"], "model_args": {}}})
    )
    del config["zoo"]["model_args"]["depth"]
    assert "vit_test needs depth" in case(json.dumps(config))


def test_names_of_weights(case, folders):
    config = json.loads(folders["vit_test"][0])
    for name in ("a" * 300 + ".safetensors", "../a.safetensors", "a.pth", "", "ä.safetensors", "a\n.safetensors"):
        assert "weights is" in case(json.dumps(config | {"zoo": {**config["zoo"], "weights": name}}))


def test_weights_that_are_missing_or_damaged_are_told(folders):
    _, folder = folders["swin_test"]
    path = folder / "model.safetensors"
    data = path.read_bytes()
    path.write_bytes(data[:200])
    with pytest.raises(ValueError, match="model.safetensors is not a whole safetensors file"):
        zoo.create_model(f"local-dir:{folder}")
    path.unlink()
    with pytest.raises(FileNotFoundError, match="there is no weight file .*model.safetensors"):
        zoo.create_model(f"local-dir:{folder}")
    assert zoo.create_model(f"local-dir:{folder}", pretrained=False).num_classes == 10
    path.write_bytes(data)


OUT_OF_RANGE = [0, -1, 1, 2**40, 0.5, -1e300, True, None, "", "x", "mlp(", [], [1], {}, {"name": "mlp"}, [[]], "\ud800"]


@pytest.mark.parametrize("name", ["vit_test", "swin_test", "kan_test"])
def test_any_value_in_place_of_any_other_is_taken_or_refused(name, folders):
    """Values of every kind in every place, by a fixed seed: a model, or an error that names the file."""
    text, folder = folders[name]
    draw, path = random.Random(0), folder / "config.json"
    for _ in range(60):
        config = json.loads(text)
        for _ in range(draw.choice([1, 1, 2])):
            part = draw.choice([config["zoo"]["model_args"]] * 2 + [config["pretrained_cfg"]])
            part[draw.choice(list(part))] = draw.choice(OUT_OF_RANGE)
        path.write_text(json.dumps(config))
        try:
            zoo.create_model(f"local-dir:{folder}")
        except (ValueError, TypeError, FileNotFoundError) as error:
            told = str(error)
            assert "config.json" in told and len(told) < 2000 and told.isprintable(), told
    path.write_text(text)


def test_a_configuration_of_100_mb_is_not_read(tmp_path):
    path = tmp_path / "config.json"
    with open(path, "wb") as file:
        file.write(b"[")
        file.truncate(100 * 2**20)
    tracemalloc.start()
    with pytest.raises(ValueError, match=f"config.json has more than {BYTES} bytes"):
        read_json(path)
    assert tracemalloc.get_traced_memory()[1] < 3 * BYTES
    tracemalloc.stop()
