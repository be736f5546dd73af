"""Runs that are watched by the trainer: killed and resumed, failed, and the same run whoever watches."""

import pytest
from trainings import TINY, kill_at

pytest.importorskip("accelerate", reason="the recipes need zoo[train]")

from zoo.training import Trainer
from zoo.training.watching.sessions import read_sessions

TEXT = TINY


def test_a_killed_run_goes_on_in_the_same_curves(make_recipe, tmp_path, capsys):
    pytest.importorskip("tensorboard", reason="a tracker of zoo[watch]")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    Trainer(make_recipe(), tmp_path / "alone").run()
    watched = make_recipe("watch.trackers=[tensorboard]")
    kill_at(Trainer(watched, tmp_path / "run"), 3)
    Trainer(watched, tmp_path / "run").run()
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == (tmp_path / "alone" / "metrics.jsonl").read_bytes()
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("train/loss")] == [1, 2, 3, 4, 5, 6]
    assert len(events.Scalars("test/top1")) == 1
    first, second = read_sessions(tmp_path / "run")
    assert (first["start"], second["start"], second["step"]) == (0, 2, 6) and second["seconds"] > 0
    said = capsys.readouterr()
    assert "\r" not in said.err and "step 6/6  loss " in said.err and "resumed" in said.out


def test_a_tracker_that_is_not_there_is_told_before_anything_is_written(make_recipe, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "trackio", None)
    with pytest.raises(ValueError, match=r"trackio, which is not installed: pip install trackio"):
        Trainer(make_recipe("watch.trackers=[trackio]"), tmp_path / "run").run()
    assert not (tmp_path / "run").exists()


def test_a_watched_run_goes_on_unwatched(make_recipe, tmp_path):
    kill_at(Trainer(make_recipe("watch.name=mine"), tmp_path / "run"), 3)
    trainer = Trainer(make_recipe(), tmp_path / "run")
    assert trainer.step == 2
    trainer.run()
    assert trainer.watch is None and "name: mine" not in (tmp_path / "run" / "recipe.yaml").read_text("utf-8")
