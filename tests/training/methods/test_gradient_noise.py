"""Annealed noise on the gradients: its size, where it comes from, and what the paper says it does."""

import pytest
import torch
from conftest import ROOT
from torch import nn
from trainings import TINY

from zoo.training import Trainer, load_recipe
from zoo.training.methods.gradient_noise import GradientNoise

PLAIN = ROOT / "recipes" / "methods" / "gradient_noise_mlp.yaml"


@pytest.mark.parametrize("eta, step, variance", [(0.3, 0, 0.3), (0.01, 1, 0.01 / 2**0.55), (1.0, 999, 1000**-0.55)])
def test_the_variance_of_the_paper(eta, step, variance):
    assert GradientNoise(eta=eta).deviation(step) ** 2 == pytest.approx(variance)


@pytest.fixture
def trainer(tmp_path):
    (tmp_path / "recipe.yaml").write_text(TINY)
    noise = "methods.noise={name: gradient_noise, eta: 0.04}"
    return Trainer(load_recipe(tmp_path / "recipe.yaml", [noise, "train.grad_clip=1e-6"]), tmp_path / "run")


def test_the_noise_of_a_step_is_of_that_size_and_always_the_same(trainer):
    parameters = [nn.Parameter(torch.zeros(100, 200)), nn.Parameter(torch.zeros(7)), nn.Parameter(torch.zeros(7))]

    def noise(step):
        for parameter in parameters[:2]:
            parameter.grad = torch.ones_like(parameter)
        trainer.methods.change_gradients(step, parameters)
        assert parameters[2].grad is None  # what has no gradient gets none
        return [parameter.grad - 1 for parameter in parameters[:2]]

    first, again, other = noise(3), noise(3), noise(4)
    deviation = (0.04 / 4**0.55) ** 0.5
    assert first[0].std().item() == pytest.approx(deviation, rel=0.03)
    assert abs(first[0].mean().item()) < 4 * deviation / first[0].numel() ** 0.5
    assert all(map(torch.equal, first, again)) and not torch.allclose(first[0], other[0])


def test_it_is_added_behind_the_clipping(trainer):
    record, _ = trainer.stepper.step(0, trainer.batches[0], "")
    gradients = torch.cat([parameter.grad.flatten() for parameter in trainer.plain_model.parameters()])
    assert gradients.std().item() == pytest.approx(0.2, rel=0.05)  # what is clipped is a millionth in all
    assert record["grad_norm"].isfinite()


def test_a_perceptron_of_twenty_layers_from_a_poor_start_trains_with_noise_alone(tmp_path):
    """The recipe's claim, with fewer points and steps."""
    small = ["data.train=128", "data.validation=64", "data.test=256", "train.batch_size=128", "optim.lr=0.05"]
    short = ["train.duration=300st", "train.eval_every=300st", "train.checkpoint_every=300st", "train.log_every=300st"]
    errors = [
        Trainer(load_recipe(PLAIN, [*small, *short, *changed]), tmp_path / str(len(changed))).run()["test/rmse"]
        for changed in ([], ["methods={}"])
    ]
    assert errors[0] < 0.7 and errors[1] > 0.95  # 1: the mean of the values, whatever the point
