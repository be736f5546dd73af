"""Fitting formulas: the right values, a task for vectors, L-BFGS in the loop, and the recipes as they are described."""

import json
import math

import pytest
import torch
import yaml

pytest.importorskip("accelerate", reason="the recipes need zoo[train]")

import zoo
from recipes import compare_fit
from zoo.training import Trainer, evaluate, load_recipe
from zoo.training.data.batches import EvaluationBatches
from zoo.training.data.formulas import FORMULAS, Formulas
from zoo.training.optim import FullBatchLBFGS
from zoo.training.tasks.regress import Regress

TEXT = """\
task: {name: regress}
model: {name: kan_function}
data: {name: formulas, formula: exp_sine, train: 300, validation: 50, test: 70}
train: {duration: 8st, batch_size: 300, eval_every: 5st, checkpoint_every: 5st, log_every: 1st, threads: 1}
optim: {name: lbfgs, lr: 1, weight_decay: 0}
schedule: {name: constant}
expect: {metric: test/rmse, status: untested}
"""
SELECT = ["model.kwargs.layer={name: select, bases: [spline(grid_size=3), fourier]}", "train.select=4st"]
MINIBATCHES = ["optim={name: adamw, lr: 2e-2, weight_decay: 0}", "train.batch_size=64", "train.duration=100st"]


def selectable(model):
    return [layer for layer in model.modules() if hasattr(layer, "selection")]


def records(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text("utf-8").splitlines()]


@pytest.mark.parametrize(
    ("formula", "point", "value"),
    [
        ("bessel", [0.0], 1.0),
        ("bessel", [2.404825557695773 / 20], 0.0),  # the first zero of J0
        ("exp_sine", [0.5, -1.0], math.e**2),
        ("product", [-0.5, 0.25], -0.125),
        ("hundred", [1.0] * 50 + [0.0] * 50, math.exp(0.5)),
        ("nested_sines", [0.5, 0.5, 1.0, 0.0], math.exp(0.5)),
        ("I.6.2", [0.0, -1.0], 2 / math.sqrt(2 * math.pi)),  # the width -1 stands for 0.5
        ("I.12.11", [0.5, -0.5], 1.5),  # an angle of a quarter of a turn
        ("I.27.6", [-1.0, 1.0], 0.5),
        ("I.29.16", [0.6, -0.5, -1.0], math.sqrt(1.36)),
        ("bump", [0.5], math.exp(-1)),
        ("tone", [1 / 16], 1.0),
        ("steps", [-0.6], 0.0),
        ("steps", [0.0], 1.0),
        ("steps", [0.3], 3.0),
        ("kink", [-0.3], 0.5),
        ("burst", [0.3], 1.0),
        ("pole", [1.0], 10.0),
        ("mixed", [0.125, 0.7], 0.5 + math.tanh(8.25)),
    ],
)
def test_a_formula_has_the_values_worked_out_by_hand(formula, point, value):
    at = torch.tensor([point, point], dtype=torch.float64)
    assert FORMULAS[formula](at).tolist() == pytest.approx([value] * 2, abs=1e-9)


@pytest.mark.parametrize("formula", FORMULAS)
def test_parts_are_drawn_once_and_for_all(formula):
    parts, again = (Formulas(formula, train=300, validation=50, test=70).load() for _ in range(2))
    assert {part: len(split) for part, split in parts.items()} == {"train": 300, "validation": 50, "test": 70}
    points = torch.cat([split.images for split in parts.values()])
    assert points.abs().max() <= 1 and len(points.unique(dim=0)) == 420, "the parts overlap"
    for part, split in parts.items():
        assert torch.equal(split.images, again[part].images) and torch.equal(split.labels, again[part].labels)
        assert split.labels.shape == (len(split), 1) and split.labels.isfinite().all()
        assert split.images.dtype == split.labels.dtype == torch.float32
    values = parts["train"].labels
    assert values.mean().abs() < 1e-5 and values.std() == pytest.approx(1, rel=1e-5)
    larger = Formulas(formula, train=300, validation=50, test=90).load()
    assert torch.equal(larger["train"].images, parts["train"].images), "one part depends on the size of another"
    other = Formulas(formula, split_seed=1, train=300).load()["train"]
    assert not torch.equal(other.images, parts["train"].images)


def test_all_parts_are_standardised_alike():
    parts = Formulas("product", train=40).load()
    ratio = {part: (split.labels.std() / split.images.prod(1).std()).item() for part, split in parts.items()}
    assert ratio["validation"] == pytest.approx(ratio["train"], rel=1e-4)


def test_rmse_is_the_root_of_the_mean_over_the_whole_split(make_recipe):
    """Not the mean of the batches' roots; 70 points make one batch of 50 and one of 20."""
    recipe = make_recipe("train.batch_size=50")
    model, split = recipe.model.create(), recipe.data.load()["test"]
    assert len(EvaluationBatches(split, recipe.task, batch_size=50, seed=0)) == 2
    with torch.no_grad():
        expected = (model(split.images) - split.labels).square().mean().sqrt().item()
    assert evaluate(model, recipe, split) == {"rmse": pytest.approx(expected, rel=1e-5)}
    meter = Regress().meter(2)
    meter.update(torch.tensor([[3.0, 4.0], [0.0, 0.0]]), torch.zeros(2, 2))
    assert meter.compute() == {"rmse": 2.5}


@pytest.mark.parametrize("overrides", [[], MINIBATCHES], ids=["lbfgs", "adamw"])
def test_a_short_run_learns(make_recipe, tmp_path, overrides):
    metrics = Trainer(make_recipe(*overrides), tmp_path / "run").run()
    assert metrics["test/rmse"] < 0.1, "giving the mean has an error of 1"
    losses = [record["loss"] for record in records(tmp_path / "run") if "loss" in record]
    assert losses[0] > 0.5 and losses[-1] < 0.01


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        MINIBATCHES,
        SELECT,
        [*SELECT, "train.select=5st"],
        [*SELECT, "train.select=6st"],
        *([*MINIBATCHES, *SELECT, "train.ema=0.9", f"train.select={step}st"] for step in (4, 5, 6)),
    ],
    ids=[
        "lbfgs",
        "adamw",
        *("after the choice", "just before the choice", "before the choice"),
        *("averaged after the choice", "averaged just before the choice", "averaged before the choice"),
    ],
)
def test_a_resumed_fit_is_the_uninterrupted_one(make_recipe, tmp_path, overrides):
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    metrics = Trainer(make_recipe(*overrides), whole).run()
    first = Trainer(make_recipe(*overrides), resumed)
    update = first._update

    def interrupted(step, *batch):
        if step == 7:
            raise KeyboardInterrupt
        return update(step, *batch)

    first._update = interrupted
    with pytest.raises(KeyboardInterrupt):
        first.run()
    second = Trainer(make_recipe(*overrides), resumed)
    assert second.step == 5 and second.run() == metrics
    assert records(resumed) == records(whole)


def test_nodes_choose_when_the_recipe_says(make_recipe, tmp_path):
    trainer = Trainer(make_recipe(*SELECT), tmp_path / "run")
    update, before = trainer._update, []
    states = []

    def watched(step, *batch):
        before.append([layer.gates.selected for layer in selectable(trainer.model)])
        states.append(len(trainer.optimizer.state))
        return update(step, *batch)

    trainer._update = watched
    metrics = trainer.run()
    assert before == [[False] * 2] * 4 + [[True] * 2] * 4
    assert states == [0, 1, 1, 1, 0, 1, 1, 1], "the curvature of all spaces is not that of one"
    model = zoo.create_model(f"local-dir:{tmp_path / 'run' / 'model'}")
    again = evaluate(model, trainer.recipe, trainer.splits["test"])
    assert {f"test/{name}": value for name, value in again.items()} == metrics
    layers = selectable(model)
    assert [layer.selection().chosen for layer in layers] == [
        layer.selection().chosen for layer in selectable(trainer.model)
    ]


@pytest.mark.parametrize("ema", [0.5, 0.999])
def test_an_averaged_model_chooses_with_the_model(make_recipe, tmp_path, ema):
    """At once, the same spaces, and what is evaluated and saved is what its tensors say."""
    trainer = Trainer(make_recipe(*MINIBATCHES, *SELECT, "train.duration=8st", f"train.ema={ema}"), tmp_path / "run")
    update, seen = trainer._update, []
    averaged = selectable(trainer.ema.module)
    x = trainer.splits["test"].images

    def watched(step, *batch):
        found = update(step, *batch)
        seen.append([layer.gates.selected for layer in averaged])
        twin = trainer.recipe.model.create()
        twin.load_state_dict(trainer.ema.module.state_dict())
        assert torch.equal(twin.eval()(x), trainer.ema.module.eval()(x))
        return found

    trainer._update = watched
    metrics = trainer.run()
    assert seen[:4] == [[False] * 2] * 4 and seen[4:] == [[True] * 2] * (len(seen) - 4)
    chosen = [layer.selection().chosen for layer in selectable(trainer.model)]
    model = zoo.create_model(f"local-dir:{tmp_path / 'run' / 'model'}")
    for layers in (averaged, selectable(model)):
        assert [layer.selection().chosen for layer in layers] == chosen
    assert {f"test/{k}": v for k, v in evaluate(model, trainer.recipe, trainer.splits["test"]).items()} == metrics


def test_lbfgs_is_that_of_torch_and_minimises(make_recipe):
    """A quadratic of ten unknowns, badly scaled: the minimum is known, and the first iterations are torch's."""
    scales = torch.logspace(0, 3, 10)

    def run(optimizer_of, steps):
        x = torch.nn.Parameter(torch.ones(10))
        optimizer = optimizer_of([x])
        for _ in range(steps):

            def closure():
                optimizer.zero_grad()
                loss = (scales * (x - 2).square()).sum()
                loss.backward()
                return loss

            optimizer.step(closure)
        return x.detach()

    ours = run(lambda p: FullBatchLBFGS(p, lr=1.0), 1)
    options = {"tolerance_grad": 0.0, "tolerance_change": 0.0, "history_size": 100, "line_search_fn": "strong_wolfe"}
    assert torch.equal(ours, run(lambda p: torch.optim.LBFGS(p, lr=1.0, **options), 1))
    assert (run(lambda p: FullBatchLBFGS(p, lr=1.0), 5) - 2).abs().max() < 1e-4


def test_a_bad_loss_within_the_line_search_leaves_the_weights(make_recipe, tmp_path):
    trainer = Trainer(make_recipe(), tmp_path / "run")
    forward, calls, start = trainer.model.forward, [], []

    def exploding(x, **options):
        y, aux = forward(x, **options)
        calls.append(trainer.step)
        if calls.count(2) == 1 and not start:
            start.append({name: tensor.clone() for name, tensor in trainer.model.state_dict().items()})
        return (y * float("nan") if calls.count(2) == 6 else y), aux

    trainer.model.forward = exploding
    with pytest.raises(FloatingPointError, match="the loss is nan at step 3: stopped before the update"):
        trainer.run()
    assert calls.count(2) == 6
    assert all(torch.equal(tensor, start[0][name]) for name, tensor in trainer.model.state_dict().items())


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data.formula=exp_sin"], "the formula 'exp_sin' is unknown; did you mean 'exp_sine'"),
        (["data.train=1"], "data.train is 1; it must be from 2 to 1000000"),
        (["data.test=0"], "data.test is 0; it must be from 1 to 1000000"),
        (["data.split_seed=-1"], "data.split_seed is -1; it must be from 0 to 2\\*\\*64 - 1"),
        (["task.name=classify"], "vectors with numbers to fit, not images: set task.name=regress"),
        (["task.name=segment"], "vectors with numbers to fit, not images: set task.name=regress"),
        (["task={name: denoise, sigma: 0.1}"], "vectors with numbers to fit, not images: set task.name=regress"),
        (
            ["data={name: digits}", "train.batch_size=1257"],
            "images, not vectors with .* to fit: set data.name=formulas",
        ),
        (["data.formula=nested_sines"], "vectors of 4 numbers, which the model .* set model.kwargs.in_chans=4"),
        (["model={name: mixer_test}"], "vectors of 2 numbers, .* of a model for vectors such as kan_function"),
        (["model.kwargs={num_classes: 3}"], "gives 3 numbers, the data has 1: set model.kwargs.num_classes=1"),
        (["optim.betas=[0.9, 0.9]"], "lbfgs has no betas: remove optim.betas"),
        (["optim.weight_decay=0.1"], "weight_decay is 0.1, but lbfgs has none: set optim.weight_decay=0"),
        (["optim.name=lbfg"], "the optimizer 'lbfg' is unknown; did you mean 'lbfgs'"),
        (["train.batch_size=100"], r"lbfgs needs all .* set train.batch_size=300 \(it is 100\)"),
        (["train.select=4st"], "train.phases.select: the phase 'select' is unknown. Phases of the model: none"),
        ([*SELECT, "train.select=8st"], "train.phases.select is 8st: .* must be .* before the last of the 8 steps"),
        (["train.grad_clip=1"], "lbfgs needs .* gradients as they are .* train.grad_clip=null"),
    ],
)
def test_what_does_not_fit_is_refused(make_recipe, tmp_path, overrides, message):
    with pytest.raises(ValueError, match=message):
        Trainer(make_recipe(*overrides), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def kwargs_of(against):
    """Keyword arguments of each model of a comparison, with the number of inputs, by formula and name."""
    found = {}
    for formula, model, name, kwargs in compare_fit.fits(against):
        base = load_recipe(compare_fit.HERE / f"{name}.yaml").model
        found[formula, model] = base.name, base.kwargs | kwargs | {"in_chans": len(FORMULAS[formula].box)}
    return found


def parameters(name, kwargs):
    model = zoo.create_model(name, **kwargs)
    for layer in model.modules():
        if hasattr(layer, "select"):
            layer.select()
    return compare_fit.parameters_in_use(model)


def test_each_perceptron_has_at_least_the_parameters_of_its_kan():
    models = kwargs_of("mlp")
    for formula in compare_fit.MLP:
        kan, mlp = (parameters(*models[formula, model]) for model in ("KAN", "MLP"))
        assert kan <= mlp


def test_single_spaces_have_near_equal_parameters_and_are_those_of_s_kan():
    models = kwargs_of("spaces")
    for formula in compare_fit.SEVEN:
        counts = [parameters(*models[formula, space]) for space in compare_fit.SPACES]
        assert max(counts) < 1.25 * min(counts)
    bases = models["mixed", "S-KAN"][1]["layer"]["bases"]
    assert bases == list(compare_fit.SPACES.values())


def test_only_the_weights_of_the_chosen_space_are_counted():
    bases = ["spline(grid_size=3, order=2)", "wavelet(num=2)"]  # 5 functions; 2, with 2 parameters an input each
    layer = zoo.create_model("kan_function", layer={"name": "select", "bases": bases}).head  # 5 inputs, 1 node
    for space, expected in ((0, (1 + 5) * 5), (1, (1 + 2) * 5 + 2 * 2 * 5)):
        layer.reset_parameters()
        layer.gates.reset_parameters()
        with torch.no_grad():
            layer.gates.logits[0, space] = 1.0
        layer.select()
        assert compare_fit.parameters_in_use(layer) == expected


@pytest.mark.parametrize(
    ("name", "against", "model"),
    [("fit_kan", "mlp", "KAN"), ("fit_mlp", "mlp", "MLP"), ("fit_select", "spaces", "S-KAN")],
)
def test_the_recipes_are_those_of_the_comparison(name, against, model):
    path = compare_fit.HERE / f"{name}.yaml"
    recipe = load_recipe(path)
    name, kwargs = kwargs_of(against)[recipe.data.formula, model]
    ours, theirs = recipe.model.create(), zoo.create_model(name, **kwargs)
    assert ours.config == theirs.config
    assert recipe.expect.status == "reproduced" and recipe.expect.metric == "test/rmse"
    assert f"{parameters(name, kwargs):,} parameters" in path.read_text("utf-8")


def test_the_recipes_differ_in_the_model_alone():
    kan, mlp, select = (
        yaml.safe_load((compare_fit.HERE / f"fit_{name}.yaml").read_text("utf-8")) for name in ("kan", "mlp", "select")
    )
    assert select["train"].pop("phases") == {"select": "30st"}
    for section in ("task", "train", "optim", "schedule"):
        assert kan[section] == mlp[section] == select[section]
    assert kan["data"] == mlp["data"] == select["data"] | {"formula": "exp_sine"}


@pytest.mark.parametrize("against", ["mlp", "spaces"])
def test_the_comparison_tabulates_what_it_ran(tmp_path, capsys, monkeypatch, against):
    monkeypatch.setattr(compare_fit, "SEEDS", range(2))
    monkeypatch.setattr(compare_fit, "SEVEN", ("kink",))
    monkeypatch.setattr(compare_fit, "MLP", {"product": compare_fit.MLP["product"]})
    saved = tmp_path / "rows.json"
    overrides = ["train.duration=2st"] + (["train.phases.select=1st"] if against == "spaces" else [])
    compare_fit.main([against, *overrides, "--output", str(tmp_path / "runs"), "--json", str(saved)])
    rows = json.loads(saved.read_text("utf-8"))
    names = ["KAN", "MLP"] if against == "mlp" else [*compare_fit.SPACES, "S-KAN"]
    assert [row["model"] for row in rows] == names and all(len(row["rmse"]) == 2 for row in rows)
    lines = capsys.readouterr().out.splitlines()
    means = {row["model"]: sum(row["rmse"]) / 2 for row in rows}
    bold = [line.split(" | ")[1] for line in lines if "**" in line]
    assert bold == [min(means, key=means.get)]
    if against == "spaces":
        assert sum(rows[-1]["chosen"].values()) == 2 * 6, "two seeds, five hidden nodes and one output"
