"""train and eval: a recipe becomes a run, and a run is measured again."""

import json
import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest
from commands import Command
from conftest import ROOT
from trainings import TINY

import zoo


@pytest.fixture
def command(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(TINY)
    return Command(capsys)


def test_a_recipe_becomes_a_run_that_is_measured_again(command, tmp_path):
    trained = command.json("train", "tiny.yaml", "train.seed=3")
    assert trained["model"] == "runs/tiny/model" and "nothing to compare with" in trained["expected"]
    measured = command.json("eval", "runs/tiny")
    assert measured == {"metrics": trained["metrics"], "expected": trained["expected"]}
    last = json.loads((tmp_path / "runs/tiny/metrics.jsonl").read_text().splitlines()[-1])
    assert last["final"] and measured["metrics"].items() <= last.items()
    validation = command.json("eval", "runs/tiny", "--split", "validation")["metrics"]
    names = ("top1", "top5", "balanced_accuracy", "ece", "loss")
    assert set(validation) == {f"validation/{name}" for name in names}
    assert f"test/top1 {measured['metrics']['test/top1']:.4g}" in command.text("eval", "runs/tiny")
    assert zoo.create_model("local-dir:runs/tiny/model").num_classes == 10


def test_train_says_what_the_script_says(command, capsys):
    text = command.text("train", "tiny.yaml", "train.duration=2st", "--output", "runs/a")
    assert "changed for this run: train.duration=2st" in text and "the model is in runs/a/model" in text
    script = runpy.run_path(str(ROOT / "recipes" / "train.py"))["main"]
    script(["tiny.yaml", "train.duration=2st", "--output", "runs/b"])
    other = capsys.readouterr().out
    without_times = lambda said: [line.partition("  in ")[0] for line in said.splitlines()]
    assert without_times(text) == without_times(other)
    assert "seed: 4" in command.text("train", "tiny.yaml", "--print", "train.seed=4")
    assert command.json("train", "tiny.yaml", "--print")["train"]["batch_size"] == 64


def test_wrong_recipes_and_runs_get_a_line(command, tmp_path):
    assert "did you mean 'seed'" in command.refusal("train", "tiny.yaml", "train.sede=3")
    assert "train.batch_size is 5000" in command.refusal("train", "tiny.yaml", "train.batch_size=5000")
    command.text("train", "tiny.yaml", "train.duration=2st")
    assert "the part 'tset' of the data is unknown; did you mean 'test'" in command.refusal(
        "eval", "runs/tiny", "--split", "tset"
    )
    assert "device 'gpu' is unknown" in command.refusal("eval", "runs/tiny", "--device", "gpu")
    assert "holds a run of another recipe" in command.refusal("train", "tiny.yaml", "train.seed=9")
    (tmp_path / "runs" / "half").mkdir()
    (tmp_path / "runs" / "half" / "recipe.yaml").write_text(TINY)
    assert "runs/half has no trained model yet: train it" in command.refusal("eval", "runs/half")


def test_a_run_is_pushed_with_what_it_reached(command, monkeypatch):
    trained, sent = command.json("train", "tiny.yaml", "train.duration=2st"), {}

    def push(model, repo_id, **how):
        sent.update(how, classes=model.num_classes, repo_id=repo_id)
        return SimpleNamespace(oid="1", commit_url="http://hub/me/tiny/commit/1", pr_url=None)

    monkeypatch.setattr("zoo.tools.push.push_to_hub", push)
    said = command.text("push", "runs/tiny", "me/tiny", "--private", "--licence", "mit")
    assert said == "http://hub/me/tiny/commit/1\n" and sent["private"] and sent["licence"] == "mit"
    assert (sent["classes"], sent["repo_id"], sent["page"]) == (10, "me/tiny", None)
    assert sent["training"].metrics["test/top1"] == trained["metrics"]["test/top1"]
    assert sent["training"].data == "digits" and "batch_size: 64" in sent["training"].recipe
    Path("runs/tiny/model/README.md").write_text("# Mine")
    command.text("push", "runs/tiny/model", "me/tiny")
    assert sent["page"] == "# Mine" and sent["training"] is None
    assert "holds no saved model" in command.refusal("push", "runs", "me/tiny")


@pytest.mark.parametrize("recipe", ["segment_digits", "modular_digits"])
def test_segmenters_and_models_for_several_tasks_are_measured_too(command, recipe):
    overrides = ["train.duration=1st", "schedule.warmup=0st", "train.eval_every=1st", "train.checkpoint_every=1st"]
    trained = command.json("train", str(ROOT / "recipes" / f"{recipe}.yaml"), *overrides, "--output", "run")
    assert command.json("eval", "run")["metrics"] == trained["metrics"]
