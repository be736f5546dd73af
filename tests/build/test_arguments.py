"""What a user gives and gets: None, arguments that nothing takes, and that nothing is shared between models."""

import copy
import dataclasses
import json
import re

import pytest
import torch
from conftest import TEST_VARIANTS, TINY_VARIANTS

import zoo
from zoo.checks import allows_none, hints_of
from zoo.family import Counted, Published
from zoo.registry import ModelInfo, families, family_of
from zoo.skeletons.hierarchical import Hierarchical
from zoo.slots import Slot


def hierarchical(name: str) -> bool:
    return issubclass(family_of(name).model, Hierarchical)


# --- Nothing is shared ------------------------------------------------------------------------------------------------


def spoil(value, seen: set) -> None:
    """Change every mapping, list and set that can be reached from a value, at any depth."""
    if id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, dict):
        for entry in list(value.values()):
            spoil(entry, seen)
        value.clear()
        value["spoilt"] = True
    elif isinstance(value, list):
        for entry in value:
            spoil(entry, seen)
        value[:] = ["spoilt"]
    elif isinstance(value, tuple):
        for entry in value:
            spoil(entry, seen)
    elif isinstance(value, Slot):
        spoil(value.options, seen)
    elif isinstance(value, (ModelInfo, Published, Counted)):
        for field in dataclasses.fields(value):
            spoil(getattr(value, field.name), seen)


def told(model: torch.nn.Module) -> str:
    return repr((model.config, model.pretrained_cfg, [(n, tuple(p.shape)) for n, p in model.named_parameters()]))


@pytest.mark.parametrize("name", families())
def test_what_a_user_got_changes_no_later_model(name):
    family = families()[name]
    for arch in dict.fromkeys((next(iter(family.variants)), [n for n in family.variants if n.endswith("_test")][-1])):
        tags = [n for n, row in family.published.items() if n.split(".")[0] == arch and "." in n and row.weights]
        named = tags[0] if tags else arch
        model, info = zoo.create_model(named, device="meta"), zoo.model_info(named)
        before = told(model), repr(info)
        seen = set()
        for part in (info, model.config, model.pretrained_cfg, getattr(model, "feature_info", None)):
            spoil(part, seen)
        assert "spoilt" in repr(model.config)
        assert (told(zoo.create_model(named, device="meta")), repr(zoo.model_info(named))) == before


def test_blocks_and_what_was_given_share_no_slot():
    given = {"name": "moe", "num_experts": 4, "router": {"name": "top_k", "losses": ["balance"]}}
    again = copy.deepcopy(given)
    model = zoo.create_model("vit_test", channel_mixer=given, token_mixer={"every": {2: "pool"}})
    slots = model.config["channel_mixer"]
    assert slots[0] == slots[1] and slots[0] is not slots[1]
    spoil(slots[0], set())
    assert given == again and slots[1].options["router"] == again["router"] and slots[1] == slots[2]
    spoil(given, set())
    assert slots[1].options["router"] == again["router"]
    slots = zoo.create_model("swin_test", device="meta").config["token_mixer"]
    assert len({id(slot.options) for slot in slots}) == len(slots)


# --- None, and what nothing takes -------------------------------------------------------------------------------------


def none_of(cls: type) -> list[str]:
    """Arguments of a skeleton whose annotation has room for None, other than slots."""
    return [k for k, hint in hints_of(cls).items() if allows_none(hint) and k not in cls.slots and k != "return"]


def has_shortcuts(name: str) -> bool:
    return family_of(name).arguments(name).get("form") != "plain"


CAN_BE_NONE = [
    (name, key)
    for name in TINY_VARIANTS
    for key in none_of(family_of(name).model)
    if key != "res_scale" or has_shortcuts(name)
]


def test_there_are_arguments_that_can_be_none():
    assert {key for _, key in CAN_BE_NONE} >= {"layer_scale", "res_scale", "bias"}


@pytest.mark.parametrize("name, key", CAN_BE_NONE)
def test_none_is_a_value_where_it_can_be_one(name, key, tmp_path):
    """Given beside a name and beside a folder, and read from a folder."""
    value = True if key == "bias" else 0.5
    part = {"layer_scale": r"\.scale\d\.gamma$", "res_scale": r"\.res_scale\d\.gamma$"}.get(key)
    has = lambda model: any(re.search(part, n) for n, _ in model.named_parameters())
    model, other = zoo.create_model(name, **{key: None}), zoo.create_model(name, **{key: value})
    assert model.config[key] is None and other.config[key] == value
    if part:
        assert has(other) and not has(model)
    zoo.save_pretrained(other, tmp_path)
    assert zoo.create_model(f"local-dir:{tmp_path}").config[key] == value
    back = zoo.create_model(f"local-dir:{tmp_path}", False, **{key: None})
    assert back.config[key] is None
    zoo.save_pretrained(back, tmp_path)
    assert zoo.create_model(f"local-dir:{tmp_path}").config[key] is None


@pytest.mark.parametrize("name", TEST_VARIANTS)
def test_none_is_not_given_where_it_cannot_be_a_value(name):
    """What timm's scripts pass for what their command line leaves open, and the zeros of its dropouts."""
    open_ = dict(num_classes=None, in_chans=None, global_pool=None, img_size=None, drop_path_rate=None, device=None)
    timms = dict(bn_momentum=None, bn_eps=None, drop_block_rate=None, features_only=None, drop_rate=0.0)
    assert told(zoo.create_model(name, **open_, **timms)) == told(zoo.create_model(name))
    assert told(zoo.create_model(name, drop_path_rate=0.0, attn_drop_rate=0.0, proj_drop_rate=0)) == told(
        zoo.create_model(name)
    ).replace("'proj_drop_rate': 0.0", "'proj_drop_rate': 0")
    rates = dict(drop_path_rate=0.1) if has_shortcuts(name) else {}
    assert zoo.create_model(name, **rates, drop_rate=0.1).drop_rate == 0.1


def test_a_slot_may_be_none_and_its_options_where_they_can():
    model = zoo.create_model("vit_test", channel_mixer={"at": {-1: None}}, norm=None)
    assert model.blocks[2].channel_mixer is None and model.blocks[0].channel_mixer is not None
    assert [slot.name for slot in model.config["norm"]] == ["none"] * 3
    mixture = zoo.create_model("vit_test", channel_mixer={"name": "moe", "group": None})
    assert mixture.config["channel_mixer"][0].options == {"group": None}
    with pytest.raises(TypeError, match="mlp: ratio is None, and it must be float .*leave it out"):
        zoo.create_model("vit_test", channel_mixer={"name": "mlp", "ratio": None})
    with pytest.raises(TypeError, match="window: window_size is None, and it must be int | .*leave it out"):
        zoo.create_model("swin_test", token_mixer="window(window_size=None)")


def test_a_folder_has_no_none_where_there_can_be_none(tmp_path):
    zoo.save_pretrained(zoo.create_model("mixer_test"), tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text("utf-8"))
    config["zoo"]["model_args"]["num_classes"] = None
    path.write_text(json.dumps(config), "utf-8")
    with pytest.raises(TypeError, match="config.json: mixer_test: num_classes is None, and it must be int"):
        zoo.create_model(f"local-dir:{tmp_path}")


@pytest.mark.parametrize(
    "name, arguments, words",
    [
        (
            "mixer_test",
            dict(attn_drop_rate=0.5),
            "attn_drop_rate=0.5 is given, .*token_mixer attention, shifted_window",
        ),
        ("gmlp_test", dict(token_mixer="pool", act="relu"), "act='relu' is given, .*with the option 'act'"),
        ("poolformer_test", dict(patch_size=8), "patch_size=8 is given, .*stem patch"),
        (
            "mixer_test",
            dict(pos_drop_rate=0.1),
            "pos_drop_rate=0.1 is given, and needs class_token=True or pos_embed=True",
        ),
        ("resmlp_test", dict(token_std=1.0), "token_std=1.0 is given, and needs class_token=True"),
        ("kan_test", dict(act="relu"), "act='relu' is given, and needs layer=none"),
        ("s_convkan_test", dict(attn_drop_rate=0.2), "attn_drop_rate=0.2"),
        ("mixer_test", dict(token_mixer="pool", channel_mixer="none", proj_drop_rate=0.1), "proj_drop_rate=0.1"),
        ("vit_test", dict(channel_mixer="mlp(act='relu')", token_mixer="pool", act="silu"), "has its own act"),
        ("vit_test", dict(channel_mixer="moe(experts='faster_kan')", act="relu"), "act='relu' is given, and no part"),
        ("swin_test", dict(depths=(1,), dims=(8,), token_mixer="pool", downsample="conv"), "it is for a part"),
    ],
)
def test_what_nothing_takes_is_refused(name, arguments, words):
    with pytest.raises(ValueError, match=f"^{name}: .*{words}"):
        zoo.create_model(name, **arguments)
    if family_of(name).model.vision:
        with pytest.raises(ValueError, match=words):
            zoo.create_model(name, **arguments, features_only=True)


def test_what_a_family_or_a_folder_says_is_not_asked_about(tmp_path):
    """A recombined model need not have a block for all defaults: only what was asked for has to reach one."""
    zoo.create_model("randformer_test", token_mixer="pool", channel_mixer="faster_kan")  # its act is star_relu
    zoo.create_model("vit_test", class_token=False, pos_embed=False, global_pool="avg", token_std=0.0)
    zoo.save_pretrained(zoo.create_model("vit_test", attn_drop_rate=0.3, pos_drop_rate=0.1), tmp_path)
    model = zoo.create_model(f"local-dir:{tmp_path}", False, token_mixer="pool", attn_drop_rate=0.3)
    assert model.config["attn_drop_rate"] == 0.3
    with pytest.raises(ValueError, match="attn_drop_rate=0.4 is given"):
        zoo.create_model(f"local-dir:{tmp_path}", False, token_mixer="pool", attn_drop_rate=0.4)


@pytest.mark.parametrize(
    "slot", ["moe", "moe(experts='mlp')", "moe(experts='glu')", "moe(experts=['mlp', 'faster_kan'])"]
)
def test_what_blocks_within_a_block_take_counts(slot):
    zoo.create_model("vit_test", channel_mixer=slot, token_mixer="pool", proj_drop_rate=0.1, act="relu")


@pytest.mark.parametrize("only", [{}, {"features_only": False}, {"features_only": None}])
@pytest.mark.parametrize("key, value", [("out_indices", (0,)), ("out_indices", 0), ("feature_cls", "getter")])
def test_what_is_said_of_features_needs_that_they_are_wanted(key, value, only):
    with pytest.raises(ValueError, match=f"vit_test: {key} is given, and needs features_only=True"):
        zoo.create_model("vit_test", **only, **{key: value})
    with pytest.raises(ValueError, match=f"kan_test takes vectors and has no feature maps; leave {key} out"):
        zoo.create_model("kan_test", **only, **{key: value})
    assert isinstance(zoo.create_model("kan_test", **only), family_of("kan_test").model)


@pytest.mark.parametrize("name", TINY_VARIANTS)
def test_a_model_class_says_which_of_its_arguments_are_slots_and_of_which_kind(name):
    """And only there: None and the exchange of single blocks are values of these, and a folder holds them as text."""
    model = zoo.create_model(name, device="meta")
    taken = {key for key, value in model.config.items() if isinstance(value, list) and isinstance(value[0], Slot)}
    assert taken <= model.slots.keys() <= model.config.keys()
    for key, kind in model.slots.items():
        names = {"none", *zoo.list_blocks(kind), *(zoo.list_blocks("basis") if kind == "layer" else ())}
        assert all(slot.name in names for slot in model.config[key] if key in taken)


# --- Features of shallow models ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TEST_VARIANTS)
def test_features_of_a_model_of_one_or_two_blocks(name):
    slots = dict(token_mixer="pool", channel_mixer="mlp")  # a variant's own may name blocks that are not there
    for depth in (1, 2):
        sizes = {"depths": (1,) * depth, "dims": (8,) * depth} if hierarchical(name) else {"depth": depth}
        if hierarchical(name) and depth > 1:
            sizes["downsample"] = "conv"  # likewise
        if "res_scale" in family_of(name).defaults:
            sizes["res_scale"] = None
        model = zoo.create_model(name, **sizes, **slots, features_only=True)
        assert len(model(torch.randn(1, *model.pretrained_cfg["input_size"]))) == depth == len(model.feature_info)
