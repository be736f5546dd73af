"""The README's examples run as they stand, and the generated pages are those that the code writes."""

import re
from pathlib import Path

import pytest
from conftest import FULL_VARIANTS, ROOT

import zoo
import zoo.tools.card
from zoo.registry import families

README = (ROOT / "README.md").read_text("utf-8")
CARD = (ROOT / "MODEL_CARD.md").read_text("utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```", README, re.S)


def test_there_are_eight_examples():
    assert len(EXAMPLES) == 8


@pytest.mark.parametrize("example", EXAMPLES, ids=range(1, len(EXAMPLES) + 1))
def test_readme_example(example, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(example, "README.md", "exec"), {})


def test_readme_names_every_model_and_block():
    named = set()
    for pattern in re.findall(r"`(\w*\{[\w,]+\}\w*)`", README):
        before, choices, after = re.fullmatch(r"(\w*)\{([\w,]+)\}(\w*)", pattern).groups()
        named |= {before + choice + after for choice in choices.split(",")}
    assert named == set(FULL_VARIANTS)
    for kind in ("token_mixer", "channel_mixer"):
        assert all(f"`{name}`" in README for name in zoo.list_blocks(kind))


def test_readme_names_the_licences_that_are_not_apache():
    for name in zoo.list_models(pretrained=True):
        info = zoo.model_info(name)
        usual = "mit" if info.family.startswith(("swin", "kat")) else "apache-2.0"
        assert info.pretrained_cfg.get("license") == usual or f"`{name}`" in README, name


def test_readme_commands_exist():
    makefile = (ROOT / "Makefile").read_text("utf-8")
    text = README + (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    for command in set(re.findall(r"(?:^|`)make ([a-z-]+)", text, re.M)):
        assert re.search(rf"^{command}:", makefile, re.M), f"make {command} is no target"
    for path in re.findall(r"\]\((?!http)([^)#]+)\)|recipes/[\w.]+", README):
        assert not path or (ROOT / path).exists(), path


@pytest.mark.slow
@pytest.mark.parametrize("name", families())
def test_model_card_is_what_the_registry_says(name):
    assert zoo.tools.card.section(families()[name]) in CARD, "MODEL_CARD.md is old; run `make card`"


@pytest.mark.parametrize("name", families())
def test_model_card_has_every_model_of_a_family_and_the_first_as_it_is(name):
    """All else of the card follows from what is compared with the published figures elsewhere."""
    family = families()[name]
    first, *_ = names = zoo.list_models(family=name, include_tags=True)
    assert zoo.tools.card.row(family, first) in CARD and family.about in CARD, "MODEL_CARD.md is old; run `make card`"
    listed = re.findall(r"^\| `([^`]+)`", CARD[CARD.index(f"\n## {name}\n") :].split("\n## ", 2)[1], re.M)
    assert [n.split(".")[0] for n in listed] == [n.split(".")[0] for n in names], "MODEL_CARD.md is old"


def test_cost_and_accuracy_of_a_row_are_at_the_size_of_its_images():
    """The size that the configuration of the weights has, at which their MACs and accuracy are published."""
    rows = [line.split(" | ") for line in CARD.splitlines() if line.startswith("| `")]
    macs = {row[0].strip("|` "): (float(row[3]), row[4]) for row in rows}
    for name in zoo.list_models(include_tags=True):
        cfg = zoo.model_info(name).pretrained_cfg
        written = macs[name if name in macs else name.split(".")[0]]
        assert written[1] == " x ".join(map(str, cfg["input_size"])), name
        published = zoo.model_info(name).published.get(name)
        if published and published.macs and not published.deploy_params and published.classes == 1000:
            assert written[0] == pytest.approx(published.macs, rel=0.015), name
    assert macs["convnext_base.fb_in22k_ft_in1k_384"][0] > 2.9 * macs["convnext_base.fb_in22k_ft_in1k"][0]
    for name in ("convnext_tiny.fb_in22k_ft_in1k_384", "m3vit_tiny_patch16_cityscapes"):
        assert zoo.tools.card.row(families()[zoo.model_info(name).family], name) in CARD, (
            "MODEL_CARD.md is old; run `make card`"
        )


def test_model_card_has_the_families_and_nothing_else():
    assert CARD.startswith(zoo.tools.card.HEADER)
    assert re.findall(r"^## (.*)", CARD, re.M) == list(families())


def test_no_file_is_large():
    """A module can be read at one sitting."""
    long = [str(p) for p in Path(zoo.__file__).parent.rglob("*.py") if len(p.read_text("utf-8").splitlines()) > 450]
    assert not long
