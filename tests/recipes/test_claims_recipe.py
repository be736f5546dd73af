"""The claims that get a second look: stacked runs are those of the Trainer, and the comparisons do what they say."""

import json
import time

import pytest

pytest.importorskip("accelerate", reason="the recipes need zoo[train]")

import torch

import zoo
from recipes.claims import compare_hourglass, compare_select, stacked
from zoo.training import Trainer, load_recipe
from zoo.training.recipe.recipe import differences
from zoo.training.runs.comparing import in_processes

TINY = """
task: {name: denoise, sigma: 0.25}
model: {name: hourglass_test, kwargs: {head: image, depth: 2, dim: 72, channel_mixer: hourglass(hidden=8)}}
data: {name: digits}
train: {duration: 12st, batch_size: 16, eval_every: 12st, checkpoint_every: 12st, threads: 1}
optim: {name: adamw, lr: 1e-2, weight_decay: 0.1}
schedule: {name: cosine, warmup: 3st}
expect: {metric: test/psnr, status: untested}
"""


@pytest.fixture
def make_recipe(tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY, "utf-8")
    return lambda *overrides: load_recipe(path, overrides)


def test_runs_in_a_stack_are_those_of_the_trainer(make_recipe, tmp_path):
    recipes = [make_recipe(f"train.seed={seed}", f"optim.lr={lr}") for seed, lr in ((0, 1e-2), (3, 3e-3))]
    stack = stacked.Stack(recipes, recipes[0].data.load(), torch.device("cpu"))
    stacked.train([stack], time.time() + 60)
    for number, (recipe, measured) in enumerate(zip(recipes, stack.measure("validation"), strict=True)):
        trainer = Trainer(recipe, tmp_path / str(number))
        trainer.fit()
        assert measured["psnr"] == pytest.approx(trainer.evaluate("validation")["validation/psnr"], abs=1e-4)
        trained = dict(trainer.model.named_parameters())
        for name, weight in stack.weights.items():
            assert torch.allclose(weight[number], trained[name], rtol=0, atol=2e-5), name
        assert not torch.allclose(stack.weights["head.proj.weight"][0], stack.weights["head.proj.weight"][1], atol=1e-2)


def test_a_stack_refuses_what_it_would_leave_out(make_recipe):
    data = make_recipe().data.load()
    for overrides, message in [
        (["train.ema=0.9", "optim.name=sgd"], "does not carry out train.ema, optim.name"),
        (["train.grad_clip=1"], "does not carry out train.grad_clip"),
    ]:
        with pytest.raises(ValueError, match=message):
            stacked.Stack([make_recipe(*overrides)], data, torch.device("cpu"))
    with pytest.raises(ValueError, match="may differ in optim.lr and train.seed alone, not in .*task.sigma: 0.25 -> 1"):
        stacked.Stack([make_recipe(), make_recipe("task.sigma=1")], data, torch.device("cpu"))


def test_a_deadline_stops_a_stack(make_recipe):
    stack = stacked.Stack([make_recipe()], make_recipe().data.load(), torch.device("cpu"))
    with pytest.raises(stacked.OutOfTime):
        stacked.train([stack], time.time() - 1)


def every_architecture():
    for unit in filter(lambda unit: unit.task == "denoise" and not unit.split, compare_hourglass.units()):
        for model, shapes in compare_hourglass.SHAPES.items():
            for shape in shapes[unit.budget]:
                yield pytest.param(model, unit, shape, id=f"{model}-{unit.name}-{shape[0]}x{shape[1]}")


@pytest.mark.parametrize(("model", "unit", "shape"), every_architecture())
def test_every_architecture_makes_the_most_of_its_budget(model, unit, shape):
    chosen = compare_hourglass.recipe_of(model, unit, shape, 1e-3, 0, []).model
    model_of = zoo.create_model(chosen.name, **chosen.kwargs, device="meta")
    budget = compare_hourglass.BUDGETS[unit.data][unit.budget]
    assert 0.99 * budget < sum(p.numel() for p in model_of.parameters()) <= budget
    hidden, skip = model_of.blocks[0].channel_mixer.fc1.weight.shape
    pixels = compare_hourglass.PIXELS[unit.data]
    assert (hidden < skip > pixels) if model == "hourglass" else skip == pixels


@pytest.mark.parametrize("data", compare_hourglass.BUDGETS)
@pytest.mark.parametrize("task", compare_hourglass.TASKS)
def test_a_pair_differs_in_model_and_rate_alone(data, task):
    ours, theirs = (
        load_recipe(compare_hourglass.HERE / f"{model}_{task}_{data}.yaml") for model in compare_hourglass.SHAPES
    )
    changed = differences(ours, theirs)
    assert changed and all(line.startswith(("model.", "optim.lr")) for line in changed)


def test_the_comparison_chooses_on_validation_and_measures_all_seeds(tmp_path, capsys, monkeypatch):
    """On digits in the place of the photographs, which are in a package that need not be here."""
    unit = compare_hourglass.Unit("photographs", "denoise", 0)
    monkeypatch.setattr(compare_hourglass, "RATES", {"photographs": (1e-30, 1e-2)})
    monkeypatch.setattr(compare_hourglass, "SHAPES", {"hourglass": (((2, 1),),), "conventional": (((1, 1),),)})
    monkeypatch.setattr(compare_hourglass, "BUDGETS", {"photographs": (150_000,)})
    monkeypatch.setattr(compare_hourglass, "units", lambda: iter([unit]))
    digits = ["data={name: digits, size: 16}", "train.duration=15st", "schedule.warmup=1st", "train.batch_size=64"]
    saved, runs = tmp_path / "rows.json", tmp_path / "runs"
    command = [*digits, "--output", str(runs), "--json", str(saved)]
    compare_hourglass.main([*command, "--search"])
    searched = json.loads(saved.read_text("utf-8"))
    assert len(searched) == 4 and not any("test" in record for record in searched)
    compare_hourglass.main(command)
    records = json.loads(saved.read_text("utf-8"))
    assert records[:4] == searched, "what is finished is not trained again"
    final = records[4:]
    assert [record["seed"] for record in final] == [*range(5)] * 2
    assert all(record["rate"] == 1e-2 and record["test"] > 5 for record in final)
    assert all(20 < record["input"] < 23 for record in final), "noise of 0.1 is 20 dB, and clamping takes some away"
    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines() if "| difference |" in line]
    ours, theirs = (sum(r["test"] for r in final if r["model"] == model) / 5 for model in compare_hourglass.SHAPES)
    assert float(rows[-1][-2]) == pytest.approx(ours - theirs, abs=2e-3)
    compare_hourglass.main([*command, "--minutes", "-1"])
    assert json.loads(saved.read_text("utf-8")) == records


def test_the_second_round_has_settings_of_the_first_and_other_splits():
    for unit in (unit for unit in compare_hourglass.units() if unit.split):
        for model, (shape, rate) in compare_hourglass.chosen(unit, []).items():
            assert shape in compare_hourglass.SHAPES[model][unit.budget]
            assert rate in compare_hourglass.RATES[unit.data]
            recipe = compare_hourglass.recipe_of(model, unit, shape, rate, 0, [])
            first = compare_hourglass.recipe_of(model, unit._replace(split=0), shape, rate, 0, [])
            assert differences(first, recipe) == [f"data.split_seed: 0 -> {unit.split}"]


def test_every_network_is_near_its_budget():
    for model, settings in compare_select.SETTINGS.items():
        assert len(settings) == 9
        for inputs, formula in ((1, "bump"), (2, "mixed")):
            for hidden, penalty in settings:
                overrides = compare_select.setting_overrides(formula, model, hidden, penalty)
                network = load_recipe(compare_select.RECIPE, overrides).model
                if model != "S-KAN":  # which has chosen nothing yet
                    built = zoo.create_model(network.name, **network.kwargs, device="meta")
                    count = sum(p.numel() for p in built.parameters())
                    assert abs(count / compare_select.BUDGETS[inputs] - 1) <= 0.2


def test_the_recipe_is_a_setting_of_the_comparison():
    recipe = load_recipe(compare_select.RECIPE)
    hidden, penalty = recipe.model.kwargs["hidden"][0], recipe.aux_losses["selection"]
    assert (hidden, penalty) in compare_select.SETTINGS["S-KAN"]
    overrides = compare_select.setting_overrides("mixed", "S-KAN", hidden, penalty)
    assert not differences(recipe, load_recipe(compare_select.RECIPE, overrides))


@pytest.mark.parametrize("model", ["rbf", "S-KAN"])
def test_spaces_are_chosen_on_validation_and_all_seeds_are_measured(model, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(compare_select, "SETTINGS", {model: compare_select.SETTINGS[model][:2]})
    monkeypatch.setattr(compare_select, "SEARCH_SEEDS", (100,))
    saved = tmp_path / "rows.json"
    short = ["train.duration=2st", "data.train=40", "train.batch_size=40"]
    short += ["train.phases.select=1st"] if model == "S-KAN" else []
    command = [*short, "--only", f"bump/{model}", "--output", str(tmp_path / "runs"), "--json", str(saved)]
    compare_select.main([*command, "--search"])
    searched = json.loads(saved.read_text("utf-8"))
    assert len(searched) == 2 and not any("test" in record for record in searched)
    compare_select.main(command)
    records = json.loads(saved.read_text("utf-8"))
    assert records[:2] == searched, "what is finished is not trained again"
    chosen = min(searched, key=lambda record: record["validation"])
    final = records[2:]
    assert [record["seed"] for record in final] == list(range(5))
    assert all((record["hidden"], record["penalty"]) == (chosen["hidden"], chosen["penalty"]) for record in final)
    assert all(0 < record["test"] < 1.5 for record in final)
    assert all(sum(record["chosen"].values()) == (chosen["hidden"] + 1) * (model == "S-KAN") for record in records)
    mean = f"**{sum(record['test'] for record in final) / 5:.5f}**"
    assert mean in capsys.readouterr().out.splitlines()[-1]


def test_a_share_of_the_work_is_done_by_each_process():
    assert in_processes(abs, [-1, 2, -3], 1) == in_processes(abs, [-1, 2, -3], 2) == [1, 2, 3]
