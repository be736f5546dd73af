"""Processes of one training that end before their time, and what torchrun and a cluster make of it."""

import os
import signal
import subprocess
import sys
import time

import pytest
from conftest import ROOT
from trainings import TINY

pytest.importorskip("accelerate", reason="the recipes need zoo[train]")

from zoo.training import Trainer
from zoo.training.runs.records import read_records

TEXT = TINY.replace("shift: 0.5", "shift: 0")
# One of the two workers is killed in the middle of its first life, and is the first to ask for the other in its second.
DYING = """
import os, pathlib, signal, sys, time
from zoo.training import Trainer, load_recipe

died = pathlib.Path("died")
if died.exists() and os.environ["RANK"] == "0":
    time.sleep(8)
trainer = Trainer(load_recipe(sys.argv[1]), sys.argv[2])
update = trainer._update
def dying(step, *batch):
    if step == 3 and os.environ["RANK"] == "1" and not died.exists():
        died.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return update(step, *batch)
trainer._update = dying
trainer.run()
"""
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "--max-restarts=3"]


@pytest.fixture
def start(tmp_path):
    """Start a script in two processes, in the test's folder."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return lambda *command: subprocess.Popen([*TORCHRUN, *command], cwd=tmp_path, env=environment, **pipe)


@pytest.mark.slow
def test_a_killed_worker_is_started_again_and_the_run_goes_on(make_recipe, start, tmp_path):
    (tmp_path / "dying.py").write_text(DYING)
    said, _ = (process := start("dying.py", "recipe.yaml", "two")).communicate(timeout=300)
    assert process.returncode == 0, said
    assert (tmp_path / "died").exists() and "resumed two at step 2/6" in said
    assert "Connection refused" not in said
    Trainer(make_recipe(), tmp_path / "one").run()
    one, two = (read_records(tmp_path / name / "metrics.jsonl") for name in ("one", "two"))
    for expected, found in zip(one, two, strict=True):
        assert found == pytest.approx(expected, rel=1e-3)


@pytest.mark.slow
def test_a_cluster_that_takes_the_machine_back_finds_a_checkpoint(make_recipe, start, tmp_path):
    """Of the two workers both get the SIGTERM, at other steps; they save together, and end."""
    make_recipe()
    arguments = [ROOT / "recipes" / "train.py", "recipe.yaml", "--output", "run", "train.duration=99999st"]
    process = start(*map(str, arguments), "train.checkpoint_every=99999st", "train.eval_every=99999st")
    records = tmp_path / "run" / "metrics.jsonl"
    deadline = time.monotonic() + 200
    while not (records.exists() and len(records.read_bytes().splitlines()) > 20):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=100)
    assert "SIGTERM: stopped at step" in said and process.returncode != 0
    (checkpoint,) = (tmp_path / "run" / "checkpoints").glob("step-*")
    assert int(checkpoint.name.removeprefix("step-")) > 20
    assert Trainer(make_recipe("train.duration=99999st"), tmp_path / "run").step > 20
