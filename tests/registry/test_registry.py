"""Names: listing, information, unknown ones, and the bridge into timm."""

import re
import subprocess
import sys
import warnings

import pytest
import timm
import torch
from conftest import ALL_VARIANTS, TIMM_VARIANTS, sampled

import zoo
from zoo.registry import families, family_of

HIERARCHICAL = ("swin", "swinv2", "swin_mlp", "poolformer", "metaformer", "unireplknet", "convnext")


def test_the_families_of_this_release():
    assert set(families()) >= {"mixer", "gmixer", "resmlp", "gmlp", "vit", "deit", "hourglass", *HIERARCHICAL}
    for family in families().values():
        assert any(name.endswith("_test") for name in family.variants), f"{family.name} has no _test variant"
        for part in ("Paper:", "Code:", "Weights:"):
            assert part in family.about, f"the header of {family.module} lacks {part}"


def test_list_models():
    assert zoo.list_models("gmlp*") == ["gmlp_b16_224", "gmlp_digits", "gmlp_s16_224", "gmlp_ti16_224"]
    assert zoo.list_models("gmlp*", pretrained=True) == ["gmlp_digits", "gmlp_s16_224.ra3_in1k"]
    assert "mixer_b16_224.goog_in21k" in zoo.list_models("mixer_b16*", pretrained=True)
    assert zoo.list_models(family="resmlp", include_tests=True)[-1] == "resmlp_test"
    assert zoo.list_models(task="image-to-image") == zoo.list_models(family="hourglass")
    assert zoo.list_models("no_such*") == []


@pytest.mark.parametrize("call", [zoo.create_model, zoo.model_info])
def test_a_name_that_is_no_string_is_told(call):
    for name in (None, 3):
        with pytest.raises(TypeError, match=f"name is {name}.* must be str"):
            call(name)


@pytest.mark.parametrize(
    "call, words",
    [
        (
            lambda: zoo.create_model("mixer_s16_225"),
            r"'mixer_s16_225' is unknown; did you mean 'mixer_s16_224', 'mixer_\w+' or 'mixer_\w+'\? "
            r'zoo.list_models\("\*mixer\*"\) lists',
        ),
        (
            lambda: zoo.create_model("mixer_b16_224.goog_in22k"),
            r"no weights with the tag 'goog_in22k'; did you mean 'goog_in21k'",
        ),
        (lambda: zoo.create_model("mixer_test", depht=2), r"mixer_test has no argument 'depht'; did you mean 'depth'"),
        (lambda: zoo.create_model("mixer_test", num_classes=-1), "num_classes is -1"),
        (lambda: zoo.create_model("mixer_test", img_size=33), "33 x 33 is not a whole number of 8 x 8 patches"),
        (lambda: zoo.create_model("mixer_test", img_size=(32, 0)), r"img_size\[1\] is 0; it must be from 1 to"),
        (lambda: zoo.create_model("zzz"), r'model .zzz. is unknown. zoo.list_models\("\*"\) lists'),
        (
            lambda: zoo.create_model("mixer_test", global_pool="token"),
            "class token; create the model with class_token=True",
        ),
        (
            lambda: zoo.create_model("swin_test", global_pool="token"),
            "class token; this kind of model has none; use 'avg'",
        ),
        (lambda: zoo.create_model("swin_test", stem=None), "stem 'none' is unknown; .*Known: conv"),
        (lambda: zoo.create_model("swin_test", downsample=["merge", None, "merge"]), r"downsample\[1\] 'none' is"),
        (lambda: zoo.create_model("mixer_test", global_pool="mean"), "global_pool is 'mean'; it must be one of"),
        (lambda: zoo.create_model("mixer_test", depth=0), "depth is 0"),
        (lambda: zoo.create_model("mixer_test", drop_path_rate=1.5), "drop_path_rate is 1.5"),
        (lambda: zoo.create_model("mixer_test", drop_path_rule="cosine"), "drop_path_rule is 'cosine'; it must be"),
        (lambda: zoo.create_model("mixer_test", channel_mixer="mlpp"), "did you mean 'mlp'"),
        (lambda: zoo.create_model("mixer_test", token_mixer=["pool"] * 9), "9 entries for 3 blocks"),
        (
            lambda: zoo.create_model("swin_test", token_mixer=["pool"] * 3),
            r"3 entries for 4 stages of 6 blocks.*\[\['pool'",
        ),
        (lambda: zoo.create_model("swin_test", token_mixer=["pool", [], "pool", "pool"]), "empty list for a stage"),
        (lambda: zoo.create_model("swin_test", dims=(8, 16)), "dims has 2 entries and depths 4"),
        (lambda: zoo.create_model("swin_test", depths=(2, 0, 2, 2)), r"depths\[1\] is 0; it must be from 1 to"),
        (lambda: zoo.create_model("swin_test", form="parallel"), "form is 'parallel'; it must be one of 'pre'"),
        (lambda: zoo.create_model("swin_test", layer_scale=[0.1]), "layer_scale has 1 entries for 4 stages"),
        (lambda: zoo.create_model("swin_test", downsample="poll"), "downsample 'poll' is unknown"),
        (lambda: zoo.create_model("swin_test", stem="patch(remainder='wrap')"), "remainder is 'wrap'; it must be"),
        (lambda: zoo.create_model("swin_test", drop_rate=1.0), "drop_rate is 1.0"),
        (lambda: zoo.create_model("convnext_test", head="conv"), "head 'conv' is unknown. Known: image, linear"),
        (lambda: zoo.create_model("convnext_test", img_size=2), "image size 2 x 2 is below the 4 x 4"),
        (lambda: zoo.create_model("poolformer_test").set_input_size(window_size=8), "no token mixer .* has windows"),
        (lambda: zoo.create_model("poolformer_test").set_input_size(patch_size=8), "has no patches"),
        (lambda: zoo.create_model("mixer_test", pretrained=True), "no weights are published for mixer_test"),
        (lambda: zoo.create_model("hub:me/model"), "model source 'hub' of 'hub:me/model' is unknown"),
        (lambda: zoo.create_model("folder/model"), "write 'local-dir:folder/model'"),
        (lambda: zoo.create_model("mixer_test", pretrained_cfg_overlay={"fiel": "x"}), "did you mean 'file'"),
        (lambda: zoo.list_models(family="mixr"), "did you mean 'mixer'"),
        (lambda: zoo.list_models(task="segmentation"), "task 'segmentation' is unknown"),
        (lambda: zoo.model_info("mixer_b16_224.x"), "no weights with the tag 'x'"),
    ],
)
def test_unknown_names_are_told_the_nearest(call, words):
    with pytest.raises(ValueError, match=words):
        call()


@pytest.mark.parametrize(
    "arguments", [{"depth": "3"}, {"num_classes": 2.0}, {"class_token": 1}, {"layer_scale": "big"}]
)
def test_wrong_types_are_refused(arguments):
    with pytest.raises((TypeError, ValueError), match=next(iter(arguments))):
        zoo.create_model("mixer_test", **arguments)


def test_every_field_of_a_variant_can_be_overridden():
    model = zoo.create_model(
        "gmlp_test", depth=2, dim=8, norm="rmsnorm", act="relu", layer_scale=0.1, drop_path_rate=0.2
    )
    assert len(model.blocks) == 2 and model.num_features == 8
    assert model.blocks[1].drop_path.drop_prob == 0.2


def test_model_info_names_licences_and_figures():
    info = zoo.model_info("resmlp_12_224")
    assert info.tags["fb_in1k"] == "apache-2.0"
    text = str(info)
    for part in ("family resmlp", "depth = 12", "15.35 M parameters", "76.66 %", "2105.03404"):
        assert part in text


OURS = [n for n in ALL_VARIANTS if n not in TIMM_VARIANTS and family_of(n).model.vision]


@pytest.mark.parametrize("name", sampled(OURS, 2))
def test_timm_creates_what_it_does_not_have(name):
    assert timm.is_model(name)
    model = timm.create_model(name, num_classes=3, device="meta")
    assert type(model).__module__.startswith("zoo.") and model.num_classes == 3


def test_timm_keeps_its_own():
    assert {"mixer_s32_224", "vit_base_patch16_224", "swin_s3_tiny_224", "convnext_tiny"} <= set(TIMM_VARIANTS)
    for name in TIMM_VARIANTS:
        assert timm.models.model_entrypoint(name).__module__.startswith("timm.")
    assert type(zoo.create_model("mixer_s32_224", device="meta")).__module__ == "zoo.skeletons.isotropic"


def test_the_configuration_of_a_tag_is_timms():
    model = zoo.create_model("mixer_b16_224.miil_in21k", device="meta")
    assert model.num_classes == 11221
    assert model.pretrained_cfg["interpolation"] == "bilinear" and model.pretrained_cfg["mean"] == (0.0, 0.0, 0.0)
    assert model.pretrained_cfg["hf_hub_id"] == "timm/mixer_b16_224.miil_in21k"
    data = timm.data.resolve_model_data_config(model)
    assert data["input_size"] == (3, 224, 224) and data["mean"] == (0.0, 0.0, 0.0)


def test_what_is_said_of_an_input_is_kept(tmp_path):
    """Of a set of weights, of the user, and of a model that was saved: the family's file has only what none says."""
    cfg = lambda name, **kwargs: zoo.create_model(name, device="meta", **kwargs).pretrained_cfg
    assert cfg("unireplknet_s.in22k_ft_in1k_384")["crop_pct"] == 1.0 != cfg("unireplknet_s.in1k")["crop_pct"]
    overlay = {"pretrained_cfg_overlay": {"mean": (0.5, 0.5, 0.5)}}
    assert cfg("kat_test", **overlay)["mean"] == (0.5, 0.5, 0.5) != cfg("kat_test")["mean"]
    zoo.save_pretrained(zoo.create_model("kat_test", **overlay), tmp_path)
    assert tuple(cfg(f"local-dir:{tmp_path}", pretrained=False)["mean"]) == (0.5, 0.5, 0.5)


def test_published_tags_are_timms():
    for family in families().values():
        for name, row in family.published.items():
            arch, _, tag = name.partition(".")
            if tag and arch in TIMM_VARIANTS:
                cfg = timm.models.get_arch_pretrained_cfgs(arch)[name]
                assert row.weights == f"hf-hub:{cfg.hf_hub_id}" and row.classes == cfg.num_classes, name


def test_import_is_lazy():
    lazy = (
        "fvcore",
        "sklearn",
        "accelerate",
        "zoo.hub",
        "zoo.tools.moe.parallel",
        "zoo.tools.moe.exchange",
        "zoo.training",
    )
    code = f"import sys, zoo; print([m for m in {lazy} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


FAMILY = '''
"""Temp: a family written in one file.

Paper: none. Code: none. Weights: none.
"""
from zoo.family import Family
from zoo.skeletons.isotropic import Isotropic

FAMILY = Family(
    model=Isotropic,
    defaults=dict(img_size=32, patch_size=8, token_mixer=["pool", "double"], channel_mixer="glu", num_classes=5),
    variants={"temp_small": dict(dim=24, depth=4), "temp_test": dict(dim=16, depth=3)},
)
'''

MIXER = '''
from torch import nn
from zoo.slots.table import register

@register("token_mixer", "double")
class Double(nn.Module):
    """Doubles."""
    def __init__(self, dim, *, factor: float = 2.0, device=None, dtype=None):
        super().__init__()
        self.factor = factor

    def forward(self, x):
        return self.factor * x
'''


def test_a_new_family_and_a_new_mixer_are_one_file_each(tmp_path):
    """Two files beside an untouched package are found, built by zoo and by timm, listed, and recombined."""
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "temp.py").write_text(FAMILY)
    (tmp_path / "token").mkdir()
    (tmp_path / "token" / "double.py").write_text(MIXER)
    code = f"""
import zoo.models, zoo.blocks.token
zoo.models.__path__.append({str(tmp_path / "models")!r})
zoo.blocks.token.__path__.append({str(tmp_path / "token")!r})
import zoo.registry
zoo.registry.families.cache_clear()
zoo.timm_bridge.register_with_timm()
import timm, torch, zoo
assert zoo.list_models("temp*") == ["temp_small"], zoo.list_models("temp*")
x = torch.randn(2, 3, 32, 32)
assert timm.create_model("temp_small")(x).shape == (2, 5)
assert zoo.create_model("mixer_test", token_mixer="double(factor=3)")(x).shape == (2, 10)
print("found")
"""
    out = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True)
    assert out.stdout.strip() == "found", out.stderr


def test_a_model_can_be_built_in_another_dtype():
    assert zoo.create_model("vit_test", dtype=torch.bfloat16).head.weight.dtype is torch.bfloat16


# --- Lists as timm's --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "filters",
    [
        dict(filter=["mixer_*", "gmlp_*"]),
        dict(filter=("mixer_*", "mixer_b*"), exclude_filters="*_l*"),
        dict(filter="swin*", exclude_filters=["*_384", "*large*"]),
        dict(filter="", exclude_filters="*_224"),
        dict(filter=["convnext_*"], exclude_filters="*_384", pretrained=True),
        dict(filter=["convnext_tiny", "resmlp_12_224"], include_tags=True),
        dict(filter="*in22k*", pretrained=True),
        dict(filter=["caformer*"], exclude_filters=["*.sail_in1k"], pretrained=True),
        dict(filter="caformer*", exclude_filters="caformer_b36", pretrained=True),
        dict(filter=[]),
        dict(filter=["no_such*"]),
    ],
    ids=str,
)
def test_list_models_takes_what_timms_takes(filters):
    both = lambda names: [name for name in names if name.split(".")[0] in TIMM_VARIANTS]
    assert both(zoo.list_models(**filters)) == both(timm.list_models(**filters))


def test_a_filter_is_a_name_or_several():
    for wrong in (3, ["mixer_*", None]):
        with pytest.raises(TypeError, match="filter is .*several in a list"):
            zoo.list_models(wrong)
    assert zoo.list_models(iter(["gmlp_b*"])) == ["gmlp_b16_224"]


def test_importing_zoo_puts_no_toys_into_timms_list():
    code = """
import timm
before = set(timm.list_models())
import zoo
new = set(timm.list_models()) - before
assert "kat_tiny_patch16_224" in new and not [name for name in new if name.endswith("_test")], new
assert zoo.create_model("kat_test").num_classes == zoo.model_info("kat_test").pretrained_cfg["num_classes"] == 10
zoo.timm_bridge.register_with_timm(include_tests=True)
assert timm.create_model("kat_test").num_classes == 10 and timm.is_model("kat_tiny_patch16_224")
print("none")
"""
    out = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True)
    assert out.stdout.strip() == "none", out.stderr
    assert "No pretrained configuration" not in out.stderr


def test_families_are_found_without_docstrings():
    code = "import zoo; print(zoo.model_info('vit_test').about == '', len(zoo.list_models()) > 100)"
    out = subprocess.run(
        [sys.executable, "-OO", "-W", "error::UserWarning:zoo", "-c", code], capture_output=True, text=True
    )
    assert out.stdout.strip() == "True True", out.stderr


# --- Files that are not what they should be ---------------------------------------------------------------------------


def family_file(name: str = "FAMILY", *, more: str = "", **changes: str | None) -> str:
    """A family's file, with fields exchanged by what is given for them, or left out for None."""
    fields = {
        "model": "Isotropic",
        "defaults": 'dict(patch_size=8, token_mixer="pool", channel_mixer="glu", num_classes=5)',
        "variants": '{"temp_small": dict(dim=24, depth=4), "temp_test": dict(dim=16, depth=3)}',
    } | changes
    told = ", ".join(f"{field}={value}" for field, value in fields.items() if value is not None)
    header = '"""Temp: a family in one file.\n\nPaper: none. Code: none. Weights: none.\n"""\n'
    imports = "from zoo.family import Counted, Family, Published\nfrom zoo.skeletons.isotropic import Isotropic\n"
    return f"{header}{imports}{name} = Family({told})\n{more}"


WRONG_FILES = {
    "does not parse": ("FAMILY = = 1\n", "SyntaxError: .*line 1"),
    "lacks a package": ("import no_such_package\n", r"No module named 'no_such_package' \(.*temp_a.py, line 1\)"),
    "fails when it is run": ("FAMILY = {}[1]\n", r"KeyError: 1 \(.*temp_a.py, line 1\)"),
    "published is misspelt": (
        family_file(publishd="{}"),
        r"TypeError: Family has no field 'publishd'; did you mean 'published'\? .* \(.*temp_a.py, line 7\)",
    ),
    "variants is misspelt": (family_file(variants=None, variant='{"a_b": {}}'), "no field 'variant'; .* 'variants'"),
    "an optional name is misspelt": (family_file(task='("x",)'), "no field 'task'; did you mean 'tasks'"),
    "FAMILY is misspelt": (family_file("FAMILLY"), "it has no FAMILY, but FAMILLY; is that what is meant"),
    "FAMILY is a plural": (family_file("FAMILYS"), "it has no FAMILY, but FAMILYS"),
    "FAMILY is a mapping": ("FAMILY = dict(model=3)\n", "its FAMILY is a dict; write FAMILY = Family"),
    "model is missing": (family_file(model=None), "TypeError: .*missing 1 required .*'model'"),
    "rules is no list": (family_file(rules="3"), "its rules is a int; it must be a list"),
    "a rule is none": (family_file(rules='["^a"]'), "its rules hold a str; make rules by rename"),
    "model is no skeleton": (family_file(model="dict"), "its model is dict, which is no skeleton"),
    "a default is misspelt": (
        family_file(defaults='dict(patchsize=8, token_mixer="pool", channel_mixer="mlp")'),
        "no argument 'patchsize', which defaults sets; did you mean 'patch_size'",
    ),
    "an argument is misspelt": (
        family_file(variants='{"temp_x": dict(dim=8, dept=2)}'),
        "no argument 'dept', which temp_x sets; did you mean 'depth'",
    ),
    "a variant is no mapping": (family_file(variants='{"temp_x": 3}'), "its variant 'temp_x' is a int"),
    "a figure has no variant": (
        family_file(published='{"temp_smal": Published(1.0)}'),
        "published has no variant for 'temp_smal'; did you mean 'temp_small'",
    ),
    "a figure is a number": (family_file(published='{"temp_small": 3.0}'), "is a float; it must be a Published"),
    "a count is published": (family_file(published='{"temp_small": Counted(1.0)}'), "is a Counted; it must be"),
    "a key of cfg is unknown": (family_file(cfg="dict(crop=1.0)"), "its cfg has no key 'crop'"),
    "it has no header": (family_file().split('"""')[2], "it has no header; write what it is, its paper"),
    "a variant has another's name": (
        family_file(variants='{"vit_base_patch16_224": dict(dim=8, depth=2)}'),
        "names the variant 'vit_base_patch16_224', which zoo.models.vision.vit has",
    ),
}


@pytest.fixture
def discovered(tmp_path, monkeypatch):
    """Discovers families with one more file; gives them, and what was warned of."""

    def discover(text: str):
        (tmp_path / "temp_a.py").write_text(text)
        monkeypatch.setattr(zoo.models, "__path__", [*zoo.models.__path__, str(tmp_path)])
        monkeypatch.delitem(sys.modules, "zoo.models.temp_a", raising=False)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            found = families.__wrapped__()
        return found, [str(warning.message) for warning in caught]

    yield discover
    sys.modules.pop("zoo.models.temp_a", None)
    vars(zoo.models).pop("temp_a", None)


@pytest.mark.parametrize("what", WRONG_FILES)
def test_a_wrong_family_file_is_a_warning_with_its_name(what, discovered):
    text, words = WRONG_FILES[what]
    found, told = discovered(text)
    assert len(told) == 1 and re.match(rf"zoo\.models\.temp_a is left out: .*{words}", told[0]), told
    assert set(found) == set(families())


def test_a_right_family_file_is_not_warned_of(discovered):
    found, told = discovered(family_file(cfg="dict(crop_pct=0.9)", tasks='("classification",)'))
    assert not told and list(found["temp_a"].variants) == ["temp_small", "temp_test"]


def test_zoo_is_imported_all_the_same_beside_broken_files(tmp_path):
    """A family and a block that cannot be imported: both are named, and everything else works."""
    for folder, text in (("models", "import no_such_package\n"), ("token", "def f(:\n")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "temp_b.py").write_text(text)
    code = f"""
import zoo.models, zoo.blocks.token
zoo.models.__path__.append({str(tmp_path / "models")!r})
zoo.blocks.token.__path__.append({str(tmp_path / "token")!r})
import zoo.registry
zoo.registry.families.cache_clear()
zoo.timm_bridge.register_with_timm()
zoo.create_model("mixer_test", token_mixer="pool")
print(len(zoo.list_models()) > 100)
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "True"
    assert "zoo.models.temp_b is left out: ModuleNotFoundError" in out.stderr
    assert "zoo.blocks.token.temp_b is left out: SyntaxError" in out.stderr
