"""SortedNet in a training: what a step of a network within the model touches, and how it goes on."""

import pytest
import torch
from safetensors.torch import load_file
from trainings import TINY, kill_at

import zoo
from zoo.tools.nested import cut, slices
from zoo.training import Trainer, load_recipe

SORTED = "methods.sorted={name: sorted, cuts: [{dim: 16}, {depth: 2}, {dim: 16, depth: 1}]}"


@pytest.fixture
def recipe(tmp_path):
    """Makes a tiny recipe of three blocks with overrides."""
    path = tmp_path / "recipe.yaml"
    path.write_text(TINY.replace("depth: 1", "depth: 3"))
    return lambda *overrides: load_recipe(path, [SORTED, *overrides])


def test_a_step_changes_the_networks_that_were_drawn_and_nothing_else(recipe, tmp_path):
    plain = ["optim={name: sgd, lr: 0.1, weight_decay: 0}", "train.duration=12st"]
    trainer = Trainer(recipe(*plain), tmp_path / "run")
    trainer.optimizer.param_groups[0]["momentum"] = trainer.optimizer.param_groups[1]["momentum"] = 0
    effect, model = trainer.methods.effects["sorted"], trainer.plain_model
    drawn = set()
    for step in range(12):
        (network,) = effect.networks(step)
        before = {name: value.clone() for name, value in model.named_parameters()}
        trainer.stepper.step(step, trainer.batches[step], "")
        changed = {name: value != before[name] for name, value in model.named_parameters()}
        number = 3 if network is None else effect.within.index(network)
        if network is not None:
            inside = slices(model, network.network)
            for name, moved in changed.items():
                within = torch.zeros_like(moved)
                if name in inside:
                    view = inside[name]
                    within[tuple(slice(size) for size in view.shape)] = True
                assert not (moved & ~within).any(), name
        assert changed["head.weight"].any()
        drawn.add(number)
    assert drawn == {0, 1, 2, 3}


def test_several_networks_a_step_go_along_the_mean_of_their_gradients(recipe, tmp_path):
    trainer = Trainer(recipe("methods.sorted.samples=3"), tmp_path / "run")
    images, labels = trainer.splits["train"].fetch(range(16), 0)
    model, effect = trainer.plain_model.eval(), trainer.methods.effects["sorted"]
    networks = effect.networks(0)
    assert len(networks) == 3
    apart = [model(images) if network is None else network(images)[0] for network in networks]
    expected = torch.stack([torch.nn.functional.cross_entropy(logits, labels) for logits in apart]).mean()
    task = trainer.recipe.task
    batch = (images, labels)
    loss, _ = trainer.methods.loss(trainer.model.eval(), 0, batch, lambda outputs, aux: task.loss(outputs, labels), {})
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)


def test_a_resumed_run_is_bit_identical_and_its_cuts_are_whole_models(recipe, tmp_path):
    made = recipe("train.accumulate=2", "train.ema=0.9", "methods.sorted.samples=2")
    Trainer(made, tmp_path / "whole").run()
    kill_at(Trainer(made, tmp_path / "killed"), 3)
    Trainer(made, tmp_path / "killed").run()
    (whole,), (resumed,) = ([load_file(path) for path in (tmp_path / name / "checkpoints").rglob("model.safetensors")]
                            for name in ("whole", "killed"))  # fmt: skip
    assert whole.keys() == resumed.keys() and all(torch.equal(whole[key], resumed[key]) for key in whole)
    model = zoo.create_model(f"local-dir:{tmp_path / 'whole/model'}")
    assert cut(model, dim=16, depth=1)(torch.zeros(1, 1, 8, 8)).shape == (1, 10)


@pytest.mark.parametrize(
    "overrides, message",
    [
        (["methods.sorted.cuts=[{dim: 64}]"], r"methods.sorted.cuts\[0\]: .*give "),
        (["train.grad_checkpointing=true"], "methods.sorted: train.grad_checkpointing changes the model"),
        (["model={name: swin_test, kwargs: {in_chans: 1}}", "data.size=32"], "not of Hierarchical"),
    ],
)
def test_what_does_not_fit(recipe, tmp_path, overrides, message):
    with pytest.raises(ValueError, match=message):
        Trainer(recipe(*overrides), tmp_path / "run")
