"""Recipes are read strictly: what is wrong is named with file, line and remedy, what is right comes back unchanged."""

import re

import pytest
from conftest import ROOT

from zoo.training import RecipeError, dump_recipe, load_recipe
from zoo.training.recipe.recipe import differences
from zoo.training.recipe.schema import Duration

RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))

TEXT = """\
task: {name: classify}
model:
  name: mixer_test
  kwargs: {img_size: 8, patch_size: [2, 4], channel_mixer: {name: mlp, ratio: 2}}
data: {name: digits}
train:
  duration: 2ep
  batch_size: 64
  eval_every: 1ep
  checkpoint_every: 5st
optim: {name: adamw, lr: 1e-3, weight_decay: 0, betas: [0.9, 0.95]}
schedule: {name: cosine, warmup: 3st}
aux_losses: {balance: 0.01}
expect: {metric: test/top1, status: untested}
"""


@pytest.fixture
def recipe_file(tmp_path):
    def write(text=TEXT):
        path = tmp_path / "recipe.yaml"
        path.write_text(text, "utf-8")
        return path

    return write


def test_reads_typed_values(recipe_file):
    recipe = load_recipe(recipe_file())
    assert recipe.train.duration == Duration(2, "ep") and recipe.train.duration.steps(19) == 38
    assert recipe.train.checkpoint_every.steps(19) == 5
    assert recipe.optim.lr == 0.001 and type(recipe.optim.weight_decay) is float
    assert recipe.optim.betas == (0.9, 0.95)
    assert recipe.model.kwargs == {"img_size": 8, "patch_size": [2, 4], "channel_mixer": {"name": "mlp", "ratio": 2}}
    assert recipe.train.grad_clip is None and recipe.aux_losses == {"balance": 0.01}


@pytest.mark.parametrize(
    ("old", "new", "line", "message"),
    [
        ("batch_size: 64", "batch_sise: 64", 8, r"train\.batch_sise: .*did you mean 'batch_size'"),
        ("optim:", "optimiser:", 11, r"optimiser: .*did you mean 'optim'"),
        ("batch_size: 64", "batch_size: many", 8, r"train\.batch_size: expected a whole number, got 'many' \(str\)"),
        ("batch_size: 64", "batch_size: 64.5", 8, r"train\.batch_size: expected a whole number, got '64.5'"),
        ("batch_size: 64", "batch_size: true", 8, r"train\.batch_size: expected a whole number, got 'true' \(bool\)"),
        ("batch_size: 64", "batch_size: 0", 8, r": train\.batch_size is 0; it must be from 1 to 1000000"),
        ("  batch_size: 64\n", "", 7, r"train: missing key 'batch_size', a whole number"),
        ("data: {name: digits}\n", "", 1, r"missing key 'data', a section"),
        ("batch_size: 64", "batch_size: 64\n  batch_size: 32", 9, r"train\.batch_size: given twice, first at .*:8"),
        ("lr: 1e-3", "lr: .nan", 11, r"optim\.lr: expected a finite number, got '.nan' \(float\)"),
        ("lr: 1e-3", "lr: 0", 11, r": optim\.lr is 0.0; it must be above 0 and at most 10000"),
        ("[0.9, 0.95]", "[0.9]", 11, r"optim: adamw has 2 betas, optim\.betas gives 1: give 2, or none"),
        ("name: adamw", "name: adamww", 11, r"optim: .*'adamww' is unknown; did you mean 'adamw'"),
        ("adamw, lr: 1e-3", "sgd, lr: 1e-3", 11, r"optim: sgd has no betas"),
        ("name: cosine", "name: cosinus", 12, r"schedule\.name: expected one of cosine, linear, constant, got"),
        ("duration: 2ep", "duration: 20", 7, r"train\.duration: .*no unit: write 20ep or 20st"),
        ("duration: 2ep", "duration: 2 epochs", 7, r"train\.duration: expected a duration such as 5ep .*'2 epochs'"),
        ("duration: 2ep", "duration: 0ep", 7, r"the number in train\.duration=0ep is 0; it must be from 1 to 99999999"),
        ("{name: digits}", "digits", 5, r"data: expected a section of `key: value` lines, got 'digits'"),
        ("{name: digits}", "{name: digit}", 5, r"data: 'digit' is unknown; did you mean 'digits'"),
        (
            "{name: digits}",
            "{shift: 1}",
            5,
            r"data: missing key 'name', one of: csv, digit_canvas, digits, formulas, hf_dataset",
        ),
        ("{name: digits}", "{name: digits, sift: 1}", 5, r"data\.sift: .*did you mean 'shift'"),
        ("balance: 0.01", "balance: high", 13, r"aux_losses\.balance: expected a number, got 'high'"),
        ("status: untested", "status: reproduced", 14, "so value, tolerance, hardware, time must be given"),
        ("status: untested", "status: untested, value: 98.0", 14, r"expect: status is untested, so there is no value"),
        ("{name: classify}", "{name: classify", 2, "not valid YAML"),
    ],
)
def test_error_names_file_line_and_remedy(recipe_file, old, new, line, message):
    assert old in TEXT
    path = recipe_file(TEXT.replace(old, new, 1))
    with pytest.raises(RecipeError, match=message) as caught:
        load_recipe(path)
    assert str(path) in str(caught.value)
    assert f"{path}:{line}: " in str(caught.value)


def test_empty_file(recipe_file):
    with pytest.raises(RecipeError, match=r"recipe\.yaml: the file is empty"):
        load_recipe(recipe_file("# nothing\n"))


def test_no_object_is_built_from_a_tag(recipe_file):
    text = TEXT.replace("img_size: 8", "img_size: !!python/object/apply:os.getcwd []")
    with pytest.raises(RecipeError, match=r"recipe\.yaml:4: model\.kwargs\.img_size: .*python/object"):
        load_recipe(recipe_file(text))


def test_overrides(recipe_file):
    overrides = ["train.duration=7st", "optim.lr=2e-4", "model.kwargs.depth=5", "train.grad_clip=1", "optim.betas=null"]
    recipe = load_recipe(recipe_file(), [*overrides, "task={name: denoise, sigma: 0.2}", "aux_losses.z=1"])
    assert recipe.train.duration == Duration(7, "st") and recipe.train.grad_clip == 1.0
    assert recipe.optim.lr == 2e-4 and recipe.optim.betas is None
    assert recipe.model.kwargs["depth"] == 5 and recipe.model.kwargs["img_size"] == 8
    assert recipe.task.sigma == 0.2 and recipe.aux_losses == {"balance": 0.01, "z": 1.0}


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("train.batch_sise=3", "override train.batch_sise=3: train.batch_sise: .*did you mean 'batch_size'"),
        ("train.batch_size=many", "override train.batch_size=many: train.batch_size: expected a whole number"),
        ("train.duration=5", "override train.duration=5: train.duration: .*write 5ep or 5st"),
        ("train.duration", "expected key.sub=value"),
        ("train..seed=1", "expected key.sub=value"),
        ("optim.name.x=1", r"optim.name.x leads through 'adamw' \(str\) at .*recipe.yaml:11, which has no keys"),
        ("train.seed=[1", "override train.seed=.*not valid YAML"),
    ],
)
def test_override_errors(recipe_file, assignment, message):
    with pytest.raises(RecipeError, match=message):
        load_recipe(recipe_file(), [assignment])


def test_dump_loads_to_the_same_recipe(recipe_file):
    recipe = load_recipe(recipe_file(), ["optim.lr=1e-05", "expect.note='text: with # signs'", "data.shift=1"])
    text = dump_recipe(recipe)
    assert load_recipe(recipe_file(text)) == recipe
    assert "grad_clip: null" in text  # the defaults are written out


def test_differences_are_those_that_matter(recipe_file):
    recipe = load_recipe(recipe_file())
    same = ["train.eval_every=3ep", "train.checkpoint_every=1st", "train.log_every=1st", "expect.note=x"]
    assert differences(recipe, load_recipe(recipe_file(), same)) == []
    other = load_recipe(recipe_file(), ["train.batch_size=32", "model.kwargs.depth=2", "data.shift=1"])
    changed = ["data.shift: 0.0 -> 1.0", "model.kwargs.depth: None -> 2", "train.batch_size: 64 -> 32"]
    assert differences(recipe, other) == changed


def test_expectation_is_compared(recipe_file):
    run = "expect={metric: test/top1, status: reproduced, value: 98, tolerance: 0.5, hardware: a CPU, time: 1 min}"
    expect = load_recipe(recipe_file(), [run]).expect
    assert expect.compare({"test/top1": 98.4}).endswith("expected 98 within 0.5, met")
    assert expect.compare({"test/top1": 97.4}).endswith("expected 98 within 0.5, MISSED")
    assert "did you mean 'test/top5'" in expect.compare({"test/top5": 99.0})


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_loads_and_says_how_to_run_it(path, recipe_file):
    recipe = load_recipe(path)
    assert load_recipe(recipe_file(dump_recipe(recipe))) == recipe
    header = re.match(r"(#.*\n)+", path.read_text("utf-8"))[0]
    scripts = re.findall(r"(\w+\.py)\b", header)
    assert scripts and all((path.parent / script).exists() for script in scripts), "the header says how to run it"
