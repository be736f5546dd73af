"""The loop: marks obeyed, bad losses stopped, and runs that go on exactly where they were killed."""

import hashlib
import json
import os
import runpy
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from safetensors.torch import load_file
from trainings import kill_at

import zoo
from zoo.training import Trainer, evaluate, load_recipe
from zoo.training.optim import Schedule, create_scheduler, param_groups
from zoo.training.recipe.schema import Duration

TEXT = """\
task: {name: classify}
model:
  name: mixer_test
  kwargs: {img_size: 8, patch_size: 4, in_chans: 1, num_classes: 10, depth: 2, drop_path_rate: 0.3}
data: {name: digits, shift: 0.5}
train:
  log_every: 1st
  duration: 30st
  batch_size: 64
  eval_every: 9st
  checkpoint_every: 10st
  grad_clip: 1
  ema: 0.9
  threads: 1
optim: {name: adamw, lr: 1e-3, weight_decay: 0.05}
schedule: {name: cosine, warmup: 5st}
expect: {metric: test/top1, status: untested}
"""


@pytest.fixture
def killed_run(make_recipe, tmp_path):
    """The folder of a run that died after the checkpoint of step 10."""
    kill_at(Trainer(make_recipe(), tmp_path / "run"), 11)
    return tmp_path / "run"


def seal(checkpoint):
    """Write the checksums of a checkpoint anew, as who means harm would."""
    old = json.loads((checkpoint / "checkpoint.json").read_text())
    sums = {name: hashlib.sha256((checkpoint / name).read_bytes()).hexdigest() for name in old["sha256"]}
    summary = {key: value for key, value in (old | {"sha256": sums}).items() if key != "seal"}
    seal = hashlib.sha256(json.dumps(summary).encode()).hexdigest()
    (checkpoint / "checkpoint.json").write_text(json.dumps(summary | {"seal": seal}, indent=1) + "\n")


def records(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text("utf-8").splitlines()]


def weights(folder):
    return load_file(folder / "model" / "model.safetensors")


def test_decay_obeys_the_marks_and_never_the_shape():
    class Marked(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.matrix = torch.nn.Parameter(torch.ones(2, 3))
            self.scale = torch.nn.Parameter(torch.ones(1, 1, 3))  # three axes, but a scale
            self.vector = torch.nn.Parameter(torch.ones(3))  # one axis, but not marked
            self.frozen = torch.nn.Parameter(torch.ones(3), requires_grad=False)

        def no_weight_decay(self):
            return {"scale"}

    model = Marked()
    decayed, kept = param_groups(model, 0.1)
    assert decayed["weight_decay"] == 0.1 and [id(p) for p in decayed["params"]] == [id(model.matrix), id(model.vector)]
    assert kept["weight_decay"] == 0 and [id(p) for p in kept["params"]] == [id(model.scale)]
    model.no_weight_decay = lambda: {"scalee"}
    with pytest.raises(ValueError, match=r"no_weight_decay\(\) of Marked names no parameter: \['scalee'\]"):
        param_groups(model, 0.1)


@pytest.mark.parametrize(("name", "middle"), [("cosine", 0.5), ("linear", 0.5), ("constant", 1.0)])
def test_learning_rate_is_a_function_of_the_step(name, middle):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=1.0)
    scheduler = create_scheduler(optimizer, Schedule(name, warmup=Duration(1, "ep")), steps=110, steps_per_epoch=10)
    rates = {}
    for step in (60, 0, 5, 10, 109):  # in no order
        scheduler.step_update(step)
        rates[step] = optimizer.param_groups[0]["lr"]
    assert rates[0] == pytest.approx(1e-5) and rates[5] == pytest.approx(0.5, abs=1e-4) and rates[10] == 1.0
    assert rates[60] == pytest.approx(middle) and (rates[109] == 1.0 if name == "constant" else rates[109] < 0.02)
    with pytest.raises(ValueError, match="schedule.warmup is 110 steps, but the whole training has 110"):
        create_scheduler(optimizer, Schedule(name, warmup=Duration(110, "st")), steps=110, steps_per_epoch=10)


def test_resumed_run_is_bit_identical(make_recipe, tmp_path):
    """Killed at step 25 of 30, within the second epoch; with drop path, augmentation and EMA."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    metrics = Trainer(make_recipe(), whole).run()
    kill_at(Trainer(make_recipe(), killed), 25)
    assert records(killed)[-1]["step"] == 25
    resumed = Trainer(make_recipe("train.checkpoint_every=7st"), killed)  # how often it saves may change
    assert resumed.step == 20
    assert resumed.run() == metrics
    assert records(killed) == records(whole)
    assert all(torch.equal(tensor, weights(killed)[name]) for name, tensor in weights(whole).items())


def test_finished_run_is_not_trained_again(make_recipe, tmp_path):
    metrics = Trainer(make_recipe(), tmp_path / "run").run()
    before = records(tmp_path / "run")
    again = Trainer(make_recipe(), tmp_path / "run")
    assert again.step == again.total == 30
    assert again.run() == metrics and records(tmp_path / "run") == before


def test_the_saved_model_scores_the_same(make_recipe, tmp_path):
    recipe = make_recipe("train.duration=20st", "train.precision=bf16")
    metrics = Trainer(recipe, tmp_path / "run").run()
    model = zoo.create_model(f"local-dir:{tmp_path / 'run' / 'model'}")
    again = evaluate(model, recipe, recipe.data.load()["test"])
    assert {f"test/{name}": value for name, value in again.items()} == metrics


def test_training_leaves_the_global_generator_alone(make_recipe, tmp_path):
    torch.manual_seed(7)
    before = torch.get_rng_state()
    Trainer(make_recipe("train.duration=6st"), tmp_path / "run").fit()
    assert torch.equal(torch.get_rng_state(), before)


def test_it_learns(make_recipe, tmp_path):
    recipe = make_recipe("train.duration=10ep", "train.ema=null", "optim.lr=1e-2", "model.kwargs.drop_path_rate=0")
    assert Trainer(recipe, tmp_path / "run").run()["test/top1"] > 70


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_non_finite_loss_or_gradient_stops_before_the_update(make_recipe, tmp_path, what):
    class Explodes(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * float("nan") if what == "loss" else x.clone()

        @staticmethod
        def backward(ctx, grad):
            return grad * float("inf")

    trainer = Trainer(make_recipe(), tmp_path / "run")
    forward, calls = trainer.model.forward, []

    def exploding(x, **options):
        calls.append({name: tensor.clone() for name, tensor in trainer.model.state_dict().items()})
        logits, aux = forward(x, **options)
        # One call looked at what the update of step 10 made.
        return (Explodes.apply(logits) if len(calls) == 14 else logits), aux

    trainer.model.forward = exploding
    with pytest.raises(FloatingPointError, match=f"the .*{what}.* is (nan|inf) at step 13: stopped before the update"):
        trainer.run()
    assert all(torch.equal(tensor, calls[-1][name]) for name, tensor in trainer.model.state_dict().items())
    assert Trainer(make_recipe(), tmp_path / "run").step == 10  # the last checkpoint is from before


def test_kill_while_a_checkpoint_is_written_leaves_the_old_one(make_recipe, tmp_path):
    """The process kills itself (SIGKILL) in the middle of its second checkpoint, the optimizer's file half written."""
    make_recipe()
    script = f"""
import os, signal, torch
from zoo.training import Trainer, load_recipe
trainer = Trainer(load_recipe({str(tmp_path / "recipe.yaml")!r}), {str(tmp_path / "run")!r})
save = torch.save
def dying(state, file):
    if trainer.step == 20:
        file.write_bytes(b"half")
        os.kill(os.getpid(), signal.SIGKILL)
    save(state, file)
torch.save = dying
trainer.run()
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == -signal.SIGKILL, done.stderr
    hidden, left = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert left == "step-00000010" and hidden.startswith(".zoo-")
    resumed = Trainer(make_recipe(), tmp_path / "run")
    assert resumed.step == 10
    resumed.run()
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-00000030"]
    assert records(tmp_path / "run")[-1]["final"]


@pytest.mark.parametrize("file", ["model.safetensors", "ema.safetensors", "optimizer.pt"])
@pytest.mark.parametrize("damage", ["truncated", "absent"])
def test_failed_resume_is_an_error(make_recipe, killed_run, file, damage):
    path = killed_run / "checkpoints" / "step-00000010" / file
    content = path.read_bytes()
    path.unlink()
    if damage == "truncated":
        path.write_bytes(content[: len(content) // 2])
    what = "is missing" if damage == "absent" else "is damaged: its SHA-256 is not the one in checkpoint.json"
    said = rf"step-00000010 cannot be resumed from: \S*{file} {what}. .* or remove .*run to start again"
    with pytest.raises(ValueError, match=said):
        Trainer(make_recipe(), killed_run)


def test_code_in_a_checkpoint_is_not_run(make_recipe, killed_run, tmp_path):
    class Payload:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "owned"),)

    checkpoint = killed_run / "checkpoints" / "step-00000010"
    torch.save({"state": Payload()}, checkpoint / "optimizer.pt")
    with pytest.raises(ValueError, match="optimizer.pt is damaged: its SHA-256"):
        Trainer(make_recipe(), killed_run)
    seal(checkpoint)
    with pytest.raises(ValueError, match=r"optimizer.pt is damaged \(UnpicklingError"):
        Trainer(make_recipe(), killed_run)
    assert not (tmp_path / "owned").exists()


def test_another_recipe_is_not_resumed(make_recipe, killed_run):
    with pytest.raises(ValueError, match=r"run of another recipe \(optim.lr: 0.001 -> 0.01; train.seed: 0 -> 1\)"):
        Trainer(make_recipe("optim.lr=1e-2", "train.seed=1"), killed_run)


def test_a_folder_that_is_no_run_is_not_touched(make_recipe, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    with pytest.raises(FileExistsError, match="mine is not empty and holds no recipe.yaml"):
        Trainer(make_recipe(), tmp_path / "mine")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.tex"]


def test_aux_losses_are_weighted_and_checked(make_recipe, tmp_path):
    def trainer(name, **aux):
        result = Trainer(make_recipe("train.duration=6st", f"aux_losses={{{name}: 0.5}}"), tmp_path / name)
        forward = result.model.forward
        result.model.forward = lambda x, **options: (forward(x, **options)[0], aux)
        return result

    given = {"loss/balance": torch.tensor(4.0, requires_grad=True), "stat/load": (torch.ones(2), torch.zeros(2))}
    plain, weighted = trainer("none", **{"loss/none": torch.zeros(())}), trainer("balance", **given)
    plain.fit()
    weighted.fit()
    first, other = records(tmp_path / "none")[0], records(tmp_path / "balance")[0]
    assert other["loss"] == pytest.approx(first["loss"] + 2.0) and other["stat/load"] == [[1.0, 1.0], [0.0, 0.0]]
    with pytest.raises(ValueError, match="'balanse' of aux_losses is unknown; did you mean 'balance'.*: balance"):
        trainer("balanse", **given).fit()


def test_model_must_fit_the_task(make_recipe, tmp_path):
    with pytest.raises(ValueError, match="the model has 7 classes, the data 10: set model.kwargs.num_classes=10"):
        Trainer(make_recipe("model.kwargs.num_classes=7"), tmp_path / "run")
    with pytest.raises(ValueError, match="the model gives 10 logits, not images: set model.kwargs.head=image"):
        Trainer(make_recipe("task={name: denoise, sigma: 0.2}"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_denoising(make_recipe, tmp_path):
    image = "model.kwargs={img_size: 8, patch_size: 4, in_chans: 1, head: image}"
    overrides = ["task={name: denoise, sigma: 0.3}", image, "train.duration=8ep", "train.ema=null", "optim.lr=1e-2"]
    overrides.append("expect.metric=test/psnr")
    trainer = Trainer(make_recipe(*overrides), tmp_path / "run")
    before = trainer.evaluate("test")["test/psnr"]
    assert trainer.run()["test/psnr"] > before + 5


def test_command_line(tmp_path, monkeypatch, capsys):
    main = runpy.run_path(str(ROOT / "recipes" / "train.py"))["main"]
    monkeypatch.chdir(tmp_path)
    Path("tiny.yaml").write_text(TEXT, "utf-8")
    main(["tiny.yaml", "--print", "train.seed=3"])
    assert "seed: 3" in capsys.readouterr().out and not Path("runs").exists()
    with pytest.raises(SystemExit, match="error: override train.sede=3: train.sede: .*did you mean 'seed'"):
        main(["tiny.yaml", "train.sede=3"])
    main(["tiny.yaml", "train.duration=10st"])
    said = capsys.readouterr().out
    assert "changed for this run: train.duration=10st" in said and "nothing to compare with" in said
    assert zoo.create_model("local-dir:runs/tiny/model").num_classes == 10


def test_demo_runs_and_runs_again(tmp_path, monkeypatch, capsys):
    main = runpy.run_path(str(ROOT / "recipes" / "demo.py"))["main"]
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        main(["train.duration=3ep", "schedule.warmup=0ep"])
    said = capsys.readouterr().out
    assert said.count("exactly the same") == 2
    assert (tmp_path / "runs" / "demo" / "model").exists() and (tmp_path / "runs" / "demo-2" / "model").exists()
    assert "blocks.2" in said and "MACs" in said


# Run by each process. Accelerate shards on accelerators only, so for FSDP it is told that these CPUs are such.
DRIVER = """
import sys
import accelerate.state as state
from zoo.training import Trainer, load_recipe

init = state.PartialState.__init__
def pretend(self, *args, **kwargs):
    init(self, *args, **kwargs)
    self.distributed_type = state.DistributedType.MULTI_GPU
if sys.argv[1] == "fsdp":
    state.PartialState.__init__ = pretend
trainer = Trainer(load_recipe(sys.argv[2]), sys.argv[3])
assert trainer.accelerator.num_processes == 2 and trainer.sharded == (sys.argv[1] == "fsdp")
update = trainer._update
trainer._update = lambda step, *batch: sys.exit() if step == int(sys.argv[4]) else update(step, *batch)
trainer.run()
"""


MIXTURE = {  # without a choice that a rounding may turn
    "experts": "{name: moe, num_experts: 2, top_k: 2}",
    "mixers": "{name: moe, num_experts: 2, top_k: 2, experts: [mlp, glu]}",
}


METHODS = """\
methods:
  teacher: {name: distill, teacher: vit_test, teacher_kwargs: {img_size: 8, patch_size: 4, in_chans: 1}}
  noise: {name: gradient_noise, eta: 1e-6}
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", ["ddp", "fsdp", "experts", "mixers", "methods"])
def test_two_processes_train_as_one(tmp_path, how):
    """They stop at step 15, go on from the checkpoint of step 10, and end where one process that never stopped ends.

    So does one process that goes on from the two's checkpoint, and one that computes its batches in two parts.
    """
    (tmp_path / "driver.py").write_text(DRIVER)
    text = TEXT.replace("ema: 0.9", "ema: null").replace("drop_path_rate: 0.3", "drop_path_rate: 0")
    if how == "methods":
        text += METHODS
    if how in MIXTURE:
        text = text.replace("depth: 2", f"depth: 2, channel_mixer: {MIXTURE[how]}")
        text = text.replace("threads: 1", "threads: 1\n  expert_parallel: true")
    (tmp_path / "two.yaml").write_text(text.replace("shift: 0.5", "shift: 0"))
    environment = os.environ | {"PYTHONPATH": str(ROOT), "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    if how == "fsdp":
        environment |= {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_RESHARD_AFTER_FORWARD": "true"}
        environment |= {"FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP", "FSDP_TRANSFORMER_CLS_TO_WRAP": "MetaBlock"}
    for stop in ("15", "-1"):
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "driver.py"]
        done = subprocess.run(
            [*command, how, "two.yaml", "two", stop],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        if stop == "15":
            shutil.copytree(tmp_path / "two", tmp_path / "then-one")
    recipe = load_recipe(tmp_path / "two.yaml")
    Trainer(recipe, tmp_path / "one").run()
    assert Trainer(recipe, tmp_path / "then-one").step == 10
    Trainer(recipe, tmp_path / "then-one").run()
    Trainer(load_recipe(tmp_path / "two.yaml", ["train.accumulate=2"]), tmp_path / "parts").run()
    for name in ("two", "then-one", "parts"):
        for one, other in zip(records(tmp_path / "one"), records(tmp_path / name), strict=True):
            numbers = [
                {key: value for key, value in record.items() if key[:5] not in ("stat/", "loss/")}
                for record in (one, other)
            ]
            assert numbers[0] == pytest.approx(numbers[1], rel=1e-3), name
