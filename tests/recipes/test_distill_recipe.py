"""The comparison of students: recipes that differ in the method alone, and a table of what was run."""

import json

import pytest

pytest.importorskip("accelerate", reason="the recipes need zoo[train]")

from recipes import compare_distill
from zoo.training import load_recipe
from zoo.training.recipe.recipe import differences


def test_the_students_differ_in_the_method_alone_and_learn_from_what_the_teacher_did():
    kd, ofa = (load_recipe(compare_distill.recipe_of(student)) for student in ("distill", "ofa_kd"))
    changed = differences(kd, ofa)
    assert changed and all(line.startswith("methods.") for line in changed)
    assert load_recipe(compare_distill.TEACHER).data == ofa.data


def test_the_comparison_tabulates_what_it_ran(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(compare_distill, "SEEDS", range(2))
    saved = tmp_path / "rows.json"
    short = ["train.duration=2st", "schedule.warmup=0st", "train.eval_every=2st"]
    compare_distill.main([*short, "--output", str(tmp_path / "runs"), "--json", str(saved)])
    rows = json.loads(saved.read_text("utf-8"))
    assert [row["model"] for row in rows] == ["teacher", *compare_distill.STUDENTS]
    printed = [
        line.split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("| ofa_kd - alone")
    ]
    gains = [ours - theirs for ours, theirs in zip(rows[3]["test"], rows[1]["test"], strict=True)]
    assert [float(cell) for cell in printed[0][1:3]] == pytest.approx(gains, abs=5e-3)
    for student in ("distill", "ofa_kd"):
        recipe = load_recipe(tmp_path / "runs" / student / "seed-1" / "recipe.yaml")
        assert recipe.methods["teacher"].name == student and recipe.train.seed == 1
        assert recipe.methods["teacher"].teacher.endswith("convnext_digits")
