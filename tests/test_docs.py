"""The README's examples run as they stand, and the generated pages are those that the code writes."""

import random
import re

import pytest
from conftest import DATA, ROOT, assert_fresh

import zoo
from zoo.registry import families
from zoo.tools import card, overview
from zoo.training import load_recipe

README = (ROOT / "README.md").read_text("utf-8")
CARD = (ROOT / "MODEL_CARD.md").read_text("utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```", README, re.S)


def test_there_are_eight_examples():
    assert README.partition("## Eight examples")[2].partition("\n## ")[0].count("```python\n") == 8


@pytest.mark.parametrize("example", EXAMPLES, ids=range(1, len(EXAMPLES) + 1))
def test_readme_example(example, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(example, "README.md", "exec"), {})


def test_readme_recipe(tmp_path):
    (recipe,) = re.findall(r"```yaml\n(.*?)```", README, re.S)
    (tmp_path / "mine.yaml").write_text(recipe)
    assert load_recipe(tmp_path / "mine.yaml").model.kwargs["num_classes"] == 3


def rows(page: str, table: str) -> dict[str, str]:
    """The lines of one of the README's tables, by the name that each begins with."""
    between = page.partition(f"<!-- {table} -->")[2].partition(f"<!-- /{table} -->")[0]
    return {name: line for line in between.splitlines() for name in re.findall(r"^\| `([^`]+)` \|", line)}


def listed(family: str) -> list[str]:
    """The models that the card lists of a family."""
    part = CARD.partition(f"\n## {family}\n")[2].partition("\n## ")[0]
    return re.findall(r"^\| `([^`]+)`", part, re.M)


# A part that is one new file, or a variant that is one new line, leaves these tests green: a generated page is compared
# in what it has, and `make card` adds what is newer than it.
WRITTEN = [name for name in families() if f"\n## {name}\n" in CARD]


def test_readme_tells_of_each_family_what_the_registry_says():
    table = rows(README, "families")
    assert set(WRITTEN) == set(table) <= set(families())
    for name, row in table.items():
        variants = list(dict.fromkeys(model.split(".")[0] for model in listed(name)))
        assert overview.family_row(families()[name], variants) == row, "README.md is old; run `make card`"


def test_readme_names_the_licences_that_are_not_the_usual_ones():
    row = rows(README, "families")["vit"]
    assert "| apache-2.0; " in row and "cc-by-nc-4.0 (`vit_base_patch16_224.mae`)" in row
    assert rows(README, "families")["kan"].endswith("| none released |")


def test_readme_names_blocks_that_there_are():
    table = rows(README, "blocks")
    fresh = rows(overview.with_tables(README, overview.readme_tables()), "blocks")
    for kind, row in table.items():
        assert set(re.findall(r"`(\w+)`", row)) <= set(re.findall(r"`(\w+)`", fresh[kind])), "run `make card`"


def test_tables_are_written_between_their_comments_alone():
    tables = overview.readme_tables()
    page = overview.with_tables(README, tables)
    assert overview.with_tables(page, tables) == page
    outside = [re.sub(r"<!-- (\w+) -->.*?<!-- /\1 -->", "", text, flags=re.S) for text in (page, README)]
    assert outside[0] == outside[1]
    for broken in (
        README.replace("<!-- /blocks -->", ""),
        README + "<!-- families -->",
        "<!-- /families --> <!-- families -->",
    ):
        with pytest.raises(ValueError, match="the page needs one <!-- "):
            overview.with_tables(broken, tables)


def test_readme_commands_exist():
    makefile = (ROOT / "Makefile").read_text("utf-8")
    text = README + (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    for command in set(re.findall(r"(?:^|`)make ([a-z-]+)", text, re.M)):
        assert re.search(rf"^{command}:", makefile, re.M), f"make {command} is no target"
    for path in re.findall(r"\]\((?!http)([^)#]+)\)|recipes/[\w.]+", README):
        assert not path or (ROOT / path).exists(), path


@pytest.mark.slow
@pytest.mark.parametrize("name", WRITTEN)
def test_model_card_is_what_the_registry_says(name):
    fresh = card.section(families()[name]).splitlines()
    old = CARD.partition(f"\n## {name}\n")[2].partition("\n## ")[0].splitlines()
    assert not [line for line in old if line not in fresh], "MODEL_CARD.md is old; run `make card`"


SOME = random.Random(0).sample(WRITTEN, 8)  # of the others' costs test_index knows too


@pytest.mark.parametrize(
    "name", [name if name in SOME else pytest.param(name, marks=pytest.mark.slow) for name in WRITTEN]
)
def test_model_card_has_models_of_a_family_and_the_first_as_it_is(name):
    """All else of the card follows from what is compared with the published figures elsewhere."""
    family, (first, *_) = families()[name], listed(name)
    assert card.row(family, first) in CARD and family.about in CARD, "MODEL_CARD.md is old; run `make card`"
    known = zoo.list_models(family=name, include_tags=True)
    known += [model.split(".")[0] for model in known]  # a tag without weights is not written
    assert set(listed(name)) <= set(known), "MODEL_CARD.md is old; run `make card`"


def test_cost_and_accuracy_of_a_row_are_at_the_size_of_its_images():
    """The size that the configuration of the weights has, at which their MACs and accuracy are published."""
    lines = [line.split(" | ") for line in CARD.splitlines() if line.startswith("| `")]
    macs = {line[0].strip("|` "): (float(line[3]), line[4]) for line in lines}
    compared = 0
    for name in zoo.list_models(include_tags=True):
        written = macs.get(name) or macs.get(name.split(".")[0])
        if written is None:
            continue  # it is newer than the card
        cfg = zoo.model_info(name).pretrained_cfg
        assert written[1] == " x ".join(map(str, cfg["input_size"])), name
        published = zoo.model_info(name).published.get(name)
        if published and published.macs and not published.deploy_params and published.classes == 1000:
            assert written[0] == pytest.approx(published.macs, rel=0.015), name
            compared += 1
    assert compared > len(WRITTEN)
    assert macs["convnext_base.fb_in22k_ft_in1k_384"][0] > 2.9 * macs["convnext_base.fb_in22k_ft_in1k"][0]
    for name in ("convnext_tiny.fb_in22k_ft_in1k_384", "m3vit_tiny_patch16_cityscapes"):
        assert card.row(families()[zoo.model_info(name).family], name) in CARD, "MODEL_CARD.md is old; run `make card`"


def test_model_card_has_families_and_nothing_else():
    assert CARD.startswith(card.HEADER)
    assert re.findall(r"^## (.*)", CARD, re.M) == sorted(WRITTEN)


def test_a_page_is_compared_in_what_it_has(tmp_path, monkeypatch):
    page = "# Blocks\n\n## stem\n\n**`conv`** One.\n\n**`patch`** Two.\n"
    (tmp_path / "page.md").write_text(page.replace("**`patch`** Two.\n", ""))
    monkeypatch.setattr("conftest.ROOT", tmp_path)
    assert_fresh("page.md", page)  # what is newer than the page may be missing from it
    for change in (
        page.replace("One", "Three"),
        page.replace("conv", "convolution"),
        page.replace("# Blocks", "# Parts"),
    ):
        with pytest.raises(AssertionError, match="page.md is old"):
            assert_fresh("page.md", change)


def test_every_stored_reference_is_described():
    text = (DATA / "README.md").read_text("utf-8")
    for path in DATA.glob("*.safetensors"):
        assert f"`{path.stem}`" in text and f"{path.stat().st_size:,}" in text, path.name
    for path in (DATA / "folders").iterdir():
        assert f"| `{path.name}` |" in text, path.name
