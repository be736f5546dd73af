"""Several tasks on one trunk: the model, its surgery and files, batches in turn, runs that are whole, the recipes."""

import copy
import dataclasses
import json
import os
import subprocess
import sys

import pytest
import torch
from conftest import ROOT, TEST_VARIANTS, losses_of_twenty_steps, randomised

pytest.importorskip("accelerate", reason="the recipes need zoo[train]")

from test_trainer import DRIVER

import zoo
from zoo.blocks.moe.layer import MoE
from zoo.training import Classifier, Dense, MultiTask, RecipeError, Trainer, evaluate, load_recipe
from zoo.training.data.alternate import AlternatingBatches
from zoo.training.data.batches import TrainingBatches
from zoo.training.data.digits import Digits
from zoo.training.models import parts
from zoo.training.optim import param_groups
from zoo.training.tasks.classify import Classify
from zoo.training.tasks.edges import Edges

RECIPES = [ROOT / "recipes" / f"{name}.yaml" for name in ("m3vit_canvas", "modular_digits")]
ROUTER = {"name": "task", "tasks": 2, "losses": ["importance"], "noise": 0.0}
EXPERTS = {"name": "moe", "num_experts": 12, "top_k": 1, "experts": "mlp(ratio=1)", "router": ROUTER}
HEADS = {"digit": Classifier(10, task=0), "ink": Dense(11, width=8, out_indices=(-2, -1), task=1)}

TEXT = """\
tasks:
  digit: {task: {name: classify}, data: {name: digits, size: 16, shift: 1}}
  ink: {task: {name: segment}, data: {name: digit_canvas, size: 32, train: 24, validation: 9, test: 10}, weight: 2}
  edge: {task: {name: edges}, data: {name: digit_canvas, size: 32, train: 24, validation: 9, test: 10}}
model:
  name: m3vit_test
  kwargs: {in_chans: 1, dynamic_img_size: true, drop_path_rate: 0.2}
  heads:
    digit: {name: classifier, num_classes: 10, task: 0}
    ink: {name: dense, num_classes: 11, width: 8, task: 1}
    edge: {name: dense, num_classes: 1, width: 8, out_indices: [1], task: 1}
train: {duration: 14st, batch_size: 8, eval_every: 5st, checkpoint_every: 4st, log_every: 1st, ema: 0.9, threads: 1}
optim: {name: adamw, lr: 1e-3, weight_decay: 0.05}
schedule: {name: cosine, warmup: 2st}
aux_losses: {importance: 0.1}
expect: {metric: test/ink/miou, status: untested}
"""


def records(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text("utf-8").splitlines()]


def of_two(**kwargs) -> MultiTask:
    return randomised(MultiTask("m3vit_test", HEADS, channel_mixer=["mlp", EXPERTS], in_chans=1, **kwargs), 0.3)


def outputs(model: MultiTask, x: torch.Tensor) -> dict[str, torch.Tensor]:
    with torch.no_grad():
        return {name: model(x, task=name) for name in model.config}


def same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(found[name], expected[name]) for name in expected)


# --- The model --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TEST_VARIANTS)
def test_two_heads_stand_on_every_model(name, tmp_path):
    number = 0 if "m3vit" in name else None
    levels = None if "m3vit" in name else (-1, 0)  # the deepest first; they are taken in the trunk's order
    heads = {"class": Classifier(5, task=number), "pixel": Dense(3, width=8, out_indices=levels, task=number)}
    model = MultiTask(name, heads)
    x = torch.randn(2, *model.input_size)
    shapes = {"class": (2, 5), "pixel": (2, 3, *x.shape[2:])}
    grads = []
    for task, shape in shapes.items():
        model.zero_grad()
        y, aux = model(x, return_aux=True, task=task)
        assert y.shape == shape and ("stat/load" in aux) == any(isinstance(m, MoE) for m in model.modules())
        y.square().mean().backward()
        grads.append({key for key, p in model.named_parameters() if p.grad is not None})
    assert {key.split(".")[1] for key in grads[0] ^ grads[1] if key.startswith("heads")} == {"class", "pixel"}
    decayed, kept = param_groups(model, 0.1)
    assert decayed["weight_decay"] == 0.1 and {id(p) for p in kept["params"]} >= {id(model.heads["class"].bias)}
    randomised(model).save(tmp_path)
    assert same(outputs(MultiTask.open(tmp_path).eval(), x), outputs(model, x))


def test_a_task_runs_its_own_experts_and_no_others():
    model = of_two()
    x = torch.randn(1, 1, 32, 32)
    loads = {name: zoo.expert_load(model, x, task=name)["trunk.blocks.1.channel_mixer"][0] for name in HEADS}
    assert not torch.equal(loads["digit"] > 0, loads["ink"] > 0)
    for name, load in loads.items():
        spoilt = copy.deepcopy(model)
        spoilt.trunk.blocks[1].channel_mixer.experts.fc1.weight.data[load == 0] = torch.nan
        assert torch.equal(spoilt(x, task=name), model(x, task=name))
        one = model.only(name)
        few, report, dense = model.only(name, x), zoo.count_flops(one), zoo.count_flops(dense_twin(name))
        assert report.active_params < report.params
        tokens = one.trunk.grid[0] * one.trunk.grid[1] + one.trunk.num_prefix_tokens
        assert report.macs == report.active_macs == zoo.count_flops(few).macs == dense.macs + tokens * 32 * 12


def dense_twin(name: str) -> MultiTask:
    """A model of one task with the width of a single expert."""
    head = dataclasses.replace(HEADS[name], task=None)
    return MultiTask("m3vit_test", {name: head}, channel_mixer=["mlp", "mlp(ratio=1)"], in_chans=1)


def test_the_model_of_one_task_keeps_its_head_its_gates_and_its_experts(tmp_path):
    model = of_two()
    x = torch.randn(1, 1, 32, 32)
    before, size = outputs(model, x), sum(p.numel() for p in model.parameters())
    for name in HEADS:
        reached = (zoo.expert_load(model, x, task=name)["trunk.blocks.1.channel_mixer"] > 0).sum()
        for one, experts in ((model.only(name), 12), (model.only(name, x), reached)):
            assert list(one.config) == [name] and one.config[name].task == 0
            assert one.trunk.blocks[1].channel_mixer.num_experts == experts
            torch.testing.assert_close(one(x), before[name])
            assert sum(p.numel() for p in one.parameters()) < size
            one.save(tmp_path / name)
            assert torch.equal(MultiTask.open(tmp_path / name).eval()(x), one(x))
    assert same(outputs(model, x), before), "the model itself was changed"


def test_experts_that_no_task_reaches_are_removed(tmp_path):
    model = of_two()
    data = {name: torch.randn(1, 1, 32, 32) for name in HEADS}
    before = {name: model(x, task=name).detach() for name, x in data.items()}
    loads = [zoo.expert_load(model, x, task=name)["trunk.blocks.1.channel_mixer"][0] for name, x in data.items()]
    (removed,) = model.prune_experts(data).values()
    assert removed == [i for i in range(12) if all(load[i] == 0 for load in loads)]
    for name, x in data.items():
        torch.testing.assert_close(model(x, task=name), before[name])
    model.save(tmp_path)
    assert same(outputs(MultiTask.open(tmp_path).eval(), x), outputs(model, x))
    with pytest.raises(ValueError, match=r"batches has data of \['ink'\]; give those of every task"):
        model.prune_experts({"ink": x})


@pytest.mark.parametrize("like", [None, "ink"])
def test_a_task_is_added_without_changing_the_old_ones(like, tmp_path):
    model = of_two()
    x = torch.randn(2, 1, 32, 32)
    before = outputs(model, x)
    model.add_task("edge", Dense(1, width=8), like=like)
    after = outputs(model, x)
    assert same(after, before) and after["edge"].shape == (2, 1, 32, 32) and model.config["edge"].task == 2
    gate = model.trunk.blocks[1].channel_mixer.router.gate.weight
    assert torch.equal(gate[2], gate[1]) == (like == "ink")
    model.save(tmp_path)
    assert same(outputs(MultiTask.open(tmp_path).eval(), x), after)
    model.add_task("more", Classifier(3, task=1))  # on gates that are there
    assert len(model.trunk.blocks[1].channel_mixer.router.gate.weight) == 3
    with pytest.raises(ValueError, match="out_indices"):
        model.add_task("deep", Dense(1, out_indices=(7,)))
    assert len(model.trunk.blocks[1].channel_mixer.router.gate.weight) == 3, "the trunk was changed all the same"


def test_a_trunk_without_tasks_serves_several_heads():
    heads = {"digit": Classifier(10), "ink": Dense(11, width=8)}
    model = randomised(MultiTask("vit_test", heads, channel_mixer={"at": {1: "moe(num_experts=16, top_k=1)"}}), 0.2)
    x = torch.randn(1, 3, 32, 32)
    before = outputs(model, x)
    assert model.prune_experts({"digit": x, "ink": [x]})
    for name, y in outputs(model, x).items():
        torch.testing.assert_close(y, before[name])
    model.add_task("edge", Dense(1, width=8))
    assert model(x, task="edge").shape == (1, 1, 32, 32)


@pytest.mark.parametrize(
    ("heads", "kwargs", "words"),
    [
        ({}, {}, "heads is empty"),
        ({"a": Classifier(2)}, {}, "head a: task is None; the trunk's routers know the tasks 0 to 1"),
        ({"a": Classifier(2, task=2)}, {}, "head a: task is 2; the trunk's routers know the tasks 0 to 1"),
        ({"a": Classifier(2, task=0)}, {"channel_mixer": "mlp"}, "no router of the trunk knows tasks: leave it out"),
        ({"a": Dense(2, out_indices=(0, 3), task=0)}, {}, r"out_indices \[0, 3\] are not all within the 3 levels"),
        ({"keys": Classifier(2, task=0)}, {}, "a task cannot be called 'keys'"),
        ({"a.b": Classifier(2, task=0)}, {}, "a task cannot be called 'a.b'"),
        ({"a": Classifier(2, task=0)}, {"num_classes": 3}, "num_classes is said by each head"),
    ],
)
def test_heads_that_do_not_fit_are_refused(heads, kwargs, words):
    with pytest.raises(ValueError, match=words):
        MultiTask("m3vit_test", heads, **kwargs)


def test_the_task_is_named_in_the_call():
    model = of_two()
    x = torch.randn(1, 1, 32, 32)
    with pytest.raises(ValueError, match="task 'inc' is unknown; did you mean 'ink'"):
        model(x, task="inc")
    with pytest.raises(ValueError, match="task None is unknown. Tasks: digit, ink"):
        model(x)
    with pytest.raises(ValueError, match="there is a task 'ink' already"):
        model.add_task("ink", Classifier(2))
    with pytest.raises(ValueError, match="'more' gets no gates of its own to begin as those of 'ink': leave like out"):
        model.add_task("more", Classifier(2, task=1), like="ink")


def test_what_save_never_wrote_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no MultiTask: there is no .*heads.safetensors"):
        MultiTask.open(tmp_path)
    path = tmp_path / "heads.safetensors"
    parts.save_file({"x": torch.zeros(1)}, path, metadata={"trunk": "../elsewhere", "heads": "{}"})
    with pytest.raises(ValueError, match="names '../elsewhere' as its trunk"):
        MultiTask.open(tmp_path)
    parts.save_file({"x": torch.zeros(1)}, path, metadata={"trunk": "trunk", "heads": '{"a": {"name": "dens"}}'})
    with pytest.raises(ValueError, match="heads.safetensors:1: a: 'dens' is unknown; did you mean 'dense'"):
        MultiTask.open(tmp_path)


# --- Edges ------------------------------------------------------------------------------------------------------------


def test_edges_are_where_the_label_changes():
    labels = torch.tensor([[[0, 0, 0, 0], [0, 3, 0, 0], [0, 0, 0, 0], [0, 0, 0, 7]]])
    expected = [[0, 1, 0, 0], [1, 1, 1, 0], [0, 1, 0, 1], [0, 0, 1, 1]]
    _, edges = Edges().example(labels, labels, None)
    assert edges[0].int().tolist() == expected
    logits = torch.where(torch.tensor(expected) > 0, 2.0, -2.0)
    logits[1, 1], logits[0, 0] = -2, 2  # one missed, one found where none is: of 8 edges 7, of 8 found 7
    logits[3, 3] = -2  # of 8 edges 6, of 7 found 6
    task = Edges(edge_weight=3)
    meter = task.meter(1)
    meter.update(logits[None, None], edges)
    found = meter.compute()
    assert found["precision"] == pytest.approx(100 * 6 / 7) and found["recall"] == pytest.approx(75)
    assert found["f1"] == pytest.approx(100 * 2 * 6 / 15)
    right, wrong = torch.nn.functional.softplus(torch.tensor([-2.0, 2.0])).tolist()
    by_hand = (3 * 6 * right + 3 * 2 * wrong + 7 * right + wrong) / 16
    assert found["loss"] == pytest.approx(by_hand) == pytest.approx(task.loss(logits[None, None], edges).item())


# --- Batches in turn --------------------------------------------------------------------------------------------------


def test_batches_take_turns_by_the_seed_and_the_step_alone():
    split = Digits().load()["train"]
    make = {"a": 64, "b": 32, "c": 64}
    parts = {name: TrainingBatches(split, Classify(), batch_size=size, seed=5) for name, size in make.items()}
    batches, again = (AlternatingBatches(parts, seed=1) for _ in range(2))
    assert batches.steps_per_epoch == 3 * (1257 // 32)
    names = [batches.name(step) for step in range(60)]
    assert [again.name(step) for step in reversed(range(60))] == names[::-1]
    rounds = [tuple(names[i : i + 3]) for i in range(0, 60, 3)]
    assert all(sorted(turn) == ["a", "b", "c"] for turn in rounds) and len(set(rounds)) == 6
    assert [AlternatingBatches(parts, seed=2).name(step) for step in range(60)] != names
    for step in (7, 3, 59):
        found, expected = batches[step], parts[names[step]][step // 3]
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_a_single_task_has_its_batches_as_they_are():
    alone = TrainingBatches(Digits().load()["train"], Classify(), batch_size=64, seed=5)
    batches = AlternatingBatches({"": alone}, seed=5)
    assert batches.steps_per_epoch == alone.steps_per_epoch and batches.split is alone.split
    assert all(batches.name(step) == "" and torch.equal(batches[step][0], alone[step][0]) for step in (0, 7, 30))


def test_digits_are_enlarged():
    small, large = Digits().load()["test"], Digits(size=24).load()["test"]
    assert large.images.shape == (360, 1, 24, 24) and torch.equal(large.labels, small.labels)
    torch.testing.assert_close(large.images[..., 1::3, 1::3], small.images)
    with pytest.raises(ValueError, match="size is 7"):
        Digits(size=7)


# --- Runs -------------------------------------------------------------------------------------------------------------


def test_a_resumed_run_is_bit_identical_and_a_finished_one_opens(make_recipe, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    metrics = Trainer(make_recipe(), whole).run()
    assert {name.rpartition("/")[0] for name in metrics} == {"test/digit", "test/ink", "test/edge"}
    trainer = Trainer(make_recipe(), killed)
    update = trainer._update
    trainer._update = lambda step, *batch: update(step, *batch) if step < 10 else 1 / 0
    with pytest.raises(ZeroDivisionError):
        trainer.run()
    resumed = Trainer(make_recipe(), killed)
    assert resumed.step == 8 and resumed.run() == metrics
    assert records(killed) == records(whole)
    tasks = [record["task"] for record in records(whole) if "task" in record]
    assert all(sorted(tasks[i : i + 3]) == ["digit", "edge", "ink"] for i in range(0, 12, 3))
    evaluated = [record for record in records(whole) if "validation/edge/f1" in record]
    assert [record["step"] for record in evaluated] == [5, 10, 14]
    models = [MultiTask.open(path / "model") for path in (whole, killed)]
    state = models[1].state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in models[0].state_dict().items())
    recipe = make_recipe()
    for task, objective in recipe.tasks.items():
        again = evaluate(models[1], recipe, objective.data.load()["test"], task=task)
        assert {f"test/{task}/{name}": value for name, value in again.items()}.items() <= metrics.items()


def test_losses_are_weighted_and_only_the_task_of_the_step_learns(make_recipe, tmp_path):
    first = {}
    for weight in (2, 6):
        Trainer(make_recipe("train.duration=6st", f"tasks.ink.weight={weight}"), tmp_path / str(weight)).fit()
        for record in records(tmp_path / str(weight)):
            if "task" in record and (weight, record["task"]) not in first:
                first[weight, record["task"]] = record
    aux = 0.1 * first[2, "ink"]["loss/importance"]  # up to its first step the two are alike
    assert first[6, "ink"]["loss"] - aux == pytest.approx(3 * (first[2, "ink"]["loss"] - aux), rel=1e-4)
    trainer = Trainer(make_recipe("train.ema=null"), tmp_path / "step")
    model = trainer.accelerator.unwrap_model(trainer.model)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    batch = trainer.batches[0]
    trainer._update(0, *batch)
    changed = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    task = trainer.batches.name(0)
    assert {name.split(".")[1] for name in changed if name.startswith("heads")} == {task}
    gates = (
        model.trunk.blocks[1].channel_mixer.router.gate.weight
        - before["trunk.blocks.1.channel_mixer.router.gate.weight"]
    )
    number = make_recipe().model.heads[task].task
    assert model.trunk.blocks[0].norm1.weight.grad is not None and gates[number].abs().max() > 0


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["task={name: classify}"], "task and tasks are both given"),
        (["data={name: digits}"], "data and tasks are both given"),
        (["tasks=null"], "missing key 'task', a section .or tasks"),
        (["tasks=null", "task={name: classify}", "data={name: digits}"], "model.heads has a head for each of several"),
        (["tasks.more={task: {name: classify}, data: {name: digits}}"], r"tasks are .*'more'\], model.heads .*: give"),
        (["model.pyramid={num_classes: 3}"], "pyramid is the head of a single task"),
        (["tasks.ink.weight=0"], "tasks.ink.weight is 0.0; it must be above 0"),
        (["model.heads.ink.name=dens"], "did you mean 'dense'"),
        (["tasks.ink.wait=3"], "tasks.ink.wait: .*did you mean 'weight'"),
    ],
)
def test_recipes_that_say_two_things_are_refused(make_recipe, overrides, message):
    with pytest.raises(RecipeError, match=message):
        make_recipe(*overrides)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model.heads.ink.num_classes=3"], "3 classes, the data 11: set model.heads.ink.num_classes=11"),
        (["model.heads.edge.num_classes=2"], "has 2 logits a pixel, .*: set model.heads.edge.num_classes=1"),
        (["tasks.ink.data={name: digits, size: 32}"], "set tasks.ink.data.name=digit_canvas"),
        (
            ["tasks.digit.task.name=segment", "tasks.digit.data={name: digit_canvas}"],
            "set model.heads.digit={name: dense",
        ),
        (["tasks.ink.task.name=classify"], "set tasks.ink.task.name=segment"),
        (["model.heads.digit={name: dense, num_classes: 10, task: 0}"], "set model.heads.digit.name=classifier"),
        (["model.kwargs.in_chans=3"], "set model.kwargs.in_chans=1, or tasks.digit.data.in_chans=3"),
        (["tasks.ink.task={name: denoise, sigma: 1}"], "model.heads.ink gives logits, not images"),
        (["optim={name: lbfgs, lr: 1, weight_decay: 0}"], "lbfgs needs the same loss in every step"),
    ],
)
def test_what_does_not_fit_is_refused(make_recipe, tmp_path, overrides, message):
    with pytest.raises(ValueError, match=message):
        Trainer(make_recipe(*overrides), tmp_path / "run")


@pytest.mark.slow
def test_two_processes_train(tmp_path):
    """Under DDP, in which the heads of other tasks have no gradient."""
    (tmp_path / "driver.py").write_text(DRIVER)
    text = TEXT.replace("ema: 0.9", "ema: null")
    (tmp_path / "two.yaml").write_text(text)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "driver.py"]
    done = subprocess.run(
        [*command, "ddp", "two.yaml", "two", "-1"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    model = MultiTask.open(tmp_path / "two" / "model")
    metrics = records(tmp_path / "two")[-1]
    recipe = load_recipe(tmp_path / "two.yaml")
    for task, objective in recipe.tasks.items():
        for name, value in evaluate(model, recipe, objective.data.load()["test"], task=task).items():
            assert metrics[f"test/{task}/{name}"] == pytest.approx(value, rel=1e-4)


# --- The recipes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_twenty_steps_lower_the_loss(path, tmp_path):
    losses = losses_of_twenty_steps(path, tmp_path / "run")
    assert sum(losses[-6:]) < 0.9 * sum(losses[:6])
