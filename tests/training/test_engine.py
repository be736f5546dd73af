"""What a recipe may say of how it trains: precisions, frozen parts, rates by layer, the best model, an early end."""

import os
import signal

import pytest
import torch
from torch import nn
from trainings import TINY, kill_at

import zoo
from zoo.training import Trainer, evaluate
from zoo.training.engine.best import Best, BestSoFar
from zoo.training.engine.drop_path import DropPath, DropPathSchedule
from zoo.training.engine.freeze import freeze
from zoo.training.engine.signals import asked_to_end
from zoo.training.optim import param_groups
from zoo.training.recipe.schema import Duration
from zoo.training.runs.measuring import evaluate_run
from zoo.training.runs.records import read_records

TEXT = TINY


def weights(folder, name="model"):
    return zoo.create_model(f"local-dir:{folder / name}").state_dict()


def same(one, two):
    return one.keys() == two.keys() and all(torch.equal(tensor, two[key]) for key, tensor in one.items())


EVERYTHING = (
    "train.precision=fp16",
    "train.freeze=[stem]",
    "train.ema=0.9",
    "model.kwargs.drop_path_rate=0.3",
    "train.drop_path={first: 0, last: 1, begin: 2st, end: 5st}",
    "optim.layer_decay=0.8",
    "optim.lr_by={head: 2}",
    "train.best={metric: validation/loss, patience: 3}",
    "train.eval_every=2st",
    "train.grad_checkpointing=true",
    "train.channels_last=true",
)


def test_a_resumed_run_with_everything_is_bit_identical(make_recipe, tmp_path):
    recipe = make_recipe(*EVERYTHING)
    metrics = Trainer(recipe, tmp_path / "whole").run()
    kill_at(Trainer(recipe, tmp_path / "killed"), 5)
    again = Trainer(recipe, tmp_path / "killed")
    assert again.step == 4 and again.best.value is not None and again.stepper.scale.used
    assert again.run() == metrics
    assert read_records(tmp_path / "killed" / "metrics.jsonl") == read_records(tmp_path / "whole" / "metrics.jsonl")
    for name in ("model", "best"):
        assert same(weights(tmp_path / "killed", name), weights(tmp_path / "whole", name))


def moved_by_training(trainer):
    """Names of what a training has changed in the model."""
    before = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}
    trainer.fit()
    return {name for name, tensor in trainer.model.state_dict().items() if not torch.equal(tensor, before[name])}


def test_what_is_frozen_stays_and_what_is_not_moves(make_recipe, tmp_path):
    recipe = make_recipe("train.freeze=[blocks, '!blocks.*.norm2']")
    trainer = Trainer(recipe, tmp_path / "run")
    assert moved_by_training(trainer) == {
        name for name in trainer.model.state_dict() if not name.startswith("blocks.") or ".norm2." in name
    }


def test_what_is_frozen_computes_as_in_evaluation_from_the_first_step(make_recipe, tmp_path):
    changes = ("model={name: unireplknet_test, kwargs: {in_chans: 1, img_size: 32, num_classes: 10}}", "data.size=32")
    recipe = make_recipe(*changes, "train.freeze=[stem]", "train.duration=2st", "train.eval_every=2st")
    trainer = Trainer(recipe, tmp_path / "run")
    assert not trainer.model.stem.training and trainer.model.stages.training
    before = {name: buffer.clone() for name, buffer in trainer.model.stem.named_buffers()}
    trainer.fit()
    assert all(torch.equal(buffer, before[name]) for name, buffer in trainer.model.stem.named_buffers())


def test_a_linear_probe_trains_the_classifier_alone(make_recipe, tmp_path):
    trainer = Trainer(make_recipe("train.linear_probe=true"), tmp_path / "run")
    assert moved_by_training(trainer) == {"head.weight", "head.bias"}


class Normed(nn.Module):
    """Two batch norms and a classifier."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.head = nn.BatchNorm1d(3), nn.BatchNorm1d(3), nn.Linear(3, 2)
        self.drop = nn.Dropout()

    def get_classifier(self):
        return self.head


def test_frozen_modules_are_the_outermost_and_a_mark_takes_back():
    model = Normed()
    assert freeze(model, ["first", "second.weight"], linear_probe=False) == [model.first]
    assert [name for name, one in model.named_parameters() if one.requires_grad] == [
        *("second.bias", "head.weight", "head.bias")
    ]
    model = Normed()
    assert freeze(model, ["!second.bias"], linear_probe=True) == [model.first, model.drop]
    assert [name for name, one in model.named_parameters() if not one.requires_grad] == [
        *("first.weight", "first.bias", "second.weight")
    ]


@pytest.mark.parametrize(
    ("patterns", "probe", "message"),
    [
        (["frist"], False, r"train.freeze\[0\]: the pattern 'frist'.* did you mean 'first'"),
        (["*"], False, "leaves no parameter to be trained"),
        ([], True, "Sequential has none"),
    ],
)
def test_what_cannot_be_frozen_is_told(patterns, probe, message):
    model = nn.Sequential(nn.Linear(2, 2)) if probe else Normed()
    with pytest.raises(ValueError, match=message):
        freeze(model, patterns, linear_probe=probe)


def test_rates_by_layer_and_by_pattern():
    model = zoo.create_model("mixer_test", depth=2)
    groups = param_groups(model, 0.1, layer_decay=0.5, lr_by={"blocks.1": 3.0, "blocks.1.norm2": 2.0})
    names = {id(one): name for name, one in model.named_parameters()}
    scales = {names[id(one)]: group.get("lr_scale", 1.0) for group in groups for one in group["params"]}
    assert len(scales) == len(names)
    # The stem, two blocks, the last norm in the layer of the block before it as timm has it, and the head.
    assert scales["stem.proj.weight"] == 0.125 and scales["head.weight"] == 1
    assert scales["blocks.0.norm1.weight"] == 0.25 and scales["blocks.1.norm2.bias"] == 0.5 * 2
    assert scales["blocks.1.norm1.weight"] == 0.5 * 3
    with pytest.raises(ValueError, match="optim.lr_by: the pattern 'blocks.7'"):
        param_groups(model, 0.1, lr_by={"blocks.7": 2.0})


def test_rates_of_groups_are_the_recipes_times_their_factors(make_recipe, tmp_path):
    trainer = Trainer(make_recipe("optim.layer_decay=0.5", "train.duration=2st"), tmp_path / "run")
    trainer.fit()
    rates = {group["lr"] for group in trainer.optimizer.param_groups}
    assert rates == {1e-3 * 0.5**power for power in range(3)}
    assert trainer.optimizer.param_groups[0]["lr"] == 1e-3


def test_stochastic_depth_follows_its_schedule():
    model = zoo.create_model("mixer_test", depth=3, drop_path_rate=0.2, drop_path_rule="linear")
    late = DropPathSchedule(model, DropPath(first=0.0, last=1.0, begin=Duration(1, "ep"), end=Duration(30, "st")), 10)
    rates = {}
    for step in (25, 0, 10, 30, 99):
        late.enter(step)
        rates[step] = [block.drop_path.drop_prob if block.drop_path else 0 for block in model.blocks]
    assert rates[0] == rates[10] == [0, 0, 0] and rates[30] == rates[99] == pytest.approx([0.0, 0.1, 0.2])
    assert rates[25] == pytest.approx([0, 0.075, 0.15])
    with pytest.raises(ValueError, match=r"set model.kwargs.drop_path_rate"):
        DropPathSchedule(zoo.create_model("mixer_test"), late.section, 10)


def test_the_best_is_kept_and_patience_ends_the_training(make_recipe, tmp_path):
    recipe = make_recipe("train.best={patience: 2}", "train.eval_every=1st", "train.duration=9st", "optim.lr=1e-9")
    trainer = Trainer(recipe, tmp_path / "run")
    metrics = trainer.run()  # at such a rate nothing gets better
    records = read_records(tmp_path / "run" / "metrics.jsonl")
    assert trainer.step == 3 and trainer.best.step == 1
    (stopped,) = [record for record in records if "stopped" in record]
    assert stopped["step"] == 3 and "of step 1 for 2 evaluations" in stopped["stopped"]
    assert (tmp_path / "run" / "best").is_dir() and not same(*(weights(tmp_path / "run", n) for n in ("best", "model")))
    again = Trainer(recipe, tmp_path / "run")
    assert again.step == 3 and again.run() == metrics and read_records(tmp_path / "run" / "metrics.jsonl") == records


def test_the_best_model_is_the_one_that_the_checkpoint_knows_of(make_recipe, tmp_path):
    often = ("train.best={metric: validation/loss}", "train.eval_every=1st", "train.checkpoint_every=6st")
    kill_at(Trainer(make_recipe(*often, "optim.lr=1e-2"), tmp_path / "run"), 3)
    again = Trainer(make_recipe(*often, "optim.lr=1e-2"), tmp_path / "run")
    assert again.step == again.best.step == 3
    kept = zoo.create_model(f"local-dir:{tmp_path / 'run' / 'best'}")
    measured = evaluate(kept, again.recipe, again.splits["validation"])
    assert measured["loss"] == pytest.approx(again.best.value, rel=1e-6)


def test_which_value_is_the_better():
    best = BestSoFar(Best("validation/loss", min_delta=0.5), {"validation/loss": False})
    told = [best.better({"validation/loss": value}, step) for step, value in enumerate((float("nan"), 3.0, 2.6, 2.4))]
    assert told == [False, True, False, True] and best.step == 3
    other = BestSoFar(best.section, {"validation/loss": None} | {"validation/loss": False})
    other.restore(best.state())
    assert vars(other) == vars(best)
    never = BestSoFar(best.section, {"validation/loss": False})
    assert not never.better({"validation/loss": float("nan")}, 7)
    other.restore(never.state())
    assert vars(other) == vars(never) and other.worse == 1
    assert str(best) == "no better one than validation/loss 2.4 of step 3 for 0 evaluations"
    nothing = BestSoFar(Best("validation/loss", patience=1), {"validation/loss": False})
    assert not nothing.better({"validation/loss": float("nan")}, 1) and nothing.exhausted
    assert str(nothing) == "no validation/loss that is a number in 1 evaluations"
    with pytest.raises(ValueError, match="set train.best.mode"):
        BestSoFar(Best("validation/loss"), {"validation/loss": None})
    with pytest.raises(ValueError, match="did you mean 'validation/top1'"):
        BestSoFar(Best("validation/top"), {"validation/top1": True})


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_a_checkpoint_and_ends(make_recipe, tmp_path, number, capsys):
    whole = Trainer(make_recipe(), tmp_path / "whole").run()
    trainer = Trainer(make_recipe("train.checkpoint_every=6st"), tmp_path / "run")
    update = trainer._update

    def signalled(step, *batch):
        if step == 2:
            os.kill(os.getpid(), number)
        return update(step, *batch)

    trainer._update = signalled
    before = [signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT)]
    with pytest.raises((SystemExit, KeyboardInterrupt)) as ended:
        trainer.run()
    assert ended.type is KeyboardInterrupt if number == signal.SIGINT else ended.value.code == 143
    assert before == [signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT)]
    assert f"{number.name}: stopped at step 3/6" in capsys.readouterr().out
    again = Trainer(make_recipe("train.checkpoint_every=6st"), tmp_path / "run")
    assert again.step == 3 and again.run() == whole
    assert same(weights(tmp_path / "run"), weights(tmp_path / "whole"))


def test_a_signal_in_the_step_that_patience_ends_is_heeded(make_recipe, tmp_path):
    recipe = make_recipe("train.best={patience: 1}", "train.eval_every=1st", "optim.lr=1e-9")
    trainer = Trainer(recipe, tmp_path / "run")
    evaluate = trainer._evaluate

    def signalled():
        is_best = evaluate()
        if trainer._stopped:
            os.kill(os.getpid(), signal.SIGTERM)
        return is_best

    trainer._evaluate = signalled
    with pytest.raises(SystemExit):
        trainer.run()
    assert trainer.step == 2 and not (tmp_path / "run" / "model").exists()
    again = Trainer(recipe, tmp_path / "run")
    again.run()
    assert again.step == 2 and (tmp_path / "run" / "model").exists()


def test_a_second_signal_ends_at_once_and_other_handlers_stay():
    with pytest.raises(KeyboardInterrupt), asked_to_end() as asked:
        os.kill(os.getpid(), signal.SIGINT)
        assert asked.by == signal.SIGINT
        os.kill(os.getpid(), signal.SIGINT)
    mine = lambda *_: None  # noqa: E731
    before = signal.signal(signal.SIGTERM, mine)
    try:
        with asked_to_end():
            assert signal.getsignal(signal.SIGTERM) is mine
    finally:
        signal.signal(signal.SIGTERM, before)


def test_fp16_scales_the_loss_and_survives_an_overflow(make_recipe, tmp_path):
    trainer = Trainer(make_recipe("train.precision=fp16"), tmp_path / "run")
    before = trainer.stepper.scale.scaler.get_scale()
    norm, trainer.stepper._gradient_norm = trainer.stepper._gradient_norm, None

    def overflowing():
        if trainer.step == 1:
            next(one for one in trainer.stepper.parameters).grad.fill_(float("inf"))
        return norm()

    trainer.stepper._gradient_norm = overflowing
    update, moved = trainer._update, {}

    def watched(step, *batch):
        was = [one.detach().clone() for one in trainer.stepper.parameters]
        record = update(step, *batch)
        moved[step] = any(not torch.equal(a, b) for a, b in zip(was, trainer.stepper.parameters, strict=True))
        return record

    trainer._update = watched
    trainer.run()
    assert moved == {step: step != 1 for step in range(6)}
    assert trainer.stepper.scale.scaler.get_scale() == before / 2


def test_a_compiled_model_trains_as_the_plain_one(make_recipe, tmp_path):
    plain = make_recipe("optim.name=sgd", "train.ema=0.5")
    Trainer(plain, tmp_path / "plain").run()
    compiled = Trainer(make_recipe("optim.name=sgd", "train.ema=0.5", "train.compile=true"), tmp_path / "compiled")
    compiled.run()
    assert compiled.model._compiled_call_impl is not None
    expected = weights(tmp_path / "plain")
    for name, tensor in weights(tmp_path / "compiled").items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.accumulate=3", "accumulate is 3; it must divide batch_size, 64"),
        ("train.best={metric: test/top1}", "chosen on the validation part"),
        ("train.drop_path={first: 0, last: 1, begin: 5st, end: 2st}", "begin is 5st; it must be at most end, 2st"),
        ("optim={name: lbfgs, lr: 1, weight_decay: 0, layer_decay: 0.5}", "lbfgs has one rate"),
        ("optim.name=adahessian train.precision=fp16", "adahessian differentiates gradients.* set train.precision to"),
        (
            "optim.name=adahessian train.compile=true",
            "adahessian differentiates gradients.* set train.compile to false",
        ),
    ],
)
def test_recipes_that_make_no_sense_are_refused(make_recipe, override, message):
    overrides = [override] if "{" in override else override.split()
    with pytest.raises(ValueError, match=message):
        make_recipe(*overrides)


def test_a_trained_model_says_how_its_images_are_prepared_and_what_its_classes_are(make_recipe, tmp_path):
    trainer = Trainer(make_recipe("train.duration=1st"), tmp_path / "run")
    trainer.run()
    cfg = zoo.create_model(f"local-dir:{tmp_path / 'run' / 'model'}").pretrained_cfg
    assert cfg["mean"] == [0.0] and cfg["std"] == [1.0] and cfg["input_size"] == [1, 8, 8]
    assert cfg["label_names"] == list("0123456789")


def test_the_best_model_is_measured_when_it_is_asked_for(make_recipe, tmp_path):
    recipe = make_recipe("train.best={metric: validation/loss}", "train.eval_every=2st", "optim.lr=1e-2")
    trainer = Trainer(recipe, tmp_path / "run")
    trainer.run()
    metrics, _ = evaluate_run(tmp_path / "run", "validation", best=True)
    assert metrics["validation/loss"] == pytest.approx(trainer.best.value)
    Trainer(make_recipe(), tmp_path / "other").run()
    with pytest.raises(FileNotFoundError, match="has kept no best model"):
        evaluate_run(tmp_path / "other", best=True)
