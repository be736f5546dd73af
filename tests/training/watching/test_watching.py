"""Progress on a terminal and in a file, trackers, sessions: what a run tells while it goes."""

import io
import re
import sys
import timeit
import types
import warnings

import pytest

pytest.importorskip("accelerate", reason="the recipes need zoo[train]")

from accelerate.tracking import GeneralTracker
from trainings import TINY

from zoo.training.recipe.recipe import differences
from zoo.training.runs.records import append_record
from zoo.training.watching import trackers
from zoo.training.watching.progress import FIRST, LONGEST, Progress
from zoo.training.watching.sessions import FILE, read_sessions
from zoo.training.watching.settings import Watching
from zoo.training.watching.watch import Watch

TEXT = TINY


class Terminal(io.StringIO):
    def isatty(self):
        return True


class Clock:
    """A clock that is moved on by hand."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def lines_of(progress, clock, steps, seconds, pause=None):
    """What is written of steps that take so long each; with (every, seconds) there are pauses too."""
    for step in range(progress.step + 1, steps + 1):
        clock.now += seconds
        progress.advance(step)
        if pause and step % pause[0] == 0:
            with progress.paused("validation") as tell:
                clock.now += pause[1]
                tell(1, 2)
    progress.close()
    return progress.stream.getvalue().splitlines()


# --- Progress ---------------------------------------------------------------------------------------------------------


def test_a_file_gets_plain_lines_further_and_further_apart():
    clock, stream = Clock(), io.StringIO()
    progress = Progress(20_000, batch_size=32, stream=stream, clock=clock)
    progress.loss = 0.5
    lines = lines_of(progress, clock, 20_000, 0.5)
    assert "\r" not in stream.getvalue() and "\x1b" not in stream.getvalue()
    form = r"step \d+/20000  loss 0\.5  64 images/s  [\d:]+ left"
    assert all(re.fullmatch(form, line) for line in lines[:-1])
    assert lines[-1] == "step 20000/20000  loss 0.5  64 images/s  in 2:46:40"
    at = [0.5 * int(re.match(r"step (\d+)", line)[1]) for line in lines[:-1]]
    gaps = [later - earlier for earlier, later in zip([0, *at], at, strict=False)]
    assert gaps[0] == FIRST and gaps == sorted(gaps) and gaps[-1] == LONGEST and len(lines) < 50
    assert lines[0].endswith("2:46:35 left")


def test_throughput_is_without_evaluations_and_the_time_left_with_them():
    clock = Clock()
    progress = Progress(1000, batch_size=10, stream=io.StringIO(), clock=clock)
    lines = lines_of(progress, clock, 500, 0.1, pause=(10, 1.0))
    assert all("  100 images/s" in line for line in lines)
    for line in lines[:-1]:
        step, minutes, seconds = map(int, re.fullmatch(r"step (\d+)/.* (\d\d):(\d\d) left", line).groups())
        assert 60 * minutes + seconds == pytest.approx((1000 - step) * 0.2, rel=0.1)  # a tenth of an evaluation a step


def test_the_first_step_compiles_and_is_not_counted():
    clock = Clock()
    progress = Progress(100, batch_size=10, stream=io.StringIO(), clock=clock)
    clock.now = 60.0
    progress.advance(1)
    assert progress.throughput is None
    assert progress.stream.getvalue() == "step 1/100\n"
    lines = lines_of(progress, clock, 90, 1.0)
    assert all("10 images/s" in line for line in lines[1:]) and lines[1].endswith("left")


def test_a_run_that_goes_on_starts_at_its_step():
    clock, stream = Clock(), io.StringIO()
    lines = lines_of(Progress(100, 90, batch_size=1, unit="samples", stream=stream, clock=clock), clock, 100, 2.0)
    assert lines[0] == "step 93/100  0.5 samples/s  00:14 left" and lines[-1].startswith("step 100/100")
    bar = Progress(100, 90, batch_size=1, stream=Terminal(), clock=clock)
    assert bar.stream.getvalue().startswith("\rstep 90/100 |")
    bar.close()


def test_a_terminal_gets_a_bar_and_lines_above_it(capsys):
    clock, terminal = Clock(), Terminal()
    progress = Progress(100, batch_size=4, stream=terminal, clock=clock)
    for step in range(1, 51):
        clock.now += 0.5
        progress.loss = 1.25
        progress.advance(step)
    with progress.paused("validation") as tell:
        clock.now += 1
        tell(3, 7)
    progress.say("half of it")
    progress.close()
    text = terminal.getvalue()
    assert "step 50/100 |" in text and "loss 1.25  8 images/s  00:25 left" in text and "validation 3/7" in text
    assert capsys.readouterr().out == "half of it\n"


def test_a_step_costs_microseconds():
    progress = Progress(10**9, batch_size=4, stream=io.StringIO())
    steps = iter(range(1, 10**6))
    seconds = min(timeit.repeat(lambda: progress.advance(next(steps)), number=10_000, repeat=3)) / 10_000
    assert seconds < 1e-4  # measured: 0.2e-6


# --- The recipe -------------------------------------------------------------------------------------------------------


def test_how_a_run_is_watched_does_not_make_it_another(make_recipe):
    plain, watched = make_recipe(), make_recipe("watch.project=mine", "watch.report=false")
    assert watched.watch == Watching(project="mine", report=False)
    assert differences(plain, watched) == []
    with pytest.raises(ValueError, match=r"watch\.trackers.*tensorbord"):
        make_recipe("watch.trackers=[tensorbord]")


def test_a_tracker_that_is_not_installed_is_told_before_anything_else(make_recipe, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "wandb", None)
    recipe = make_recipe("watch.trackers=[wandb]")
    with pytest.raises(ValueError, match=r"watch\.trackers names wandb, which is not installed: pip install wandb"):
        Watch(recipe, tmp_path, total_steps=6)
    assert [path.name for path in tmp_path.iterdir()] == ["recipe.yaml"]


# --- Trackers and sessions --------------------------------------------------------------------------------------------


class Kept(GeneralTracker):
    """A tracker that keeps what it is told."""

    name, requires_logging_directory, tracker = "kept", False, None

    def __init__(self, project, **options):
        super().__init__()
        self.told = [("made", project, options)]

    def store_init_configuration(self, values):
        self.told.append(("config", values))

    def log(self, values, step=None, **options):
        if step == 4:
            raise RuntimeError("the network is gone")
        self.told.append((step, values))

    def finish(self):
        self.told.append("finished")


@pytest.fixture
def kept(monkeypatch):
    """The trackers that are made in the place of trackio's, whose package seems to be there."""
    made = []

    def make(*args, **options):
        made.append(Kept(*args, **options))
        return made[-1]

    monkeypatch.setattr(trackers, "TrackioTracker", make)
    module = types.ModuleType("trackio")
    module.__spec__ = types.SimpleNamespace()
    monkeypatch.setitem(sys.modules, "trackio", module)
    return made


def train(watch, steps, start=0):
    for step in range(start + 1, steps + 1):
        watch.advance(step)
        watch.log(step, {"loss": 2.0 / step, "lr": 1e-3, "stat/load": [[0.5, 0.5], [1.0, None]]})


def test_every_tracker_and_sink_gets_flat_numbers(make_recipe, kept, tmp_path):
    recipe, sunk = make_recipe("watch.trackers=[trackio]", "watch.project=p"), []
    sink = lambda step, values: sunk.append((step, values))
    watch = Watch(recipe, tmp_path, total_steps=2, sinks=[sink])
    train(watch, 2)
    watch.close({"test/top1": 50.0, "final": True})
    watch.close()
    (tracker,) = kept
    assert tracker.told[0] == ("made", "p", {"name": tmp_path.name, "resume": "allow"})
    assert tracker.told[1][1]["train"]["duration"] == "6st" and tracker.told[-1] == "finished"
    load = {"train/stat/load/0/0": 0.5, "train/stat/load/0/1": 0.5, "train/stat/load/1/0": 1.0}
    first = {"train/loss": 2.0, "train/lr": 1e-3} | load
    assert tracker.told[2:-1] == sunk and sunk[0] == (1, first) and sunk[-1] == (2, {"test/top1": 50.0})


def test_a_tracker_that_fails_is_left_out_and_the_run_goes_on(make_recipe, kept, tmp_path):
    watch = Watch(make_recipe("watch.trackers=[trackio]"), tmp_path, total_steps=6)
    with pytest.warns(UserWarning, match="kept is no longer told of this run: RuntimeError: the network is gone"):
        train(watch, 6)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        watch.close()
    assert [entry[0] for entry in kept[0].told] == ["made", "config", 1, 2, 3]


def test_one_that_cannot_start_is_an_error_with_a_remedy(make_recipe, kept, tmp_path, monkeypatch):
    monkeypatch.setattr(Kept, "start", lambda self: 1 / 0)
    with pytest.raises(ValueError, match="trackio, which cannot be started .ZeroDivisionError.*or remove it there"):
        Watch(make_recipe("watch.trackers=[trackio]"), tmp_path, total_steps=6)


def test_tensorboard_has_the_curves_of_a_run_that_was_resumed(make_recipe, tmp_path):
    pytest.importorskip("tensorboard", reason="a tracker of zoo[watch]")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    recipe = make_recipe("watch.trackers=[tensorboard]")
    killed = Watch(recipe, tmp_path, total_steps=6)
    train(killed, 4)  # it dies without a word, and goes on from the checkpoint of step 2
    watch = Watch(recipe, tmp_path, total_steps=6, start=2)
    train(watch, 6, start=2)
    watch.close({"test/top1": 50.0})
    killed.close()
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    scalars = events.Scalars("train/loss")
    assert [event.step for event in scalars] == [1, 2, 3, 4, 5, 6]
    assert [event.value for event in scalars] == pytest.approx([2.0 / step for step in range(1, 7)])
    assert events.Scalars("test/top1")[0].value == 50 and "train/stat/load/1/0" in events.Tags()["scalars"]
    assert b"duration: 6st" in events.Tensors("recipe/text_summary")[0].tensor_proto.string_val[0]
    assert {path.name for path in tmp_path.iterdir()} >= {"tensorboard", FILE}


def test_sessions_say_when_where_and_for_how_long(make_recipe, tmp_path):
    first = Watch(make_recipe(), tmp_path, total_steps=6)
    train(first, 3)
    first.log(3, {"validation/top1": 10.0})  # killed after it
    second = Watch(make_recipe(), tmp_path, total_steps=6, start=2)
    train(second, 6, start=2)
    second.close()
    sessions = read_sessions(tmp_path)
    assert [(each["start"], each["step"]) for each in sessions] == [(0, 3), (2, 6)]
    assert len({each["id"] for each in sessions}) == 1 and sessions[0]["seconds"] >= 0
    assert sessions[1]["machine"]["processes"] == 1 and "torch" in sessions[1]["versions"]
    assert sessions[1]["throughput"] > 0
    append_record(tmp_path / FILE, {"step": 3, "began": "now", "id": "x", "machine": [], "versions": {}})
    append_record(tmp_path / FILE, {"step": 3, "seconds": "long"})
    assert read_sessions(tmp_path) == sessions


def test_other_processes_watch_without_effect(make_recipe, tmp_path, capsys):
    watch = Watch(make_recipe("watch.trackers=[wandb]"), tmp_path / "none", total_steps=6, active=False)
    train(watch, 3)
    watch.say("nothing")
    with watch.paused("validation") as tell:
        tell(1, 2)
    watch.close({"test/top1": 1.0})
    assert not (tmp_path / "none").exists() and capsys.readouterr() == ("", "")
