"""The model card says of a family what its file says, and of weights how they come."""

import re

import pytest
from conftest import ROOT

import zoo
from zoo.registry import cfgs_of, families
from zoo.tools import card
from zoo.tools.atlas.about import TITLES, facts_of, parse

CARD = (ROOT / "MODEL_CARD.md").read_text("utf-8")
WRITTEN = [name for name in families() if f"\n## {name}\n" in CARD]


@pytest.mark.parametrize("name", WRITTEN)
def test_what_stands_above_the_models_is_what_the_file_and_the_recipes_say(name):
    """As it was written; a recipe that is new need not be there."""
    part = CARD.partition(f"\n## {name}\n")[2].partition("\n| model |")[0].splitlines()
    fresh = card.preface(families()[name]).splitlines()
    assert not [line for line in part if line not in fresh], "MODEL_CARD.md is old; run `make card`"
    for title in ("For", "Not for", "Trained on", "Licence of the code"):
        assert any(line.startswith(f"- **{title}:** ") and line.endswith(".") for line in part), title


def test_the_licence_of_the_code_is_the_one_that_the_header_names():
    for name, family in families().items():
        licences = re.findall(r"MIT|Apache-2\.0|BSD-3-Clause|not stated", family.facts.code_licence)
        code = parse(family.about).fields["Code"]
        assert all(licence in code for licence in licences) and (licences or "none" in code), name


def test_every_tag_is_among_what_weights_learnt_from():
    """By the word that its family has for it; where all learnt from the same, no tag is named."""
    for name, family in families().items():
        cfgs = {key: cfg for arch in family.variants for key, cfg in cfgs_of(arch).items()}
        tags = {key.split(".")[1] for key, cfg in cfgs.items() if cfg.has_weights and "." in key}
        if len(tags) > 1:
            named = re.findall(r"\w+", family.facts.data)
            stem = lambda tag, named=named: any(tag == word or tag.startswith(f"{word}_") for word in named)
            assert not [tag for tag in tags if not stem(tag)], name


def test_a_family_without_facts_has_none():
    mine = families()["vit"].derive(variants={"mine_test": {}})
    assert list(facts_of(mine)) == [] and len(list(facts_of(families()["vit"]))) == len(TITLES)


def test_a_row_says_how_its_weights_come():
    lines = [dict(zip(card.COLUMNS, line.strip("| ").split(" | "), strict=False)) for line in CARD.splitlines()]
    ways = {line["model"].strip("`"): line for line in lines if "come by" in line and line["model"].startswith("`")}
    assert ways["mixer_b16_224.goog_in21k"]["come by"] == "`pretrained=True`"
    assert ways["unireplknet_a.in1k"]["come by"] == ways["poolformer_s12.sail_in1k"]["come by"] == "`pretrained=True`"
    assert ways["vmoe_s32_last2_384"]["come by"] == "`zoo convert`"
    assert ways["swin_moe_small_patch4_window12_192_8expert_32gpu_22k"]["weights"].endswith("_8expert_32gpu_22k.zip)")
    assert ways["kat_tiny_patch16_224.in1k"]["weights"].startswith(
        "[huggingface.co/adamdad](https://huggingface.co/adamdad/"
    )
    assert ways["vmoe_s32_last2_384"]["weights"].startswith("gs://")  # what no browser opens is no link
    assert ways["vit_digits"]["come by"] == "`pretrained=True`, without a network"
    assert {line["come by"] for name, line in ways.items() if name in zoo.list_models(pretrained=True)} == {
        *("`pretrained=True`", "`zoo convert`", "`pretrained=True`, without a network")
    }


def test_what_was_measured_is_of_the_recipes_that_were_run(tmp_path, monkeypatch):
    (tmp_path / "bases").mkdir()
    (tmp_path / "bases" / "digits.yaml").write_text("data: {name: digits}\nmodel: {kwargs: {dim: 8}}\n")
    gave = "expect: {metric: test/top1, status: reproduced, value: 98.0}\n"
    (tmp_path / "a.yaml").write_text("base: bases/digits.yaml\nmodel: {name: vit_test}\n" + gave)
    (tmp_path / "b.yaml").write_text("model: {name: mixer_test.tag}\n" + gave)
    (tmp_path / "c.yaml").write_text("base: a.yaml\nexpect: {status: untested, published: 80.0}\n")
    monkeypatch.setattr(card, "RECIPES", tmp_path)
    assert card.measured.__wrapped__() == {
        "vit_test": ["- test/top1 98 on digits, a changed `vit_test`: `recipes/a.yaml`"],
        "mixer_test": ["- test/top1 98, `mixer_test.tag`: `recipes/b.yaml`"],
    }
    monkeypatch.setattr(card, "RECIPES", tmp_path / "none")
    assert card.measured.__wrapped__() == {}
