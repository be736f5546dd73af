"""One small recipe on digits for each family, what runs them all, and the table of all recipes."""

import json
import os
import random

import pytest

pytest.importorskip("accelerate", reason="the recipes need zoo[train]")

from conftest import ROOT, assert_fresh, losses_of_twenty_steps
from PIL import Image

import zoo
from recipes import overview, run_digits
from zoo.registry import families
from zoo.training import Trainer, dump_recipe, load_recipe

PATHS = run_digits.recipes()
SOME = random.Random(0).sample(sorted(PATHS), 4)


def test_every_family_of_vision_models_has_one():
    """Of those that the table of all recipes knows; a family that is newer is a file more."""
    vision = {name for name, family in families().items() if family.model.vision}
    assert set(PATHS) <= vision
    assert not [name for name in vision - set(PATHS) if f"[{name}](digits" in (ROOT / "recipes/README.md").read_text()]


@pytest.mark.parametrize("family", PATHS)
def test_it_is_of_its_family_and_small(family):
    recipe = load_recipe(PATHS[family])
    assert (recipe.model.name, recipe.model.kwargs) == (f"{family}_digits", {})
    assert zoo.model_info(recipe.model.name).family == family
    model = zoo.create_model(recipe.model.name, device="meta")
    assert sum(parameter.numel() for parameter in model.parameters()) < 150_000
    assert (recipe.data.name, recipe.train.threads, recipe.expect.metric) == ("digits", 1, "test/top1")
    assert recipe.expect.status == "reproduced" and recipe.expect.value >= 97


@pytest.mark.parametrize(
    "family", [name if name in SOME else pytest.param(name, marks=pytest.mark.slow) for name in PATHS]
)
def test_twenty_steps_lower_the_loss(family, tmp_path):
    losses = losses_of_twenty_steps(PATHS[family], tmp_path / "run")
    assert sum(losses[-5:]) < sum(losses[:5])


def test_pictures_of_ones_own_take_two_lines(tmp_path):
    """The two that recipes/README.md shows, of which the second is about the pictures."""
    for name, shade in {"cat": 0, "dog": 120, "owl": 250}.items():
        (tmp_path / "photographs" / name).mkdir(parents=True)
        for number in range(12):
            Image.new("RGB", (20 + number, 16), (shade, number, shade)).save(
                tmp_path / "photographs" / name / f"{number}.png"
            )
    lines = overview.HEADER.partition("```yaml\n")[2].partition("```")[0].splitlines()
    assert len(lines) == 2
    own = "\n".join(lines).replace("recipes/", f"{os.path.relpath(ROOT, tmp_path)}/recipes/")
    (tmp_path / "mine.yaml").write_text(own.replace("root: ", f"root: {tmp_path}/"))
    short = ["train.duration=2st", "train.batch_size=4", "schedule.warmup=1st", "data.workers=0"]
    recipe = load_recipe(tmp_path / "mine.yaml", short)
    with pytest.warns(UserWarning, match="nothing for validation|expect.metric"):
        trainer = Trainer(recipe, tmp_path / "run")
    assert (trainer.plain_model.num_classes, trainer.recipe.data.img_size, trainer.recipe.data.in_chans) == (3, 8, 1)
    assert "validation/top1" in trainer.run()
    assert load_recipe(tmp_path / "run" / "recipe.yaml").model.kwargs["num_classes"] == 3
    assert zoo.create_model(f"local-dir:{tmp_path}/run/model").num_classes == 3


@pytest.fixture
def one_recipe(tmp_path, monkeypatch):
    """A folder with one short recipe, in the place of recipes/digits."""
    folder = tmp_path / "digits"
    folder.mkdir()
    base = os.path.relpath(ROOT / "recipes" / "bases" / "digits.yaml", folder)
    (folder / "hourglass.yaml").write_text(
        f"base: {base}\nmodel: {{name: hourglass_test, kwargs: {{dim: 32, depth: 1}}}}\n"
        "train: {duration: 2st}\nschedule: {warmup: 1st}\n"
        "expect:\n  metric: test/top1\n  status: untested\n\n# what comes after it stays\n"
    )
    monkeypatch.setattr(run_digits, "FOLDER", folder)
    monkeypatch.setattr(run_digits, "TABLE", folder / "README.md")
    return folder / "hourglass.yaml"


def test_a_result_is_kept_and_counts_for_its_recipe_alone(one_recipe, tmp_path, capsys):
    first = run_digits.train("hourglass", 3, tmp_path / "runs")
    assert first["parameters"] > 0 and first["metrics"]["test/top1"] >= 0
    file = tmp_path / "runs" / "hourglass-3.json"
    before = file.stat().st_mtime_ns
    assert run_digits.train("hourglass", 3, tmp_path / "runs") == first and file.stat().st_mtime_ns == before
    assert zoo.create_model(f"local-dir:{tmp_path}/runs/hourglass/seed-3/model").num_classes == 10
    assert run_digits.results(tmp_path / "runs") == {"hourglass": {3: first}}
    one_recipe.write_text(one_recipe.read_text().replace("depth: 1", "depth: 2"))
    assert run_digits.results(tmp_path / "runs") == {}
    with pytest.raises(ValueError, match="holds a run of another recipe .*depth"):
        run_digits.train("hourglass", 3, tmp_path / "runs")


def test_results_are_written_into_the_recipe_and_the_table(one_recipe, tmp_path, capsys):
    for seed, value in enumerate((97.5, 98.0, 99.7)):
        result = {
            "family": "hourglass",
            "seed": seed,
            "metrics": {"test/top1": value},
            "parameters": 1234,
            "seconds": 20.0 + seed,
            "hardware": "one core of X",
            "recipe": dump_recipe(load_recipe(one_recipe, [f"train.seed={seed}"])),
        }
        (tmp_path / f"hourglass-{seed}.json").write_text(json.dumps(result))
    run_digits.main(["--write", "--output", str(tmp_path)])
    expect = load_recipe(one_recipe).expect
    assert (expect.status, expect.value, expect.tolerance, expect.time) == ("reproduced", 98.4, 1.9, "20 s")
    assert "which gave 97.50, 98.00, 99.70" in expect.note and "after it stays" in one_recipe.read_text()
    line = "| [hourglass](hourglass.yaml) | `hourglass_test` | 1,234 | 97.50 | 98.00 | 99.70 | 98.40 | 20 s |"
    assert line in (one_recipe.parent / "README.md").read_text() and line in capsys.readouterr().out
    (tmp_path / "hourglass-1.json").unlink()
    with pytest.raises(SystemExit, match=r"not every seed of \[0, 1, 2\] was run of \['hourglass'\]"):
        run_digits.main(["--write", "--output", str(tmp_path)])


def test_what_goes_wrong_is_told_and_the_others_are_trained(one_recipe, tmp_path, capsys):
    with pytest.raises(SystemExit, match="no recipe for unicorn; there are hourglass"):
        run_digits.main(["unicorn"])


def test_the_table_is_that_of_the_recipes():
    assert_fresh("recipes/README.md", overview.page())


def test_the_table_of_digits_is_that_of_the_recipes():
    rows = {
        line.split("|")[1].partition("]")[0].strip(" ["): line.split(" | ")
        for line in (ROOT / "recipes/digits/README.md").read_text("utf-8").splitlines()
        if line.startswith("| [")
    }
    assert rows.keys() == PATHS.keys()
    for family, cells in rows.items():
        expect = load_recipe(PATHS[family]).expect
        assert float(cells[-2]) == expect.value and cells[-1].strip(" |") == expect.time
