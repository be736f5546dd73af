"""What the atlas says of families and models, and where it may be written. The site itself: `test_atlas_site.py`."""

import os
import re
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import ROOT
from PIL import Image

import zoo
from zoo.registry import families
from zoo.slots.table import blocks_of
from zoo.tools.atlas import reference, write_atlas
from zoo.tools.atlas.about import ARXIV, citations, inert, linked, parse
from zoo.tools.atlas.drawing import draw
from zoo.tools.atlas.family import family_page
from zoo.tools.atlas.plot import draw_front, plot_html, published
from zoo.tools.atlas.recipe import recipe_of
from zoo.tools.atlas.site import _replace
from zoo.tools.atlas.structure import structure_of
from zoo.tools.atlas.table import rows
from zoo.tools.atlas.target import MARK, checked_target
from zoo.tools.index import model_entry, stored
from zoo.training import Trainer, load_recipe

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
    links = re.findall(r"\((https://github.com/[\w./-]+)\)", linked("Code", about.fields["Code"]))
    assert all(link.removeprefix("https://github.com/") in about.fields["Code"] for link in links)
    assert bool(links) == (about.fields["Code"][:4] != "none")


def test_a_drawing_has_both_kinds_of_blocks_of_a_hybrid_and_its_places():
    slots = {"token_mixer": ["pool", "attention"], "layer_scale": 0.1, "res_scale": 1.0}
    structure = structure_of(zoo.create_model("vit_test", depth=3, **slots, device="meta"))
    assert [block.places for block in structure.blocks] == ["blocks 1, 3", "block 2"]
    first, second = structure.blocks
    assert [box.role for box in first.branches[0].boxes] == ["norm", "token_mixer", "scale"]
    assert (first.branches[0].boxes[1].text, second.branches[0].boxes[1].text) == ("pool", "attention")
    assert first.branches[0].shortcut.text == "scale, 1 at first"


@pytest.mark.parametrize("form", ["pre", "post", "serial", "plain"])
def test_a_drawing_has_the_norms_where_the_block_has_them(form):
    (block,) = structure_of(zoo.create_model("mixer_test", form=form, device="meta")).blocks
    roles = [[box.role for box in branch.boxes] for branch in block.branches]
    assert (
        roles
        == {
            "pre": [["norm", "token_mixer"], ["norm", "channel_mixer"]],
            "post": [["token_mixer", "norm"], ["channel_mixer", "norm"]],
            "serial": [["token_mixer", "norm", "channel_mixer"]],
            "plain": [["norm", "token_mixer"], ["norm", "channel_mixer"]],
        }[form]
    )
    assert {branch.residual for branch in block.branches} == {form != "plain"}


@pytest.mark.parametrize("arch", ["poolformer_test", "hourglass_test", "m3vit_tiny_patch16_cityscapes", "kan_test"])
def test_the_recipe_to_begin_with_trains(arch, tmp_path, monkeypatch):
    """Of colours, of grey images, of images that are no square, and of vectors."""
    monkeypatch.chdir(tmp_path)
    model = zoo.create_model(arch, device="meta")
    Path("recipe.yaml").write_text(recipe_of(arch, model, MODELS[arch]["tasks"], classes=2), "utf-8")
    for number in range(12):
        folder = Path("pictures", ("train", "validation", "test")[number % 3], str(number % 2))
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (48, 40), (20 * number, 90, 200)).save(folder / f"{number}.png")
    short = ["train.duration=1ep", "train.eval_every=1ep", "train.checkpoint_every=1ep", "train.batch_size=2"]
    small = ["model.kwargs.depth=2", "model.kwargs.dim=48", "data.img_size=32", "model.kwargs.img_size=32"]
    small = small if arch.startswith("m3vit") else []
    workers = [] if arch == "kan_test" else ["data.workers=0"]
    recipe = load_recipe("recipe.yaml", [*short, "schedule.warmup=0ep", *small, *workers])
    metrics = Trainer(recipe, tmp_path / "run").run()
    assert recipe.expect.metric in metrics


def test_there_is_a_recipe_where_zoo_has_data_for_the_model():
    for arch, entry in MODELS.items():
        if not arch.endswith("_test"):
            continue
        model = zoo.create_model(arch, device="meta")
        assert recipe_of(arch, model, entry["tasks"]) is not None, arch
    assert recipe_of("mine", zoo.create_model("mixer_test", in_chans=5, device="meta"), ["classification"]) is None


def test_a_page_of_a_family_has_what_a_reader_wants_of_it():
    entries = {arch: entry for arch, entry in MODELS.items() if entry["family"] == "poolformer"}
    keep = {arch: entries[arch] for arch in ("poolformer_test", "poolformer_s12")}
    page = family_page("poolformer", keep, {"poolformer_s12": [("recipes/pool.yaml", "On | pools")]})
    headings = ["Blocks", "Models", "Costs by stage", "Weights", "Use", "Train", "Cite"]
    assert re.findall("^## (.+)$", page.text, re.M) == headings
    report = zoo.count_flops(zoo.create_model("poolformer_s12", device="meta"))
    params, macs = report.params_by_module["stages.2"], report.by_module["stages.2"]
    assert f"| `stages.2` | {params / 1e6:.4g} M | {macs / 1e9:.4g} G | {macs / report.macs:.1%} |" in page.text
    assert "| `poolformer_s12.sail_in1k` | 77.238 | 3 x 224 x 224 | 1000 | apache-2.0 |" in page.text
    assert "- `recipes/pool.yaml`: On | pools" in page.text


def test_a_model_that_comes_with_zoo_is_told_and_is_not_the_one_to_begin_with():
    costs = {"params": 58_906, "active_params": 58_906, "macs": 2_000_000}  # of the few, and the smallest
    entry = model_entry("poolformer_digits", lambda *_: costs)
    page = family_page("poolformer", {"poolformer_digits": entry, "poolformer_s12": MODELS["poolformer_s12"]}, {})
    assert "| `poolformer_digits` |  | 1 x 8 x 8 | 10 | apache-2.0 | with zoo |" in page.text
    assert list(page.drawings) == ["poolformer_s12"] and 'create_model("poolformer_s12.sail_in1k"' in page.text


def test_the_pages_of_the_api_have_every_public_name():
    pages = "\n".join(reference.pages().values())
    for name in set(zoo.__all__) - {"bench"}:
        assert f"heading: zoo.{name}\n" in pages
    for name, block in blocks_of("token_mixer").items():  # other tests may have added some of their own
        assert (f"heading: {name}\n" in pages) == block.__module__.startswith("zoo.") or f"## {name}\n" in pages


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


def test_a_docstring_is_no_markup():
    paper = """Paper: O'Brien and van der Berg, "A & B_c", arXiv 2401.00001."""
    about = parse(f"# X: <script>a `<b>` c</script>.\n\n{paper}\n```")
    assert inert(about.summary) == "\\# X: &lt;script>a `<b>` c&lt;/script>."
    assert inert(about.notes) == "\\```"
    (entry,) = citations("x", about)
    assert "author = {O'Brien and van der Berg}" in entry and r"title = {{A \& B\_c}}" in entry
    assert linked("Code", "some-one/Repo.js, a/b.py; x/y.") == (
        "[some-one/Repo.js](https://github.com/some-one/Repo.js), a/b.py; [x/y](https://github.com/x/y)."
    )


def test_a_models_row_is_text_and_what_is_not_known_is_left_out():
    entry = dict(MODELS["mixer_b16_224"])
    entry["configurations"] = [{**entry["configurations"][0], "licence": "</script>|<b>", "active_params": None}]
    (row,) = rows({"mixer_b16_224": entry})
    assert row["licence"] == "&lt;/script&gt;|&lt;b&gt;" and row["active (M)"] is None
    assert published({"mixer_b16_224": entry}) == {}
    assert "Pareto front" in plot_html({"mixer_b16_224": entry})


def test_nothing_but_an_atlas_is_replaced(tmp_path):
    (tmp_path / "thesis.md").write_text("years of work", "utf-8")
    with pytest.raises(ValueError, match="holds something else than an atlas; name another folder"):
        write_atlas(tmp_path)
    with pytest.raises(ValueError, match=r"thesis.md is a file; name a folder"):
        write_atlas(tmp_path / "thesis.md")
    assert (tmp_path / "thesis.md").read_text("utf-8") == "years of work"
    (tmp_path / MARK).touch()
    assert checked_target(tmp_path) == tmp_path.resolve()


def test_an_unknown_family_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError, match="family 'mixr' is unknown; did you mean 'mixer'"):
        write_atlas(tmp_path / "site", ["mixr"])
    assert not any(tmp_path.iterdir())


def test_places_that_cannot_be_replaced_are_refused(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    for place, words in {
        tmp_path / "file" / "site": "cannot be made: .*; name another folder",
        Path("."): "is a folder in use, and cannot be replaced as a whole; name one below it",
        Path("/"): "holds something else than an atlas",
    }.items():
        (tmp_path / "here").mkdir(exist_ok=True)
        monkeypatch.chdir(tmp_path / "here")
        with pytest.raises(ValueError, match=words):
            checked_target(place)
    (tmp_path / "link").symlink_to(tmp_path / "there", target_is_directory=True)
    assert checked_target(tmp_path / "link") == tmp_path / "there"


def test_an_interrupt_leaves_the_old_atlas(tmp_path, monkeypatch):
    target, site, rename = tmp_path / "target", tmp_path / "site", Path.rename
    for folder in (target, site):
        folder.mkdir()
        (folder / "name").write_text(folder.name)

    def interrupted(path, to):
        if path == site:
            raise KeyboardInterrupt
        return rename(path, to)

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        _replace(target, site, tmp_path / "before")
    assert (target / "name").read_text() == "target"
    monkeypatch.undo()
    _replace(target, site, tmp_path / "before")
    assert (target / "name").read_text() == "site" and os.listdir(tmp_path) == ["target"]


def test_a_missing_package_and_missing_docstrings_are_told_before_anything_is_done(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "plotly", None)
    with pytest.raises(ModuleNotFoundError, match=r"with plotly, which is not installed: pip install 'zoo\[atlas\]'"):
        write_atlas(tmp_path / "site")
    with pytest.raises(TypeError, match="families is the text 'mixer'; give a list of names"):
        write_atlas(tmp_path / "site", "mixer")
    monkeypatch.setattr("sys.flags", SimpleNamespace(optimize=2))
    with pytest.raises(ValueError, match="python -OO leaves out; run it without"):
        write_atlas(tmp_path / "site")
    assert not any(tmp_path.iterdir())
