"""Families as data: nothing changes them, one derives from another, and they are found wherever they stand."""

import copy
import pickle
import sys
import warnings

import pytest
import torch
from conftest import outside

import zoo
from zoo.family import Counted, Facts, Family, Published, released
from zoo.registry import families, family_of
from zoo.skeletons.hierarchical import Hierarchical
from zoo.skeletons.isotropic import Isotropic
from zoo.slots import Slot
from zoo.weights import rename
from zoo.weights.layouts import STAGES, below, timm_head, timm_vit

HEADER = '"""Temp: a family of known blocks.\n\nPaper: none.\nCode: none.\nWeights: none.\n"""\n'


def family(**fields) -> Family:
    return Family(
        **{
            "model": Isotropic,
            "defaults": dict(img_size=32, patch_size=8, token_mixer=["pool", "attention(heads=2)"]),
            "variants": {"temp_small": dict(dim=24, depth=4), "temp_test": dict(dim=16, depth=3)},
            **fields,
        }
    )


# --- Nothing can be changed -------------------------------------------------------------------------------------------


def changes(value) -> list:
    """For every mapping, sequence, slot and row within a value, at any depth, a call that would change it."""
    if isinstance(value, (Slot, Published)):
        part = value.options if isinstance(value, Slot) else value.cfg
        return [lambda: setattr(value, "where", ""), *changes(part)]
    if hasattr(value, "items"):
        inner = [one for entry in value.values() for one in changes(entry)]
        return [lambda: value.__setitem__("spoilt", True), lambda: value.pop(next(iter(value))), *inner]
    if isinstance(value, (list, tuple)):
        return [lambda: value.append("spoilt"), *(one for entry in value for one in changes(entry))]
    return []


@pytest.mark.parametrize("name", families())
def test_no_part_of_a_family_can_be_changed(name):
    one = families()[name]
    calls = [change for field in vars(one).values() for change in changes(field)]
    assert len(calls) > 10
    for change in calls:
        with pytest.raises((TypeError, AttributeError)):
            change()
    for field in vars(one):
        with pytest.raises(AttributeError):
            setattr(one, field, None)


def test_the_registry_cannot_be_changed():
    with pytest.raises(TypeError):
        families()["vit"] = families()["deit"]
    with pytest.raises(AttributeError):
        families().clear()


def test_what_a_family_was_made_of_can_be_changed_without_it():
    slot, cfg, sizes = {"name": "moe", "router": {"name": "top_k"}}, {"mean": [0.5] * 3}, dict(dim=16, depth=3)
    row = Published(1.0, cfg={"std": [0.5] * 3})
    one = family(
        defaults={"channel_mixer": [slot, Slot("mlp", {"ratio": 2})]},
        variants={"temp_test": sizes},
        cfg=cfg,
        published={"temp_test.v1": row},
    )
    before = repr(one)
    slot["router"]["name"], sizes["dim"] = "spoilt", 3
    cfg["mean"].append(1.0)
    row.cfg["std"].clear()
    assert repr(one) == before and one.arguments("temp_test")["dim"] == 16
    assert one.arguments("temp_test")["channel_mixer"][0]["router"] == {"name": "top_k"}


def test_what_is_taken_from_a_family_is_as_it_was_written_and_the_takers_own():
    slots, pair = [["window", {"name": "mlp", "losses": ("a",)}], Slot("moe", {"experts": ["mlp"]})], (1, [2])
    one = family(model=Hierarchical, defaults=dict(token_mixer=slots, dims=pair), variants={"temp_test": {}})
    first, second = one.arguments("temp_test"), one.arguments("temp_test")
    assert first == second == {"token_mixer": slots, "dims": pair}
    assert [type(part) for part in (first["token_mixer"], first["token_mixer"][0], first["dims"])] == [
        list,
        list,
        tuple,
    ]
    assert type(first["token_mixer"][1].options["experts"]) is list
    first["token_mixer"][0][1]["name"] = first["dims"][1][0] = "spoilt"
    first["token_mixer"][1].options["experts"].append("spoilt")
    assert one.arguments("temp_test") == second


def test_model_info_gives_away_nothing_of_a_family():
    name = "unireplknet_s.in22k_ft_in1k_384"
    before = repr(families()), repr(zoo.model_info(name))
    info = zoo.model_info(name)
    info.arguments["token_mixer"][2][0] = info.arguments["dims"] = "spoilt"
    info.published[name].cfg["crop_pct"] = 0.1
    info.pretrained_cfg["mean"] = info.tags["in1k"] = "spoilt"
    info.published.clear()
    info.counted.clear()
    zoo.model_info("swin_tiny_patch4_window7_224").arguments["token_mixer"][0][0]["window_size"] = 1
    assert (repr(families()), repr(zoo.model_info(name))) == before
    assert zoo.create_model("swin_tiny_patch4_window7_224", device="meta").config["token_mixer"][0].options == {
        "window_size": 7
    }


def test_a_family_is_copied_and_pickled():
    for one in (families()["vmoe"], family(defaults=dict(channel_mixer=Slot("mlp", {"act": ["relu"]})))):
        for again in (copy.deepcopy(one), pickle.loads(pickle.dumps(one))):
            assert again == one and repr(again) == repr(one)


# --- A family that is another one with changes ------------------------------------------------------------------------


def test_derive_merges_defaults_and_configuration_and_replaces_all_else():
    old = family(
        cfg=dict(mean=(0.5,) * 3, crop_pct=1.0),
        rules=[rename("^a", "b")],
        tasks=["classification"],
        published={"temp_small": Published(1.0, source="a paper")},
        counted={"temp_small": Counted(1.01)},
    )
    new = old.derive(
        defaults=dict(patch_size=4, norm="affine"), cfg=dict(crop_pct=0.9), variants={"new_test": dict(dim=8, depth=2)}
    )
    assert dict(new.defaults) == {**old.defaults, "patch_size": 4, "norm": "affine"}
    assert dict(new.cfg) == {"mean": (0.5,) * 3, "crop_pct": 0.9}
    assert list(new.variants) == ["new_test"] and not new.published and not new.counted
    assert (new.model, new.rules, new.tasks) == (old.model, old.rules, old.tasks)
    assert old.defaults["patch_size"] == 8 and "norm" not in old.defaults and list(old.variants)[0] == "temp_small"
    assert old.derive(rules=()).rules == () and old.derive(tasks=("regression",)).tasks == ("regression",)
    assert old.derive(rules=()).published == old.published
    model = Isotropic(**new.arguments("new_test"), channel_mixer="glu")
    assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 1000)


def test_derive_refuses_what_the_constructor_refuses():
    with pytest.raises(TypeError, match="no field 'varients'; did you mean 'variants'"):
        family().derive(varients={})
    with pytest.raises(ValueError, match="no argument 'patchsize', which defaults sets; did you mean 'patch_size'"):
        family().derive(defaults=dict(patchsize=3))
    with pytest.raises(TypeError, match="its defaults is a int; it must be a mapping"):
        family().derive(defaults=3)


def test_families_that_are_others_with_changes_have_their_model_and_rules():
    for name, base in {"deit": "vit", "kat": "vit", "m3vit": "vit", "swinv2": "swin", "swin_mlp": "swin"}.items():
        assert families()[name].model is families()[base].model
        assert families()[name].rules[-len(families()[base].rules) :] == families()[base].rules
    for name in ("gmlp", "gmixer", "sparse_mlp"):
        assert families()[name].defaults["drop_path_rule"] == families()["mixer"].defaults["drop_path_rule"]


# --- What a family's file says wrongly --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields, error, words",
    [
        (dict(defualts={}), TypeError, "no field 'defualts'; did you mean 'defaults'.* Fields: cfg, counted"),
        (dict(rule=[]), TypeError, "no field 'rule'; did you mean 'rules'"),
        (dict(model=3), TypeError, "its model is 3, which is no skeleton"),
        (dict(variants=["temp_test"]), TypeError, "its variants is a list; it must be a mapping"),
        (dict(tasks="classification"), TypeError, "its tasks is a str; it must be a list or a tuple"),
        (dict(tasks=[3]), TypeError, "its tasks hold a int"),
        (dict(counted={"temp_test": Published(1.0)}), TypeError, "is a Published; it must be a Counted"),
        (
            dict(counted={"tmp_test.v1": Counted(1.0)}),
            ValueError,
            "no variant for 'tmp_test.v1'; did you mean 'temp_te",
        ),
        (dict(cfg=dict(mean=3)), TypeError, "its cfg: mean is 3"),
        (dict(published={"temp_test.v1": Published(weights="hf-hub:foo")}), ValueError, "which is no place of weights"),
        (dict(published={"temp_test.v1": Published(img_size="big")}), ValueError, "which is no side of images"),
        (dict(facts="for images"), TypeError, "its facts are a str; write Facts"),
    ],
    ids=str,
)
def test_a_wrong_field_says_what_is_wrong(fields, error, words):
    with pytest.raises(error, match=words) as caught:
        family(**fields)
    assert len(str(caught.value)) < 2000


FACTS = dict(use="Pictures.", not_for="Sounds.", data="ImageNet-1K.", code_licence="MIT.")


@pytest.mark.parametrize(
    "text, error", [(3, TypeError), ("", ValueError), ("Pictures", ValueError), ("A.\n\nB.", ValueError)]
)
@pytest.mark.parametrize("name", FACTS)
def test_a_fact_is_a_paragraph(name, text, error):
    with pytest.raises(error, match=f"{name} of the facts is "):
        Facts(**{**FACTS, name: text})


def test_facts_are_of_a_family_alone():
    """Another one's variants are for something else, and so are its weights."""
    mine = family(facts=Facts(**FACTS))
    assert mine.derive(defaults={}).facts == pickle.loads(pickle.dumps(mine)).facts == Facts(**FACTS)
    assert mine.derive(variants={"another_test": {}}).facts is None
    assert all(each.facts is not None for each in families().values() if each.module.startswith("zoo.models."))


def test_a_family_that_contains_itself_says_so():
    circle = {}
    circle["token_mixer"] = [circle]
    with pytest.raises(ValueError, match="its defaults is nested deeper than 32, or contains itself"):
        family(defaults=circle)


@pytest.fixture
def discovered(tmp_path, monkeypatch):
    """Discovers families with more files beside zoo's own; gives them, and what was warned of."""

    def discover(files: dict[str, str]):
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
        monkeypatch.setattr(zoo.models, "__path__", [*zoo.models.__path__, str(tmp_path)])
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            known = families.__wrapped__()
        return {n: one for n, one in known.items() if n not in families()}, [str(w.message) for w in caught]

    before = set(sys.modules), set(vars(zoo.models))
    yield discover
    for name in set(sys.modules) - before[0]:
        if name.startswith("zoo.models."):
            del sys.modules[name]
    for name in set(vars(zoo.models)) - before[1]:
        delattr(zoo.models, name)


def file(base: str, call: str, *fields: str) -> str:
    return f"{HEADER}{base}\n\n\nFAMILY = {call}(\n    " + ",\n    ".join(fields) + ",\n)\n"


NEW = "from zoo.family import Family\nfrom zoo.skeletons.isotropic import Isotropic", "Family", "model=Isotropic"


def test_a_misspelt_field_is_a_warning_that_names_the_file_and_the_nearest(discovered):
    new, told = discovered({"temp_a.py": file(*NEW, "variants={}", "publishd={}")})
    assert not new and len(told) == 1
    for part in ("zoo.models.temp_a is left out", "'publishd'; did you mean 'published'?", "temp_a.py, line 11)"):
        assert part in told[0], told


def test_a_family_in_a_nested_folder_is_found_and_what_imports_it_is_not_another(discovered):
    variants = 'variants={"deep_test": dict(img_size=32, patch_size=8, dim=16, depth=2)}'
    derived = "from zoo.models.temp_b.deep.deep import FAMILY as DEEP", "DEEP.derive"
    new, told = discovered(
        {
            "temp_a.py": f"{HEADER}from zoo.models.temp_b.deep.deep import FAMILY as FAMILY\n",
            "temp_b/__init__.py": "",
            "temp_b/deep/__init__.py": "from zoo.models.temp_b.deep.deep import FAMILY as FAMILY\n",
            "temp_b/deep/deep.py": file(*NEW, variants),
            "temp_b/deep/deeper.py": file(*derived, 'variants={"deeper_test": dict(dim=16, depth=2)}'),
            "temp_b/deep/shared.py": "def half(x):\n    return x // 2\n",
        }
    )
    assert not told and list(new) == ["deep", "deeper"]
    assert new["deep"].module == "zoo.models.temp_b.deep.deep" and new["deep"].about.startswith("Temp: a family")
    assert list(new["deeper"].variants) == ["deeper_test"]


def test_a_family_that_a_function_makes_is_its_files(discovered):
    make = "def make(**fields):\n    return Family(model=Isotropic, **fields)\n"
    call = file("from zoo.models.temp_make import make", "make", 'variants={"made_test": dict(dim=8, depth=1)}')
    new, told = discovered({"temp_make.py": f"{NEW[0]}\n\n\n{make}", "temp_use.py": call})
    assert not told and list(new) == ["temp_use"]


def test_a_family_has_a_name_of_its_own(discovered):
    new, told = discovered({"vit.py": file(*NEW, 'variants={"other_vit": dict(dim=8, depth=1)}')})
    assert not new and told == [
        "zoo.models.vit is left out: its name is that of zoo.models.vision.vit; give the file another"
    ]
    assert family_of("vit_test").module == "zoo.models.vision.vit"


# --- From outside -----------------------------------------------------------------------------------------------------

OUTSIDE = file(
    "from zoo.models.vision.vit import FAMILY as VIT",
    "VIT.derive",
    'defaults=dict(img_size=32, patch_size=8, depth=4, token_mixer="pool", channel_mixer="glu", num_classes=5)',
    """variants={
        "outer_tiny": dict(dim=16),
        "outer_small": dict(dim=24),
        "outer_test": dict(dim=8, depth=2),
    }""",
)


def test_a_package_from_outside_holds_a_family_of_known_blocks(tmp_path):
    """One file of less than 60 lines and an entry point: listed, known to timm, created, saved and opened by name."""
    assert OUTSIDE.count("\n") <= 60
    code = """
import timm, torch, zoo
assert zoo.list_models("outer*") == ["outer_small", "outer_tiny"], zoo.list_models("outer*")
assert zoo.list_models(family="outer", include_tests=True)[-1:] == ["outer_tiny"]
assert {"outer_small", "outer_tiny"} <= set(timm.list_models("outer*")), timm.list_models("outer*")
info = zoo.model_info("outer_tiny")
assert (info.family, info.arguments["dim"], info.arguments["depth"]) == ("outer", 16, 4), info
x = torch.randn(2, 3, 32, 32)
assert timm.create_model("outer_small", num_classes=3)(x).shape == (2, 3)
model = zoo.create_model("outer_tiny").eval()
zoo.save_pretrained(model, "saved")
again = zoo.create_model("local-dir:saved").eval()
assert torch.equal(model(x), again(x)) and again.num_features == 16
print("outside")
"""
    run = outside(tmp_path, "outer_models", {"nested/__init__.py": "", "nested/outer.py": OUTSIDE})
    assert run(code, "-W", "error::UserWarning:zoo").stdout.strip() == "outside"


# --- Layouts of keys --------------------------------------------------------------------------------------------------


def renamed(key: str, rules) -> str:
    rule = next(rule for rule in rules if rule.pattern.search(key))
    return rule.pattern.sub(rule.target, key)


def test_layouts_of_keys():
    assert renamed("blocks.11.attn.qkv.weight", timm_vit()) == "blocks.11.token_mixer.qkv.weight"
    assert renamed("cls_token", timm_vit()) == "tokens.cls_token"
    for key in ("stages.2.blocks.3.mlp.fc1.bias", "stages.2.3.mlp.fc1.bias"):
        assert renamed(key, below(STAGES, {r"mlp\.": "channel_mixer."})) == "stages.2.blocks.3.channel_mixer.fc1.bias"
    assert renamed("head.fc.weight", timm_head()) == "head.weight"


def test_released_rows_have_the_place_of_their_weights():
    rows = released("hf-hub:me/{}.pth", "a README", {"a.v1": Published(1.0), "a.v2": Published(weights="file")})
    assert [row.weights for row in rows.values()] == ["hf-hub:me/a.v1.pth", "hf-hub:me/file.pth"]
    assert {row.source for row in rows.values()} == {"a README"}
