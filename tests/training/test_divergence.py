"""Trainings that diverge, before an update or by it, and how they are gone on with: --from, with a changed recipe."""

import math
import runpy
import shutil
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from safetensors.torch import load_file
from torch import nn
from trainings import TINY

from zoo.training import Trainer
from zoo.training.divergence import check_after, check_state
from zoo.training.runs.folder import MARK
from zoo.training.runs.records import read_records

TEXT = TINY
WILD = ("optim={name: sgd, lr: 1e10, weight_decay: 0}", "train.checkpoint_every=1st")
TAME = (WILD[0].replace("1e10", "1e-3"), WILD[1])


def left(run):
    return sorted(path.name for path in (run / "checkpoints").iterdir())


def weights(run):
    return load_file(run / "checkpoints" / left(run)[-1] / "model.safetensors")


@pytest.mark.parametrize("steps", [1, 2])
def test_a_run_whose_last_update_blew_up_is_no_success(make_recipe, tmp_path, steps):
    with pytest.raises(
        FloatingPointError, match=r"the loss is .* after the update of step 1, .* --from \S*run"
    ) as said:
        Trainer(make_recipe(*WILD, f"train.duration={steps}st"), tmp_path / "run").run()
    assert left(tmp_path / "run") == ["step-00000000"] and not (tmp_path / "run" / "model").exists()
    assert all(tensor.abs().max() < 10 for tensor in weights(tmp_path / "run").values())
    assert read_records(tmp_path / "run" / "metrics.jsonl")[-1] == {"step": 1, "diverged": str(said.value)}


def test_a_diverged_run_is_gone_on_with_in_its_folder_with_what_was_advised(make_recipe, tmp_path):
    run, metrics = tmp_path / "run", tmp_path / "run" / "metrics.jsonl"
    with pytest.raises(FloatingPointError):
        Trainer(make_recipe(*WILD), run).run()
    for change in ("train.seed=1", "model.kwargs.depth=2", "train.batch_size=32"):
        with pytest.raises(ValueError, match=f"another recipe.*{change.partition('=')[0]}"):
            Trainer(make_recipe(*TAME, change), run)
    found = Trainer(make_recipe(*TAME), run).run()
    changed = {"step": 0, "from": str(run), "changed": ["optim.lr: 10000000000.0 -> 0.001"]}
    assert read_records(metrics)[0] == changed and not any("diverged" in record for record in read_records(metrics))
    assert (run / "recipe.yaml").read_text().startswith(MARK)
    assert Trainer(make_recipe(*TAME), run).run() == found, "the recipe of the folder is the new one"
    assert found == Trainer(make_recipe(*TAME), tmp_path / "tame").run(), "nothing is left of what blew up"
    with pytest.raises(ValueError, match="another recipe"):
        Trainer(make_recipe(*WILD), run)


def test_from_another_run_with_a_changed_recipe(make_recipe, tmp_path):
    source, run = tmp_path / "source", tmp_path / "run"
    Trainer(make_recipe("train.ema=0.9"), source).run()
    before = {path: path.read_bytes() for path in source.rglob("*") if path.is_file()}
    longer = make_recipe("train.duration=10st", "optim.lr=1e-2", "optim.weight_decay=0.1", "train.ema=0.9")
    trainer = Trainer(longer, run, source)
    assert trainer.step == 6 and trainer.optimizer.param_groups[0]["weight_decay"] == 0.1
    assert all(state["step"] == 6 for state in trainer.optimizer.state.values())
    trainer._update = None  # it dies in its first step
    with pytest.raises(TypeError):
        trainer.run()
    assert left(run) == ["step-00000006"]
    changed = ["optim.lr: 0.001 -> 0.01", "optim.weight_decay: 0.05 -> 0.1", "train.duration: 6st -> 10st"]
    first = {"step": 6, "from": str(source), "changed": changed}
    assert read_records(run / "metrics.jsonl") == [first]
    whole = Trainer(longer, tmp_path / "whole", source).run()
    assert whole == Trainer(longer, run, source).run() == Trainer(longer, run).run()
    records = read_records(run / "metrics.jsonl")
    assert records[0] == first and [record["lr"] for record in records if "lr" in record] == [1e-2] * 4
    assert before == {path: path.read_bytes() for path in source.rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match="run holds a run that did not begin at .*elsewhere: choose another"):
        Trainer(longer, run, tmp_path / "elsewhere")


def test_the_same_recipe_from_a_copied_checkpoint_repeats_the_run(make_recipe, tmp_path):
    whole = Trainer(make_recipe(), tmp_path / "whole")
    save, copy = whole.save_checkpoint, tmp_path / "best so far"

    def copying():
        save()
        if whole.step == 2:
            shutil.copytree(whole.folder.checkpoints / "step-00000002", copy)

    whole.save_checkpoint = copying
    metrics = whole.run()
    assert Trainer(make_recipe(), tmp_path / "run", copy).run() == metrics
    assert read_records(tmp_path / "run" / "metrics.jsonl")[0] == {"step": 2, "from": str(copy), "changed": None}


def test_another_optimizer_begins_anew_and_an_average_at_the_weights(make_recipe, tmp_path, capsys):
    Trainer(make_recipe(), tmp_path / "source").run()
    recipe = make_recipe("optim.name=sgd", "train.duration=8st", "train.ema=0.9")
    trainer = Trainer(recipe, tmp_path / "run", tmp_path / "source" / "checkpoints" / "step-00000006")
    assert "optim.name: adamw -> sgd; " in (said := capsys.readouterr().out) and "the optimizer begins anew" in said
    averaged = trainer.ema.module.state_dict()
    assert all(torch.equal(tensor, averaged[name]) for name, tensor in weights(tmp_path / "source").items())
    trainer.run()


def test_other_rates_and_frozen_parts_keep_what_the_optimizer_knows_of_a_parameter(make_recipe, tmp_path, capsys):
    def known(trainer):
        state = trainer.optimizer.optimizer.state
        return {name: state[p]["exp_avg"] for name, p in trainer.model.named_parameters() if p in state}

    source = Trainer(make_recipe("train.freeze=[stem]"), tmp_path / "source")
    source.run()
    changes = [["optim.lr_by={head: 2}", "train.freeze=[stem]"], [], ["train.freeze=[stem, head]"]]
    for number, change in enumerate(changes):
        recipe = make_recipe(*change, "train.duration=8st")
        trainer = Trainer(recipe, tmp_path / str(number), tmp_path / "source")
        assert "begins anew" not in capsys.readouterr().out
        expected = {name: t for name, t in known(source).items() if number < 2 or not name.startswith("head")}
        assert known(trainer).keys() == expected.keys()
        assert all(torch.equal(tensor, expected[name]) for name, tensor in known(trainer).items())
        trainer.run()


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adam", "adagrad"])
def test_a_parameter_may_have_its_first_gradient_later_than_others(make_recipe, tmp_path, optimizer):
    Trainer(make_recipe(f"optim.name={optimizer}", "train.freeze=[stem]"), tmp_path / "source").run()
    recipe = make_recipe(f"optim.name={optimizer}", "train.duration=8st")
    Trainer(recipe, tmp_path / "run", tmp_path / "source").run()


def test_another_part_frozen_begins_lbfgs_anew(make_recipe, tmp_path, capsys):
    lbfgs = ("optim.name=lbfgs", "optim.weight_decay=0", "train.batch_size=1257", "data.shift=0")
    Trainer(make_recipe(*lbfgs, "train.duration=1st"), tmp_path / "source").run()
    recipe = make_recipe(*lbfgs, "train.freeze=[head]", "train.duration=2st")
    Trainer(recipe, tmp_path / "run", tmp_path / "source").run()
    assert "the optimizer begins anew" in capsys.readouterr().out


def test_what_cannot_be_begun_at_is_named(make_recipe, tmp_path):
    Trainer(make_recipe(), tmp_path / "source").run()
    with pytest.raises(ValueError, match="step-00000006 is at step 6, and the recipe trains 6 in all: set train.dur"):
        Trainer(make_recipe("optim.lr=1e-2"), tmp_path / "run", tmp_path / "source")
    with pytest.raises(ValueError, match="does not fit the model and the optimizer"):
        Trainer(make_recipe("model.kwargs.depth=2", "train.duration=8st"), tmp_path / "run", tmp_path / "source")
    path = tmp_path / "source" / "checkpoints" / "step-00000006" / "optimizer.pt"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(
        ValueError, match="optimizer.pt is damaged: its SHA-256 .*There is no older one: begin at another"
    ):
        Trainer(make_recipe("train.duration=8st"), tmp_path / "run", tmp_path / "source")
    for source in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(FileNotFoundError, match="holds no checkpoint: give the folder of a run"):
            Trainer(make_recipe(), tmp_path / "run", source)
    assert not (tmp_path / "run").exists()


def test_the_command_line_says_what_went_wrong_and_begins_at_a_run(tmp_path, monkeypatch, capsys):
    main = runpy.run_path(str(ROOT / "recipes" / "train.py"))["main"]
    monkeypatch.chdir(tmp_path)
    Path("tiny.yaml").write_text(TEXT)
    with pytest.raises(SystemExit, match="error: the loss is .* --from runs/tiny"):
        main(["tiny.yaml", *WILD])
    main(["tiny.yaml", *TAME, "--from", "runs/tiny", "--output", "runs/tame"])
    main(["tiny.yaml", *TAME, "--from", "runs/tiny"])  # into the same folder
    assert "optim.lr: 10000000000.0 -> 0.001" in capsys.readouterr().out and Path("runs/tame/model").is_dir()
    with pytest.raises(SystemExit, match="error: runs/none holds no checkpoint"):
        main(["tiny.yaml", "--from", "runs/none", "--output", "runs/other"])


@pytest.mark.parametrize("kind", [ValueError, OSError, FileExistsError, FloatingPointError])
def test_a_bug_within_a_training_keeps_its_traceback(tmp_path, monkeypatch, kind):
    def failing(self):
        raise kind("so it ends")

    main = runpy.run_path(str(ROOT / "recipes" / "train.py"))["main"]
    monkeypatch.chdir(tmp_path)
    Path("tiny.yaml").write_text(TEXT)
    monkeypatch.setattr(Trainer, "run", failing)
    told = kind is not ValueError
    with pytest.raises(SystemExit if told else ValueError, match="^error: so it ends$" if told else "^so it ends$"):
        main(["tiny.yaml"])


# --- The checks -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", ["parameter", "optimizer"])
def test_a_state_that_is_not_finite_does_not_replace_the_last_checkpoint(make_recipe, tmp_path, where, value):
    trainer = Trainer(make_recipe("train.duration=2st"), tmp_path / "run")
    trainer.run()
    with torch.no_grad():
        parameter = next(trainer.model.parameters())
        state = trainer.optimizer.state[parameter]["exp_avg_sq"]
        (parameter if where == "parameter" else state).view(-1)[0] = value
    trainer.step = 3
    with pytest.raises(FloatingPointError, match=f"the {where}.* is not finite after step 3: stopped"):
        trainer.save_checkpoint()
    assert left(tmp_path / "run") == ["step-00000002"]
    before = {path: path.read_bytes() for path in (tmp_path / "run" / "model").iterdir()}
    with pytest.raises(FloatingPointError, match=f"the {where}.* is not finite"):
        trainer.save_model()
    assert before == {path: path.read_bytes() for path in (tmp_path / "run" / "model").iterdir()}


def test_states_of_any_type_are_looked_at(tmp_path):
    odd = [torch.ones(2, dtype=dtype) for dtype in (torch.bfloat16, torch.complex64, torch.int8, torch.bool)]
    state = {"state": {0: {"step": torch.tensor(1.0), "empty": torch.empty(0), "name": "x", "more": [1]}, "func": 3}}
    named = {str(number): tensor for number, tensor in enumerate(odd)}
    check_state(named, named, state, 1, tmp_path)
    named["1"] = torch.tensor([1j, math.nan])
    with pytest.raises(FloatingPointError, match="the parameter 1 is not finite"):
        check_state(named, named, state, 1, tmp_path)


def test_a_loss_far_above_the_first_has_diverged(tmp_path):
    for value, first in ((9e3, None), (9e3, 1e-9), (9e6, 1e3)):
        check_after(value, first, 0, tmp_path)
    for value, first in ((1.1e4, None), (1.1e4, 0.5), (1.1e7, 1e3), (math.nan, 1.0), (-math.inf, 1.0)):
        with pytest.raises(
            FloatingPointError, match="after the update of step 1, and above .* a model counts as diverged"
        ):
            check_after(value, first, 0, tmp_path)


def test_looking_at_an_update_changes_nothing(make_recipe, tmp_path):
    """Batch norms see a batch once, and what is random in a step comes from its seed alone."""
    trainer = Trainer(make_recipe("model.kwargs.drop_path_rate=0.5"), tmp_path / "run")
    trainer.model.norm_of_images = nn.BatchNorm2d(1)
    forward = trainer.model.forward
    trainer.model.forward = lambda x, **options: forward(trainer.model.norm_of_images(x), **options)
    trainer._update(0, *trainer.batches[0])
    before = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}
    trainer.stepper.check_update(0, trainer.batches[0], "", first=None)
    assert all(torch.equal(tensor, before[name]) for name, tensor in trainer.model.state_dict().items())
    assert before["norm_of_images.num_batches_tracked"] == 1 and trainer.model.training
