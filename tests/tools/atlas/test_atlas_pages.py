"""What the atlas says of families and models, and where it may be written. The site itself: `test_atlas_site.py`."""

import re
import xml.etree.ElementTree as ET

import pytest
from conftest import ROOT

import zoo
from zoo.registry import families
from zoo.tools.atlas import reference, write_atlas
from zoo.tools.atlas.about import ARXIV, citations, linked, parse
from zoo.tools.atlas.drawing import draw
from zoo.tools.atlas.family import family_page
from zoo.tools.atlas.plot import draw_front
from zoo.tools.atlas.recipe import recipe_of
from zoo.tools.atlas.requirements import MARK, check_target
from zoo.tools.atlas.structure import structure_of
from zoo.tools.index import stored
from zoo.training import load_recipe
from zoo.training.recipe.schema import plain

MODELS = stored()["models"]
PICTURES = ROOT / "docs" / "pictures"


@pytest.mark.parametrize("family", sorted(families()))
def test_every_family_is_drawn_from_its_slots_and_can_be_cited(family):
    arch = next(arch for arch in families()[family].variants if arch.endswith("_test"))
    model = zoo.create_model(arch, device="meta")
    drawing = draw(structure_of(model), arch)
    texts = " ".join(element.text or "" for element in ET.fromstring(drawing).iter())
    words = "".join(texts.split())
    for slots in (model.config.get(name, []) for name in ("token_mixer", "channel_mixer", "layer", "downsample")):
        for slot in slots:
            assert slot.name == "none" or "".join(str(slot).split()) in words
    about = parse(families()[family].about)
    works = re.findall(ARXIV, about.fields["Paper"])
    cited = list(citations(family, about))
    assert works
    assert [re.search("eprint = {(.+)}", entry)[1] for entry in cited] == works, "an arXiv number has no title"
    assert linked("Code", about.fields["Code"]).count("https://github.com/") <= about.fields["Code"].count("/")


def test_a_drawing_has_both_kinds_of_blocks_of_a_hybrid_and_its_places():
    slots = {"token_mixer": ["pool", "attention"], "layer_scale": 0.1, "res_scale": 1.0}
    structure = structure_of(zoo.create_model("vit_test", depth=3, **slots, device="meta"))
    assert [block.places for block in structure.blocks] == ["blocks 1, 3", "block 2"]
    first, second = structure.blocks
    assert [box.role for box in first.branches[0].boxes] == ["norm", "token_mixer", "scale"]
    assert (first.branches[0].boxes[1].text, second.branches[0].boxes[1].text) == ("pool", "attention")
    assert first.branches[0].shortcut.text == "scale, 1 at first"


@pytest.mark.parametrize("form", ["pre", "post", "serial"])
def test_a_drawing_has_the_norms_where_the_block_has_them(form):
    (block,) = structure_of(zoo.create_model("mixer_test", form=form, device="meta")).blocks
    roles = [[box.role for box in branch.boxes] for branch in block.branches]
    assert (
        roles
        == {
            "pre": [["norm", "token_mixer"], ["norm", "channel_mixer"]],
            "post": [["token_mixer", "norm"], ["channel_mixer", "norm"]],
            "serial": [["token_mixer", "norm", "channel_mixer"]],
        }[form]
    )


@pytest.mark.parametrize("family", sorted(stored()["families"]))
def test_the_recipe_to_begin_with_is_one(family, tmp_path):
    arch, entry = next((arch, entry) for arch, entry in MODELS.items() if entry["family"] == family)
    path = tmp_path / "recipe.yaml"
    path.write_text(recipe_of(arch, entry), "utf-8")
    assert plain(load_recipe(path))["model"]["name"] == arch


def test_a_page_of_a_family_has_what_a_reader_wants_of_it():
    entries = {arch: entry for arch, entry in MODELS.items() if entry["family"] == "poolformer"}
    keep = {arch: entries[arch] for arch in ("poolformer_test", "poolformer_s12")}
    page = family_page("poolformer", keep, {"poolformer_s12": [("pool.yaml", "On | pools")]})
    headings = ["Blocks", "Models", "Costs by stage", "Weights", "Use", "Train", "Cite"]
    assert re.findall("^## (.+)$", page.text, re.M) == headings
    report = zoo.count_flops(zoo.create_model("poolformer_s12", device="meta"))
    params, macs = report.params_by_module["stages.2"], report.by_module["stages.2"]
    assert f"| `stages.2` | {params / 1e6:.4g} M | {macs / 1e9:.4g} G | {macs / report.macs:.1%} |" in page.text
    assert "| `poolformer_s12.sail_in1k` | 77.238 | 3 x 224 x 224 | 1000 | apache-2.0 |" in page.text
    assert "- `recipes/pool.yaml`: On | pools" in page.text


def test_the_pages_of_the_api_have_every_public_name():
    pages = "\n".join(reference.pages().values())
    for name in set(zoo.__all__) - {"bench"}:
        assert f"heading: zoo.{name}\n" in pages
    for name in zoo.list_blocks("token_mixer"):
        assert f"heading: {name}\n" in pages


def test_the_readmes_pictures_are_those_of_the_atlas(tmp_path):
    pictures = re.findall(r"docs/pictures/(\w+)\.svg", (ROOT / "README.md").read_text("utf-8"))
    assert pictures == ["pareto", "caformer_s18"]
    front, drawing = ((PICTURES / f"{name}.svg").read_text("utf-8") for name in pictures)
    fresh = draw(structure_of(zoo.create_model(pictures[1], device="meta")), pictures[1])
    assert drawing == fresh, "an old picture; run `make atlas`"
    draw_front(tmp_path / "pareto.svg", MODELS)
    assert words(front) == words((tmp_path / "pareto.svg").read_text("utf-8")), "an old picture; run `make atlas`"


def words(picture):
    return re.findall("<text[^>]*>([^<]+)<", picture)


def test_a_page_draws_each_mixture_of_mixers_once():
    entries = {arch: entry for arch, entry in MODELS.items() if entry["family"] == "metaformer"}
    keep = {arch: entries[arch] for arch in ("caformer_s18", "caformer_s36", "convformer_s18", "caformer_test")}
    page = family_page("metaformer", keep, {})
    assert list(page.drawings) == ["caformer_s18", "convformer_s18"] and "(caformer_s18.svg)" in page.text


def test_nothing_but_an_atlas_is_replaced(tmp_path):
    (tmp_path / "thesis.md").write_text("years of work", "utf-8")
    with pytest.raises(ValueError, match="holds something else than an atlas; name another folder"):
        write_atlas(tmp_path)
    with pytest.raises(ValueError, match=r"thesis.md is a file; name a folder"):
        write_atlas(tmp_path / "thesis.md")
    assert (tmp_path / "thesis.md").read_text("utf-8") == "years of work"
    (tmp_path / MARK).touch()
    check_target(tmp_path)


def test_an_unknown_family_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError, match="family 'mixr' is unknown; did you mean 'mixer'"):
        write_atlas(tmp_path / "site", ["mixr"])
    assert not any(tmp_path.iterdir())
