"""Trainings that are killed at random instants, with a second one and a reader beside them."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest
import torch
from conftest import ROOT
from PIL import Image
from safetensors.torch import load_file

from zoo.training import Trainer, load_recipe
from zoo.training.runs.checkpoints import read_checkpoint

TEXT = """\
task: {name: classify}
model:
  name: mixer_test
  kwargs: {img_size: 8, patch_size: 4, in_chans: 1, num_classes: 10, depth: 1, drop_path_rate: 0.3}
data: {name: digits, shift: 0.5}
train: {duration: 12st, batch_size: 64, eval_every: 6st, checkpoint_every: 2st, log_every: 1st, ema: 0.9, threads: 1}
optim: {name: adamw, lr: 1e-3, weight_decay: 0.05}
schedule: {name: constant}
expect: {metric: test/top1, status: untested}
"""
MORE = """\
train:
  {duration: 12st, batch_size: 64, eval_every: 3st, checkpoint_every: 2st, log_every: 1st, ema: 0.9, threads: 1,
  precision: fp16, accumulate: 2, best: {metric: validation/loss}, drop_path: {first: 0, last: 1, end: 8st}}
optim: {name: adamw, lr: 1e-3, weight_decay: 0.05, layer_decay: 0.9}
"""
WITH_MORE = re.sub(r"train: .*\noptim: .*\n", MORE, TEXT).replace("{name: classify}", "{name: classify, mixup: 0.2}")
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def tree(folder):
    """Every path below a folder, the names of weights without what is random in them."""
    found = sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))
    return [re.sub(r"^(model|best)/model.*", r"\1/weights", name) for name in found]


@pytest.mark.parametrize(
    ("kills", "text"), [(3, TEXT), *(pytest.param(50, text, marks=pytest.mark.slow) for text in (TEXT, WITH_MORE))]
)
def test_killed_runs_end_as_the_undisturbed_one_and_leave_nothing_else(kills, text, tmp_path):
    (tmp_path / "recipe.yaml").write_text(text)
    runs = tmp_path / "runs"
    runs.mkdir()
    done = subprocess.run(
        [sys.executable, ROOT / "tests" / "training_kills.py", tmp_path / "recipe.yaml", runs, str(kills), "0"],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=60 * kills,
    )
    assert done.returncode == 0, done.stderr
    *problems, counts = [line for line in done.stdout.splitlines() if not line.startswith("step ")]
    killed, finished = map(int, counts.split())
    assert not problems and killed == kills and finished > 0
    whole = runs / "undisturbed"
    state = read_checkpoint(whole / "checkpoints" / "step-00000012", ["model", "ema"])
    for number in range(finished):
        run = runs / f"run-{number}"
        assert tree(run) == tree(whole)
        assert (run / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
        weights, optimizer, _ = read_checkpoint(run / "checkpoints" / "step-00000012", ["model", "ema"])
        for name in ("model", "ema"):
            assert all(torch.equal(tensor, state[0][name][key]) for key, tensor in weights[name].items())
        for parameter, values in state[1]["state"].items():
            assert all(torch.equal(value, optimizer["state"][parameter][key]) for key, value in values.items())
        for name in ("model", "best") if text == WITH_MORE else ("model",):
            saved = [load_file(next((folder / name).glob("*.safetensors"))) for folder in (run, whole)]
            assert all(torch.equal(tensor, saved[1][key]) for key, tensor in saved[0].items())


def test_a_killed_run_with_workers_can_be_gone_on_with_at_once(tmp_path):
    """The workers live on for seconds after the process that made them was killed."""
    for part in ("train", "validation"):
        for name in "ab":
            folder = tmp_path / "data" / part / name
            folder.mkdir(parents=True)
            for number in range(8):
                Image.new("L", (8, 8), 16 * number).save(folder / f"{number}.png")
    text = TEXT.replace("data: {name: digits, shift: 0.5}", f"data: {{name: image_folder, root: '{tmp_path}/data'}}")
    (tmp_path / "recipe.yaml").write_text(text)
    overrides = ["data.img_size=8", "data.in_chans=1", "data.workers=2", "model.kwargs.num_classes=2"]
    overrides += ["train.batch_size=4", "train.duration=100000st", "train.eval_every=100000st"]
    overrides += ["expect.metric=validation/top1"]  # there is no test split
    script = f"""
from zoo.training import Trainer, load_recipe
trainer = Trainer(load_recipe({str(tmp_path / "recipe.yaml")!r}, {overrides!r}), {str(tmp_path / "run")!r})
update = trainer._update
def slow(step, *batch):
    if step == 4:
        print("here", flush=True)
        import time; time.sleep(60)
    return update(step, *batch)
trainer._update = slow
trainer.run()
"""
    process = subprocess.Popen([sys.executable, "-c", script], env=ENVIRONMENT, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "here\n"
    recipe = load_recipe(tmp_path / "recipe.yaml", overrides)
    with pytest.raises(FileExistsError, match=f"in use by another process.*: process {process.pid} on .*, since 20"):
        Trainer(recipe, tmp_path / "run")
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    began = time.monotonic()
    resumed = Trainer(recipe, tmp_path / "run")
    assert resumed.step == 4
    with resumed.folder.held():
        assert json.loads(resumed.folder.lock.path.read_text())["pid"] == os.getpid()
    assert time.monotonic() - began < 4, "the workers' own patience is five seconds"
