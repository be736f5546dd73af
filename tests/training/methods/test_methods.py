"""What all methods of a recipe have in common: strictness, exact resuming, and what they must not touch."""

import json
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from safetensors.torch import load_file
from trainings import TINY, kill_at

import zoo
from zoo.training import RecipeError, Trainer, load_recipe
from zoo.training.methods.base import Effect, Method

TEACHER = "methods.kd={name: distill, teacher: vit_test, teacher_kwargs: {img_size: 8, patch_size: 4, in_chans: 1}}"
OFA = TEACHER.replace("kd={name: distill", "ofa={name: ofa_kd, gamma: 1.2")
STAGES = [
    "methods.ofa={name: ofa_kd, teacher: convnext_test, teacher_kwargs: {img_size: 32, in_chans: 1}}",
    "model={name: poolformer_test, kwargs: {img_size: 32, in_chans: 1}}",
    "data.size=32",
]
SORTED = "methods.small={name: sorted, cuts: [{dim: 16}]}"
NOISE = "methods.noise={name: gradient_noise, eta: 0.01}"


@pytest.fixture
def recipe(tmp_path):
    """Makes a tiny recipe with overrides."""
    path = tmp_path / "recipe.yaml"
    path.write_text(TINY)
    return lambda *overrides: load_recipe(path, overrides)


def state(folder):
    """All tensors of the last checkpoint of a run."""
    (checkpoint,) = (folder / "checkpoints").iterdir()
    return {f"{path.stem}.{key}": value for path in checkpoint.glob("*.safetensors") for key, value in
            load_file(path).items()}  # fmt: skip


@pytest.mark.parametrize(
    "overrides",
    [
        [TEACHER, NOISE, "train.precision=bf16", "train.ema=0.9"],
        [OFA, "train.accumulate=2", "train.ema=0.9", "model.kwargs.drop_rate=0.1"],
        STAGES,
    ],
    ids=["distill, noise, bf16", "ofa, accumulate", "ofa of stages"],
)
def test_a_resumed_run_is_bit_identical(recipe, tmp_path, overrides):
    made = recipe(*overrides)
    Trainer(made, tmp_path / "whole").run()
    kill_at(Trainer(made, tmp_path / "killed"), 3)
    Trainer(made, tmp_path / "killed").run()
    whole, resumed = state(tmp_path / "whole"), state(tmp_path / "killed")
    assert whole.keys() == resumed.keys() and all(torch.equal(whole[key], resumed[key]) for key in whole)
    assert (tmp_path / "whole/metrics.jsonl").read_text() == (tmp_path / "killed/metrics.jsonl").read_text()


@pytest.fixture
def taught(recipe, tmp_path):
    """A trainer with OFA-KD after two steps, and its folder."""
    trainer = Trainer(recipe(OFA, "train.duration=2st", "train.eval_every=2st", "train.ema=0.9"), tmp_path / "taught")
    trainer.run()
    return trainer, tmp_path / "taught"


def test_checkpoints_have_what_is_trained_beside_and_no_teacher(taught):
    trainer, folder = taught
    names = {key.partition(".")[0] for key in state(folder)}
    assert names == {"model", "ema", "methods"}
    kept = {key.partition(".")[2] for key in state(folder)}
    assert kept == trainer.plain_model.state_dict().keys() | trainer.beside.state_dict().keys()
    trained = {id(parameter) for group in trainer.optimizer.param_groups for parameter in group["params"]}
    assert trained == {id(parameter) for parameter in trainer.model.parameters()}
    teacher = trainer.methods.effects["ofa"].teacher.model
    assert not teacher.training and not any(parameter.requires_grad for parameter in teacher.parameters())
    assert not trained & {id(parameter) for parameter in teacher.parameters()}


def test_the_saved_model_is_the_plain_one(taught):
    trainer, folder = taught
    saved = zoo.create_model(f"local-dir:{folder / 'model'}")
    ours = trainer.ema.module.state_dict()
    assert saved.state_dict().keys() == ours.keys()
    assert all(torch.equal(value, ours[key]) for key, value in saved.state_dict().items())


def test_a_run_may_be_gone_on_with_without_its_method_or_with_another(taught, recipe, tmp_path):
    longer = ["train.duration=4st", "train.eval_every=4st", "train.ema=0.9"]
    for number, methods in enumerate([[], [NOISE], [OFA.replace("1.2", "1.5")]]):
        Trainer(recipe(*longer, *methods), tmp_path / str(number), taught[1]).run()
        assert ("methods.safetensors" in str(list((tmp_path / str(number)).rglob("*.safetensors")))) == (number == 2)


def test_an_epoch_with_a_weight_of_nothing_is_the_training_without_the_method(recipe, tmp_path):
    """Exits that do not count, and a teacher that is not heard, leave the model as it would be: to the last bit."""
    silent = OFA.replace("gamma: 1.2", "weight: 0, exit_weight: 0")
    for name, overrides in {"plain": [], "silent": [silent, TEACHER.replace("distill", "distill, weight: 0")]}.items():
        Trainer(recipe("train.duration=3st", *overrides), tmp_path / name).fit()
    plain, quiet = state(tmp_path / "plain"), state(tmp_path / "silent")
    assert all(torch.equal(value, quiet[key]) for key, value in plain.items())


def test_a_teacher_is_a_run_or_a_folder_of_a_model_or_a_name(recipe, taught, tmp_path):
    for place in (taught[1], taught[1] / "model"):
        trainer = Trainer(recipe(f"methods.kd={{name: distill, teacher: {place}}}"), tmp_path / "student")
        teacher = trainer.methods.effects["kd"].teacher.model.state_dict()
        assert all(torch.equal(value, teacher[key]) for key, value in taught[0].ema.module.state_dict().items())


@pytest.mark.parametrize(
    "overrides, message",
    [
        (["methods.kd={name: distil, teacher: vit_test}"], "methods.kd: 'distil' is unknown; did you mean 'distill'"),
        (["methods.kd={name: distill, teachr: vit_test}"], "kd.teachr: the key is unknown; did you mean 'teacher'"),
        (["methods.kd={name: distill}"], "kd: missing key 'teacher'"),
        (["methods.noise={name: gradient_noise, eta: 0}"], "eta is 0.*above 0"),
        ([TEACHER.replace("distill", "distill, labels: hard, temperature: 2")], "temperature has no effect on hard"),
        (["methods.a-b={name: gradient_noise, eta: 1}"], "'a-b' needs a name of letters"),
        (["methods.half={name: gradient_noise, eta: 1}"], "'half' is a word of torch's modules: give"),
        ([NOISE, "optim={name: lbfgs, lr: 1, weight_decay: 0}"], "methods.noise: lbfgs searches"),
        ([OFA, "train.compile=true"], "methods.ofa: ofa_kd reaches into the model.*train.compile to false"),
    ],
)
def test_what_a_recipe_cannot_say(recipe, overrides, message):
    with pytest.raises(RecipeError, match=f"(?s){message}"):
        recipe(*overrides)


@pytest.mark.parametrize(
    "overrides, message",
    [
        (["methods.kd={name: distill, teacher: runs/none}"], r"methods.kd.teacher: there is no folder runs/none"),
        (["methods.kd={name: distill, teacher: vit_tset}"], "methods.kd.teacher: model 'vit_tset' is unknown"),
        (["methods.kd={name: distill, teacher: vit_test}"], "cannot take the images.*methods.kd.teacher_kwargs"),
        ([TEACHER.replace("in_chans: 1", "in_chans: 1, num_classes: 7")], "it has 7 classes, the data 10"),
        ([OFA, SORTED], "methods.small trains networks in the place of the model, which methods.ofa needs"),
        ([OFA.replace("ofa_kd", "ofa_kd, levels: [3]")], r"methods.ofa.levels: .*not all within the 1 levels"),
        (
            [TEACHER, "task={name: denoise, sigma: 0.1}", "expect.metric=test/psnr", "model.kwargs.head=image"],
            "methods.kd: distill needs a task of one class an image, and denoise is none",
        ),
    ],
)
def test_what_does_not_fit_the_training(recipe, tmp_path, overrides, message):
    with pytest.raises((ValueError, FileNotFoundError), match=f"(?s){message}"):
        Trainer(recipe(*overrides), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_methods_need_whole_weights(recipe, tmp_path, monkeypatch):
    monkeypatch.setattr("accelerate.Accelerator.num_processes", 2)
    with pytest.raises(ValueError, match="methods.ofa: ofa_kd trains in one process"):
        Trainer(recipe(OFA), tmp_path / "run")
    with pytest.raises(ValueError, match="whole weights, which train.expert_parallel does not keep"):
        Trainer(recipe(NOISE, "train.expert_parallel=true"), tmp_path / "run")


def test_a_method_of_ones_own(recipe, tmp_path, monkeypatch):
    """Any class derived from Method is known by its name; `tests/training/test_open_training.py` has other packages."""
    monkeypatch.setattr(Method, "_classes", dict(Method._classes))

    @dataclass(frozen=True)
    class Scaled(Method):
        name: ClassVar[str] = "scaled"
        times: float = 2.0

        def begin(self, setting):
            effect = Effect()
            effect.loss = lambda loss, made: self.times * loss
            return effect

    for times in (1.0, 3.0):
        Trainer(
            recipe(f"methods.mine={{name: scaled, times: {times}}}", "train.duration=1st"), tmp_path / f"{times}"
        ).fit()
    first = [json.loads((tmp_path / f"{n}/metrics.jsonl").read_text().splitlines()[0])["loss"] for n in (1.0, 3.0)]
    assert first[1] == pytest.approx(3 * first[0], abs=1e-5)


def test_a_run_goes_on_with_its_methods_in_their_order_and_its_teachers_as_they_were(recipe, tmp_path):
    torch.manual_seed(0)
    options = {"img_size": 8, "patch_size": 4, "in_chans": 1, "num_classes": 10}
    zoo.save_pretrained(zoo.create_model("vit_test", **options), tmp_path / "teacher")
    kd = f"methods.kd={{name: distill, teacher: {tmp_path / 'teacher'}}}"
    kill_at(Trainer(recipe(kd, NOISE), tmp_path / "run"), 3)
    with pytest.raises(ValueError, match=r"methods: \['kd', 'noise'\] -> \['noise', 'kd'\]"):
        Trainer(recipe(NOISE, kd), tmp_path / "run")
    (tmp_path / "teacher").rename(tmp_path / "before")
    zoo.save_pretrained(zoo.create_model("vit_test", **options), tmp_path / "teacher")
    with pytest.raises(ValueError, match="methods.kd has a teacher with other weights than when this run was begun"):
        Trainer(recipe(kd, NOISE), tmp_path / "run")
    Trainer(recipe(kd, NOISE, "train.duration=8st"), tmp_path / "another", tmp_path / "run").run()


def test_networks_in_the_models_place_need_a_model_whose_parts_do_not_change_by_the_step(recipe, tmp_path):
    moe = "model.kwargs.channel_mixer={name: moe, router: sigmoid}"
    with pytest.raises(ValueError, match="methods.small: sorted trains other networks in the model's place"):
        Trainer(
            recipe("methods.small={name: sorted, cuts: [{depth: 1}]}", "model.kwargs.depth=2", moe), tmp_path / "run"
        )


def test_from_another_recipe_what_a_method_has_trained_is_kept_if_it_fits(recipe, tmp_path):
    def exits(trainer):
        state = trainer.optimizer.optimizer.state
        return {name: (p, state.get(p, {}).get("exp_avg")) for name, p in trainer.beside.named_parameters()}

    source = Trainer(recipe(OFA, NOISE), tmp_path / "source")
    source.run()
    longer = "train.duration=8st"
    kept = exits(Trainer(recipe(OFA, NOISE, "methods.noise.eta=1e-3", longer), tmp_path / "kept", tmp_path / "source"))
    for name, (parameter, moments) in exits(source).items():
        assert torch.equal(kept[name][0], parameter) and torch.equal(kept[name][1], moments)
    other = Trainer(recipe(OFA, "methods.ofa.exit_blocks=0", longer), tmp_path / "anew", tmp_path / "source")
    assert all(moments is None for _, moments in exits(other).values())
    other.run()


def test_networks_without_the_blocks_of_a_loss_add_nothing_to_it(recipe, tmp_path):
    moe = "model.kwargs.channel_mixer=[mlp, {name: moe, num_experts: 2}]"
    half = "methods.small={name: sorted, cuts: [{depth: 1}], samples: 4}"
    trainer = Trainer(recipe(half, "model.kwargs.depth=2", moe, "aux_losses={balance: 0.01}"), tmp_path / "run")
    trainer.run()


def test_a_cut_sees_the_same_data(recipe, tmp_path):
    with pytest.raises(ValueError, match=r"methods.small.cuts\[0\]: num_classes is not cut, since all networks see"):
        Trainer(recipe("methods.small={name: sorted, cuts: [{num_classes: 5}]}"), tmp_path / "run")
