"""Comparisons of perceptrons: by effective width at fixed connections, and from scratch or pretrained."""

import json

import pytest

pytest.importorskip("accelerate", reason="the recipes need zoo[train]")

import zoo
from recipes import compare_pretrain, compare_width
from zoo.tools.width import size_at
from zoo.training import load_recipe

SHORT = ["train.duration=2st", "schedule.warmup=0st", "train.eval_every=2st", "watch.report=false"]


def test_sizes_of_one_number_of_connections_are_compared(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(compare_width, "SEEDS", range(1))
    monkeypatch.setattr(compare_width, "PATCHES", {16: (2, 2), 32: (1, 2)})
    saved = tmp_path / "rows.json"
    compare_width.main([*SHORT, "--output", str(tmp_path / "runs"), "--json", str(saved)])
    rows = json.loads(saved.read_text("utf-8"))
    assert [(row["tokens"], row["permutation"]) for row in rows] == [
        (tokens, permutation) for tokens in (16, 32) for permutation in compare_width.PERMUTATIONS
    ]
    printed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| 32 | 32 | 1,024 | 65,536 |")]
    assert len(printed) == 2 and "| random |" in printed[1]
    assert rows[0]["parameters"] == rows[1]["parameters"]


def test_every_size_is_a_model():
    for tokens in compare_width.PATCHES:
        size = size_at(compare_width.CONNECTIONS, tokens, compare_width.RATIO)
        assert size.connections == pytest.approx(compare_width.CONNECTIONS, rel=0.06)
        recipe = load_recipe(compare_width.RECIPE, compare_width.changes(size, "mixer"))
        model = zoo.create_model(recipe.model.name, **recipe.model.kwargs, device="meta")
        assert model.grid[0] * model.grid[1] == tokens and model.num_features == size.dim


def test_a_pretrained_perceptron_is_compared_with_one_from_scratch(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(compare_pretrain, "SEEDS", range(1))
    monkeypatch.setattr(compare_pretrain, "IMAGES", (50,))
    monkeypatch.setattr(compare_pretrain, "PRETRAINING", compare_pretrain.RECIPE)  # MNIST is in no package that is here
    saved = tmp_path / "rows.json"
    compare_pretrain.main([*SHORT, "--output", str(tmp_path / "runs"), "--json", str(saved)])
    rows = json.loads(saved.read_text("utf-8"))
    assert [(row["images"], row["model"]) for row in rows] == [(50, "from scratch"), (50, "pretrained")]
    gain = rows[1]["test"][0] - rows[0]["test"][0]
    assert capsys.readouterr().out.splitlines()[-1].endswith(f"| {gain:+.2f} |")
    recipe = load_recipe(tmp_path / "runs" / "50-pretrained" / "seed-0" / "recipe.yaml")
    assert recipe.model.name == f"local-dir:{tmp_path}/runs/pretrained/model"
