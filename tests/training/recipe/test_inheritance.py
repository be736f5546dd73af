"""`base: other.yaml` in a recipe: what it does not say it has from there, and what cannot be had so is refused."""

import pytest

from zoo.training import RecipeError, dump_recipe, load_recipe
from zoo.training.recipe.inheritance import FILES

WHOLE = """\
task: {name: classify, label_smoothing: 0.1}
model: {name: mixer_test, kwargs: {in_chans: 1, img_size: 8, patch_size: 2}}
data: {name: digits, shift: 0.5}
train: {duration: 6st, batch_size: 64, eval_every: 6st, checkpoint_every: 2st}
optim: {name: adamw, lr: 1e-3, weight_decay: 0.05}
schedule: {name: cosine}
expect: {metric: test/top1, status: untested}
"""


@pytest.fixture
def write(tmp_path):
    """Write a recipe, by its path below a folder of the test; it has its path."""

    def write(name, text):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    write("base.yaml", WHOLE)
    return write


def test_a_recipe_has_of_its_base_what_it_does_not_say(write):
    path = write("digits/vit.yaml", "base: ../base.yaml\nmodel: {kwargs: {patch_size: 4, dim: 16}}\noptim: {lr: 0.5}\n")
    recipe, base = load_recipe(path, ["train.seed=3"]), load_recipe(path.parent.parent / "base.yaml")
    assert recipe.model.name == "mixer_test"
    assert recipe.model.kwargs == {"in_chans": 1, "img_size": 8, "patch_size": 4, "dim": 16}
    assert recipe.optim.lr == 0.5 and recipe.optim.weight_decay == 0.05 and recipe.train.seed == 3
    assert (recipe.task, recipe.data, recipe.schedule) == (base.task, base.data, base.schedule)


def test_the_resolved_recipe_stands_alone(write, tmp_path):
    path = write("deep/one.yaml", "base: two.yaml\ntrain: {seed: 7}\n")
    write("deep/two.yaml", "base: ../base.yaml\noptim: {betas: [0.5, 0.6]}\n")
    recipe = load_recipe(path)
    alone = write("elsewhere/recipe.yaml", dump_recipe(recipe))
    assert recipe.optim.betas == (0.5, 0.6) and "base" not in alone.read_text()
    assert load_recipe(alone) == recipe


def test_a_section_of_another_name_replaces_that_of_the_base(write):
    """Its keys are those of another thing: of the shift of digits, a folder of pictures knows nothing."""
    path = write("mine.yaml", "base: base.yaml\ndata: {name: image_folder, root: pictures}\nmodel: {name: vit_test}\n")
    recipe = load_recipe(path)
    assert recipe.data.root == "pictures" and recipe.model.kwargs == {}
    same = write("same.yaml", "base: base.yaml\ndata: {name: digits, rotate: 5}\n")
    assert (load_recipe(same).data.shift, load_recipe(same).data.rotate) == (0.5, 5)


def test_optimizer_and_schedule_keep_what_is_said_of_them_by_any_name(write):
    path = write("mine.yaml", "base: base.yaml\noptim: {name: lamb, lr: 0.5}\nschedule: {name: linear}\n")
    recipe = load_recipe(path)
    assert (recipe.optim.name, recipe.optim.lr, recipe.optim.weight_decay) == ("lamb", 0.5, 0.05)
    assert recipe.schedule.name == "linear"


def test_an_empty_section_takes_away_what_the_base_has(write):
    write(
        "above.yaml",
        "base: base.yaml\nmethods: {noise: {name: gradient_noise, eta: 0.1}}\ntrain: {best: {patience: 2}}\n",
    )
    assert load_recipe(write("with.yaml", "base: above.yaml\n")).methods
    assert not load_recipe(write("without.yaml", "base: above.yaml\nmethods: {}\n")).methods


def test_what_the_runs_of_a_base_gave_is_expected_of_no_other_recipe(write):
    reproduced = "expect: {metric: test/top1, status: reproduced, value: 98, tolerance: 1, hardware: a core, time: 9 s}"
    write("run.yaml", WHOLE.replace("expect: {metric: test/top1, status: untested}", reproduced))
    expect = load_recipe(write("other.yaml", "base: run.yaml\noptim: {lr: 1}\n")).expect
    assert (expect.metric, expect.status, expect.value, expect.time) == ("test/top1", "untested", None, None)
    own = load_recipe(write("own.yaml", f"base: run.yaml\n{reproduced.replace('98', '97')}\n")).expect
    assert (own.status, own.value, own.time) == ("reproduced", 97, "9 s")


def test_null_takes_away_and_a_list_replaces(write):
    write("base.yaml", WHOLE + "aux_losses: {balance: 1.0}\n")
    path = write("mine.yaml", "base: base.yaml\ntrain: {freeze: [stem]}\noptim: {betas: null}\n")
    assert load_recipe(path).train.freeze == ("stem",) and load_recipe(path).aux_losses == {"balance": 1.0}


@pytest.mark.parametrize(
    "text, message",
    [
        ("base: 3\n", r"mine.yaml:1: base: expected the path of another recipe, such as \.\./base.yaml, got '3'"),
        ("base: [base.yaml]\n", "mine.yaml:1: base: expected the path of another recipe, .* got a list"),
        ("base:\n", "mine.yaml:1: base: expected the path of another recipe"),
        ("\nbase: /base.yaml\n", "mine.yaml:2: base: '/base.yaml' is absolute: write it as seen from "),
        ("base: 'C:\\base.yaml'\n", "mine.yaml:1: base: .* is absolute"),
        ("base: none.yaml\n", r"mine.yaml:1: base: there is no recipe .*none.yaml: name a YAML file"),
        ("base: .\n", r"mine.yaml:1: base: .* cannot be read \(Is a directory\): name a YAML file"),
        ('base: "a\\0b"\n', "mine.yaml:1: base: .* cannot be read"),
        ("base: mine.yaml\n", "mine.yaml:1: base: 'mine.yaml' is .*mine.yaml, which stands on this recipe itself"),
        ("base: circle.yaml\n", "circle.yaml:1: base: 'mine.yaml' is .*mine.yaml, which stands on this recipe"),
        ("base: base.yaml\nbase: base.yaml\n", "mine.yaml:2: base: given twice, first at .*mine.yaml:1"),
        ("base: list.yaml\n", "list.yaml:1: expected a section of `key: value` lines, got a list"),
        ("base: broken.yaml\n", "broken.yaml:.*: not valid YAML"),
        ("base: base.yaml\noptim: {lr: 1, lr: 2}\n", "mine.yaml:2: optim.lr: given twice, first at .*mine.yaml:2"),
        ("base: wrong.yaml\n", "wrong.yaml:8: optm: the key is unknown; did you mean 'optim'"),
        ("base: base.yaml\noptim: {lr: fast}\n", "mine.yaml:2: optim.lr: expected a number"),
        ("base: base.yaml\noptim: 3\n", "mine.yaml:2: optim: expected a section"),
        ("base: base.yaml\ndata: {root: x}\n", "mine.yaml:2: data.root: the key is unknown"),
        ("train: {base: base.yaml}\n", "mine.yaml:1: "),  # it is a key of the whole recipe alone
    ],
)
def test_what_is_no_base_is_refused_with_file_and_line(write, text, message):
    write("circle.yaml", "base: mine.yaml\n")
    write("list.yaml", "[1, 2]\n")
    write("broken.yaml", "a: [\n")
    write("wrong.yaml", WHOLE + "optm: {}\n")
    with pytest.raises(RecipeError, match=message) as error:
        load_recipe(write("mine.yaml", text))
    assert len(str(error.value)) < 2000


def test_a_long_chain_is_refused(write):
    for number in range(FILES):
        path = write(f"{number}.yaml", f"base: {number - 1 if number else 'base'}.yaml\n")
    with pytest.raises(RecipeError, match=rf"0.yaml:1: base: more than {FILES} recipes one on the other"):
        load_recipe(path)
    assert load_recipe(path.with_name(f"{FILES - 2}.yaml")) == load_recipe(path.with_name("base.yaml"))
