"""The denoising pair: two recipes that differ in the model alone, of equal parameters, and that learn."""

import json

import pytest

pytest.importorskip("accelerate", reason="the recipes need zoo[train]")

from conftest import losses_of_twenty_steps

import zoo
from recipes import compare_denoise
from zoo.training import load_recipe
from zoo.training.recipe.recipe import differences

HOURGLASS, CONVENTIONAL = compare_denoise.RECIPES.values()


def test_the_pair_differs_in_the_model_alone():
    changed = differences(load_recipe(HOURGLASS), load_recipe(CONVENTIONAL))
    assert changed and all(line.startswith("model.") for line in changed)


def test_the_budgets_are_equal_and_each_skip_is_of_its_own_kind():
    chosen = [load_recipe(path).model for path in (HOURGLASS, CONVENTIONAL)]
    models = [zoo.create_model(model.name, **model.kwargs) for model in chosen]
    hourglass, conventional = (sum(p.numel() for p in model.parameters()) for model in models)
    assert abs(hourglass / conventional - 1) < 0.02
    pixels = 64
    for model, is_hourglass in zip(models, (True, False), strict=True):
        for block in model.blocks:
            hidden, skip = block.channel_mixer.fc1.weight.shape
            assert (skip > pixels and hidden < skip) if is_hourglass else (skip == pixels and hidden > skip)


@pytest.mark.parametrize("path", compare_denoise.RECIPES.values(), ids=compare_denoise.RECIPES)
def test_twenty_steps_lower_the_loss(path, tmp_path):
    losses = losses_of_twenty_steps(path, tmp_path / "run")
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5])


def test_the_comparison_tabulates_what_it_ran(tmp_path, capsys):
    saved = tmp_path / "rows.json"
    overrides = ["train.duration=2st", "schedule.warmup=1st"]
    compare_denoise.main([*overrides, "--output", str(tmp_path / "runs"), "--json", str(saved)])
    rows = json.loads(saved.read_text("utf-8"))
    assert [row["model"] for row in rows] == ["noisy input", *compare_denoise.RECIPES]
    assert all(len(row["psnr"]) == len(compare_denoise.SEEDS) for row in rows)
    # Noise of 0.25 is 12.04 dB; clamping to [0, 1] takes away half of it where a pixel is 0 or 1, as most are.
    assert 13.5 < rows[0]["psnr"][0] < 15
    table = [line.split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("| hourglass -")]
    assert float(table[0][2]) == pytest.approx(rows[1]["psnr"][0] - rows[2]["psnr"][0], abs=5e-4)
