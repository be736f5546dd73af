"""The sparse and the dense recipe: they differ in the model alone, cost the same for a token, and learn."""

import json

import pytest

pytest.importorskip("accelerate", reason="the recipes need zoo[train]")

from conftest import losses_of_twenty_steps

import zoo
from recipes import compare_moe
from zoo.training import load_recipe
from zoo.training.recipe.recipe import differences

MOE, DENSE = compare_moe.RECIPES.values()


def test_the_pair_differs_in_the_model_and_the_balance_loss_alone():
    changed = [line.partition(":")[0] for line in differences(load_recipe(MOE), load_recipe(DENSE))]
    assert changed == ["aux_losses.balance", "model.kwargs.channel_mixer"]


def test_a_token_costs_the_same_in_both():
    chosen = [load_recipe(path).model for path in (MOE, DENSE)]
    moe, dense = (zoo.count_flops(zoo.create_model(model.name, **model.kwargs)) for model in chosen)
    assert abs(moe.active_macs / dense.macs - 1) < 0.02
    assert moe.params > 2 * dense.params and moe.active_macs == moe.macs


@pytest.mark.parametrize("path", compare_moe.RECIPES.values(), ids=compare_moe.RECIPES)
def test_twenty_steps_lower_the_loss(path, tmp_path):
    losses = losses_of_twenty_steps(path, tmp_path / "run")
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])


def test_the_comparison_tabulates_what_it_ran(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(compare_moe, "SEEDS", range(2))
    saved = tmp_path / "rows.json"
    overrides = ["train.duration=4st", "train.log_every=1st", "schedule.warmup=1st"]
    compare_moe.main([*overrides, "--output", str(tmp_path / "runs"), "--json", str(saved)])
    rows = json.loads(saved.read_text("utf-8"))
    assert [row["model"] for row in rows] == list(compare_moe.RUNS)
    assert [len(row["psnr"]) for row in rows] == [2, 2, 2]
    assert rows[1]["entropy"] == [None, None]
    assert all(0 < value <= 1 for row in (rows[0], rows[2]) for value in row["entropy"])
    assert rows[0]["psnr"] != rows[2]["psnr"]  # the balance loss has an effect
    table = [line.split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("| moe - dense")]
    assert float(table[0][3]) == pytest.approx(rows[0]["psnr"][0] - rows[1]["psnr"][0], abs=1e-3)


def test_the_least_entropy_is_that_of_any_layer_late_in_training(tmp_path):
    records = [
        {"step": 60, "stat/entropy": [0.1, 0.9]},
        {"step": 80, "stat/entropy": [0.9, 0.8]},
        {"step": 80, "validation/psnr": 1.0},
        {"step": 100, "stat/entropy": [0.7, 0.95]},
    ]
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, records)), "utf-8")
    assert compare_moe.least_entropy(tmp_path, 100) == 0.7


def test_a_recipe_may_exchange_blocks_by_number():
    overrides = ["model.kwargs.channel_mixer={name: mlp, every: {2: moe}}"]
    changed = differences(load_recipe(DENSE), load_recipe(DENSE, overrides))
    assert "model.kwargs.channel_mixer.every.2: None -> moe" in changed
