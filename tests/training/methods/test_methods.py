"""What all methods of a recipe have in common: strictness, exact resuming, and what they must not touch."""

import pytest
import torch
from conftest import outside
from safetensors.torch import load_file
from trainings import TINY, kill_at

import zoo
from zoo.training import RecipeError, Trainer, load_recipe

TEACHER = "methods.kd={name: distill, teacher: vit_test, teacher_kwargs: {img_size: 8, patch_size: 4, in_chans: 1}}"
OFA = TEACHER.replace("kd={name: distill", "ofa={name: ofa_kd, gamma: 1.2")
STAGES = [
    "methods.ofa={name: ofa_kd, teacher: convnext_test, teacher_kwargs: {img_size: 32, in_chans: 1}}",
    "model={name: poolformer_test, kwargs: {img_size: 32, in_chans: 1}}",
    "data.size=32",
]
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
