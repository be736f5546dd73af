"""The trainer on a GPU: precisions, compilation, one process of several, a resumed run, and nothing that waits."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from trainings import TINY, kill_at

import zoo
from zoo.training import Trainer, load_recipe
from zoo.training.runs.records import read_records

TEXT = TINY
ROOT = Path(__file__).parents[2]
if not torch.cuda.is_available():
    pytest.skip("there is no GPU", allow_module_level=True)
MIXTURE = "model.kwargs.channel_mixer=moe(num_experts=4)"


@pytest.mark.parametrize(
    "precision, change",
    [
        ("fp32", "train.accumulate=2"),
        ("fp32", "train.ema=0.9"),
        ("bf16", "train.grad_clip=1"),
        ("bf16", MIXTURE),  # in fp32 torch has no grouped product
    ],
)
def test_a_step_waits_for_nothing(precision, change, make_recipe, tmp_path):
    """Numbers are fetched when they are logged, and not before."""
    trainer = Trainer(make_recipe(f"train.precision={precision}", change), tmp_path / "run")
    size = 64 // trainer.recipe.train.accumulate
    batch = [t for _ in range(64 // size) for t in (torch.rand(size, 1, 8, 8), torch.randint(10, (size,)))]
    batch = [tensor.pin_memory() for tensor in batch]
    for step in range(2):  # what is made once
        trainer._update(step, *batch)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for step in range(2, 5):
            trainer._update(step, *batch)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize(
    "overrides",
    [
        ["train.precision=bf16", "train.compile=true"],
        ["train.precision=fp16", "train.accumulate=2", "train.best={metric: validation/loss}"],
        ["train.precision=bf16", "train.ema=0.9", "train.grad_checkpointing=true", "train.channels_last=true"],
        ["train.precision=bf16", MIXTURE],
    ],
    ids=["compiled", "fp16", "bf16", "mixture"],
)
def test_a_resumed_run_goes_on_as_if_it_had_not_been_cut(overrides, make_recipe, tmp_path):
    recipe = make_recipe(*overrides)
    metrics = Trainer(recipe, tmp_path / "whole").run()
    kill_at(Trainer(recipe, tmp_path / "killed"), 5)
    again = Trainer(recipe, tmp_path / "killed")
    assert again.step == 4 and next(again.model.parameters()).is_cuda
    assert again.run() == pytest.approx(metrics, rel=1e-2)
    steps = [
        [r["loss"] for r in read_records(tmp_path / run / "metrics.jsonl") if "loss" in r]
        for run in ("whole", "killed")
    ]
    assert steps[0] == pytest.approx(steps[1], rel=1e-2)
    model = zoo.create_model(f"local-dir:{tmp_path / 'killed' / 'model'}")
    assert all(tensor.isfinite().all() for tensor in model.state_dict().values())


def test_a_loss_that_is_not_finite_is_noticed_late_and_nothing_is_saved(make_recipe, tmp_path):
    trainer = Trainer(make_recipe("optim.lr=1e12", "train.log_every=3st", "train.checkpoint_every=3st"), tmp_path / "r")
    with pytest.raises(FloatingPointError):
        trainer.run()
    assert Trainer(trainer.recipe, tmp_path / "r").step == 0


@pytest.mark.parametrize("start", [["-m", "torch.distributed.run", "--nproc-per-node=1"], []], ids=["ddp", "alone"])
def test_a_recipe_from_the_command_line(start, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(TINY)
    command = [sys.executable, *start, str(ROOT / "recipes" / "train.py"), str(recipe), "--output", str(tmp_path / "r")]
    done = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert load_recipe(tmp_path / "r" / "recipe.yaml").train.batch_size == 64
    assert "NVIDIA" in (tmp_path / "r" / "sessions.jsonl").read_text()
