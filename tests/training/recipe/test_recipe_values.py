"""Every number of a recipe has a range, which stands at its field; what is outside is refused by file, line and key."""

import dataclasses
import json
import math
from typing import Annotated, Literal, get_args, get_origin

import pytest
import torch
import yaml
from conftest import assert_fresh

from zoo.checks import Interval
from zoo.training import RecipeError, Trainer, dump_recipe, load_recipe
from zoo.training.data.base import DataSet
from zoo.training.data.digits import Digits
from zoo.training.heads.base import Head
from zoo.training.heads.classifier import Classifier
from zoo.training.models.segmenter import Pyramid
from zoo.training.optim import Optim, Schedule
from zoo.training.recipe import reference
from zoo.training.recipe.reading import compose
from zoo.training.recipe.recipe import Expect, Model, Recipe, is_dump
from zoo.training.recipe.schema import Duration, build, plain
from zoo.training.recipe.section import hints
from zoo.training.tasks.base import Task
from zoo.training.tasks.classify import Classify
from zoo.training.tasks.denoise import Denoise
from zoo.training.tasks.edges import Edges
from zoo.training.tasks.super_resolution import SuperResolution

DATACLASSES = [cls for _, cls in reference.sections()]
TEXT = """\
task: {name: classify}
model: {name: mixer_test, kwargs: {img_size: 8, patch_size: 4, in_chans: 1, num_classes: 10, depth: 1}}
data: {name: digits}
train: {duration: 6st, batch_size: 64, eval_every: 6st, checkpoint_every: 2st}
optim: {name: adamw, lr: 0.001, weight_decay: 0.05}
schedule: {name: cosine}
expect: {metric: test/top1, status: untested}
"""
# What must be given beside the value that is tried; the key `name` has another meaning in each dataclass.
NAMES = {Optim: "adamw", Schedule: "cosine", Model: "mixer_test"}
GIVEN = yaml.safe_load(TEXT) | {
    **{"duration": "6st", "batch_size": 8, "eval_every": "6st", "checkpoint_every": "6st"},
    **{
        "sigma": 1,
        "root": "x",
        "file": "x",
        "path": "x",
        "shards": "x",
        "formula": "product",
        "num_classes": 3,
        "lr": 0.001,
        "weight_decay": 0,
    },
    **{"metric": "test/top1", "status": "untested"},
    **{"first": 0, "last": 1, "end": "6st"},
    **{"teacher": "x", "meta": "x", "guide": "x", "until": "6st", "eta": 1, "cuts": [{"depth": 1}]},
}


def leaves(hint, ranges=()):
    """The types within an annotation that are numbers or durations, each with its ranges."""
    if get_origin(hint) is Annotated:
        inner, *more = get_args(hint)
        yield from leaves(inner, [one for one in more if isinstance(one, Interval)])
    elif hint in (int, float, Duration):
        yield hint, list(ranges)
    elif get_origin(hint) is not Literal:
        for one in get_args(hint):
            yield from leaves(one)


NUMBERS = [
    (cls, name, kind, ranges)
    for cls in DATACLASSES
    for name, hint in hints(cls).items()
    for kind, ranges in leaves(hint)
]
IDS = [f"{cls.__name__}.{name}" for cls, name, *_ in NUMBERS]


def test_the_walk_finds_every_dataclass():
    kinds = {*Task.kinds().values(), *DataSet.kinds().values(), *Head.kinds().values()}
    assert {*kinds, Recipe, Optim, Schedule, Expect, Pyramid} < set(DATACLASSES)
    assert len(NUMBERS) > 50


@pytest.mark.parametrize(("cls", "name", "kind", "ranges"), NUMBERS, ids=IDS)
def test_every_number_has_a_range_with_two_ends(cls, name, kind, ranges):
    assert len(ranges) == 1
    assert (ranges[0].least, ranges[0].above) != (None, None) and (ranges[0].most, ranges[0].below) != (None, None)


def outside(kind, interval):
    """Values beside the two ends of a range, and what is no number."""
    low = interval.least - 1 if interval.least is not None else interval.above
    high = interval.most + 1 if interval.most is not None else interval.below
    if kind is Duration:
        return [*([f"{low}st"] if low >= 0 else []), f"{high}st", f"{10**12}ep", "9" * 5000 + "st", ".inf", "-1ep"]
    return [
        low,
        high,
        10**30,
        -(10**30),
        ".nan",
        ".inf",
        "-.inf",
        "1e999",
        "9" * 5000,
        "true",
        "'1'",
        "[]",
        "{}",
        "1:30",
    ]


def wrapped(hint, value):
    """The value where the number stands: in a list, in a mapping, or alone."""
    origins = {get_origin(one) for one in (hint, *get_args(hint))}
    return f"[{value}]" if tuple in origins else f"{{one: {value}}}" if dict in origins else str(value)


@pytest.mark.parametrize(("cls", "name", "kind", "ranges"), NUMBERS, ids=IDS)
def test_what_is_out_of_range_is_refused_with_file_line_and_key(cls, name, kind, ranges):
    given = {"name": NAMES[cls]} if cls in NAMES else {}
    for field in dataclasses.fields(cls):
        if field.default is field.default_factory is dataclasses.MISSING and field.name not in ("name", name):
            given[field.name] = GIVEN[field.name]
    lines = [json.dumps(key) + ": " + json.dumps(one) for key, one in given.items()]
    for value in outside(kind, ranges[0]):
        text = "\n".join([*lines, f"{name}: {wrapped(hints(cls)[name], value)}"])
        with pytest.raises(RecipeError) as caught:
            build(cls, compose(text, "some.yaml"), "here")
        message = str(caught.value)
        assert message.startswith(f"some.yaml:{len(lines) + 1}: "), message
        assert f"here.{name}" in message and len(message) < 2000


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Digits(size=7), "size is 7; it must be from 8 to 256"),
        (lambda: Classify(label_smoothing=7), "label_smoothing is 7; it must be at least 0 and below 1"),
        (lambda: Optim("adamw", lr=math.nan, weight_decay=0), "lr is nan; it must be a finite number"),
        (lambda: Edges(edge_weight=0), "edge_weight is 0; it must be above 0"),
        (lambda: Classifier(0), "num_classes is 0; it must be from 1 to"),
        (lambda: Schedule("cosine", warmup=Duration(-1, "st")), "the number in warmup=-1st is -1; it must be from 0"),
    ],
)
def test_the_same_ranges_hold_in_python(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_another_type_is_refused_in_python():
    with pytest.raises(TypeError, match="sigma is '1', a str; it must be float"):
        Denoise(sigma="1")


# --- Values that do not go together -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["schedule.min_lr=0.01"],
            r"override schedule.min_lr=0.01: schedule.min_lr is 0.01; it must be at most optim.lr",
        ),
        (["optim.lr=1e-5", "schedule.min_lr=1e-4"], "schedule.min_lr is 0.0001; it must be at most optim.lr, 1e-05"),
        (
            ["schedule.warmup=6st"],
            "override schedule.warmup=6st: schedule.warmup is 6st, but the whole training has 6st",
        ),
        (["schedule.warmup=7ep"], "schedule.warmup is 7ep, but the whole training has 6st"),
        (["schedule.warmup=3ep", "train.duration=3ep"], "schedule.warmup is 3ep, but the whole training has 3ep"),
        (["schedule={name: constant, min_lr: 1e-4}"], "min_lr is 0.0001, but a constant rate never falls"),
        (
            ["data={name: digit_canvas, size: 4096, test: 400}"],
            "data: validation is 200, size 4096: .* may be 1 of",
        ),
        (
            ["data={name: image_folder, root: x, auto_augment: rand-n1_000_000_000}"],
            "data: auto_augment is .* above 1000",
        ),
        (
            ["data={name: formulas, formula: hundred, test: 200000}"],
            "data: test is 200000; of hundred .* at most 100000",
        ),
        (["data={name: image_folder, root: " + "x/" * 3000 + "}"], "data: root is 'x/x.*'; no path is so long"),
        (["data={name: image_folder, root: " + "x" * 300 + "}"], "data: root is 'xxx.*'; no path is so long"),
        (["expect.metric=test/top2"], "expect: the number of metric 'test/top2' is unknown; did you mean 'top"),
        (["expect.metric=train/top1"], "expect: the split of metric 'train/top1' is unknown. Known: test, valid"),
        (["expect.metric=top1"], "expect: metric is 'top1'; it must be split/metric, such as test/top1, or of sev"),
        (["expect.metric=test/a/b/top1"], "expect: metric is 'test/a/b/top1'; it must be split/metric"),
        (["expect.metric=/"], "the split of metric '/' is unknown"),
    ],
)
def test_what_does_not_go_together_is_refused_where_it_is_said(make_recipe, overrides, message):
    with pytest.raises(RecipeError, match=message) as caught:
        make_recipe(*overrides)
    assert str(caught.value).startswith("override "), "of the key that is to be changed"


def test_a_relation_names_the_line_of_the_key_that_is_to_be_changed(tmp_path):
    (tmp_path / "r.yaml").write_text(TEXT.replace("{name: cosine}", "\n  name: cosine\n  min_lr: 0.1"), "utf-8")
    with pytest.raises(RecipeError, match=r"r.yaml:8: schedule.min_lr is 0.1; it must be at most optim.lr, 0.001"):
        load_recipe(tmp_path / "r.yaml")


def test_a_warmup_in_steps_of_a_training_in_epochs_is_compared_when_the_data_are_known(make_recipe, tmp_path):
    recipe = make_recipe("schedule.warmup=19st", "train.duration=1ep")
    with pytest.raises(ValueError, match="schedule.warmup is 19 steps, but the whole training has 19"):
        Trainer(recipe, tmp_path / "run")


def test_a_training_of_more_steps_than_checkpoints_can_count_is_refused(make_recipe, tmp_path):
    with pytest.raises(
        ValueError, match="train.duration is 1899999981 steps, of which an epoch has 19: at most 99999999"
    ):
        Trainer(make_recipe("train.duration=99999999ep"), tmp_path / "run")


def test_threads_are_compared_with_the_machine_before_the_training(make_recipe, tmp_path, monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    with pytest.raises(ValueError, match="train.threads is 1000; on this machine it must be at most 64, or null"):
        Trainer(make_recipe("train.threads=1000"), tmp_path / "run")
    make_recipe("train.threads=64").train.check_threads()
    monkeypatch.setattr("os.cpu_count", lambda: 128)
    make_recipe("train.threads=128").train.check_threads()


# --- What is expected -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", Task.kinds().values(), ids=lambda task: task.name)
def test_a_task_reports_what_it_says(task):
    """On outputs of some classes, or of one, for each image, pixel or vector."""
    outputs, targets = {
        "classify": (torch.randn(4, 6), torch.tensor([0, 1, 2, 5])),
        "denoise": (torch.rand(4, 1, 5, 5), torch.rand(4, 1, 5, 5)),
        "super_resolution": (torch.rand(4, 1, 6, 6), torch.rand(4, 1, 6, 6)),
        "segment": (torch.randn(4, 3, 5, 5), torch.randint(3, (4, 5, 5))),
        "edges": (torch.randn(4, 1, 5, 5), torch.randint(2, (4, 5, 5)).float()),
        "regress": (torch.randn(4, 1), torch.randn(4, 1)),
        "multilabel": (torch.randn(4, 3), torch.tensor([[0.0, 1, 1], [1, 0, 0], [1, 1, 0], [0, 0, torch.nan]])),
    }[task.name]
    made = task(**{Denoise: {"sigma": 1.0}, SuperResolution: {"scale": 2}}.get(task, {}))
    meter = made.meter(outputs.shape[1])
    meter.update(outputs, targets)
    assert tuple(meter.compute()) == task.reports == made.reported(outputs.shape[1])
    assert set(task.higher_is_better) == set(task.reports)


@pytest.mark.parametrize("metric", ["test/psnr", "validation/top1", "test/digit/top1"])
def test_a_metric_that_the_run_will_not_report_is_found_before_the_training(make_recipe, tmp_path, metric):
    with pytest.raises(ValueError, match=rf"expect.metric '{metric}' is unknown.* Reported: .*test/top1, .*; set"):
        Trainer(make_recipe(f"expect.metric={metric}"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_reports_what_its_recipe_says(make_recipe, tmp_path):
    recipe = make_recipe("train.duration=1st")
    trainer = Trainer(recipe, tmp_path / "run")
    assert list(trainer.run()) == recipe.reports("test", trainer.data)


# --- Runs from before -------------------------------------------------------------------------------------------------

WRITTEN = """\
task:
  name: denoise
  sigma: 1.0
tasks: null
model:
  name: mixer_s16_224
  kwargs:
    img_size: 8
    token_mixer:
      at:
        -2: mlp
  pyramid: null
  heads: null
data:
  name: image_folder
  root: x
  img_size: 224
  in_chans: 1
  crop_pct: 0.875
  interpolation: bicubic
  mean:
  - 0.449
  std:
  - 0.226
  hflip: 0.5
  color_jitter: 0.4
  auto_augment: null
  re_prob: 0.0
  workers: 4
train:
  duration: 60ep
  batch_size: 32
  eval_every: 10ep
  checkpoint_every: 10ep
  seed: 0
  precision: fp32
  grad_clip: 1.0
  ema: null
  log_every: 10st
  select: null
  threads: 1
optim:
  name: adamw
  lr: 1.0e-05
  weight_decay: 0.05
  betas: null
schedule:
  name: cosine
  warmup: 2ep
  min_lr: 0.0
expect:
  metric: test/top1
  status: untested
  value: null
  tolerance: null
  hardware: null
  time: null
  note: 'what is expected is of another task: it was never compared'
aux_losses: {}
"""


def test_the_recipe_of_a_run_from_before_the_ranges_is_read(tmp_path):
    (tmp_path / "recipe.yaml").write_text(WRITTEN, "utf-8")
    recipe = load_recipe(tmp_path / "recipe.yaml")
    assert recipe.optim.lr == 1e-5 and recipe.model.kwargs["token_mixer"] == {"at": {-2: "mlp"}}
    again = yaml.safe_load(dump_recipe(recipe))
    before = yaml.safe_load(WRITTEN)
    assert before["train"].pop("select") is None and again["train"]["phases"] == {}  # what became of the key
    for name, section in before.items():
        assert {key: again[name][key] for key in section or ()} == (section or {}), name
    assert is_dump(WRITTEN) and not is_dump(f"# mine\n{WRITTEN}") and not is_dump("{") and is_dump(dump_recipe(recipe))


# --- The page of keys -------------------------------------------------------------------------------------------------


def test_the_page_of_keys_is_what_the_dataclasses_say():
    assert_fresh("docs/recipe.md", reference.page())


def test_the_smallest_recipe_of_the_page_is_one_and_nothing_of_it_can_be_left_out(tmp_path):
    path = tmp_path / "smallest.yaml"
    path.write_text(reference.SMALLEST, "utf-8")
    assert reference.SMALLEST in reference.page() and load_recipe(path).schedule.name == "cosine"
    whole = yaml.safe_load(reference.SMALLEST)
    for section, keys in whole.items():
        for key in keys.keys() - {"kwargs"}:
            less = {name: value for name, value in keys.items() if name != key}
            path.write_text(yaml.safe_dump(whole | {section: less}), "utf-8")
            with pytest.raises(RecipeError, match=key):
                load_recipe(path)


def test_the_page_says_of_every_key_what_it_means_and_of_every_number_its_range():
    for cls in DATACLASSES:
        for field in dataclasses.fields(cls):
            *_, ranges, _, meaning, _ = reference.row(cls, field).split(" | ") + [""]
            assert meaning, f"{cls.__name__}.{field.name} has no comment"
            assert bool(ranges.strip()) == bool(list(leaves(hints(cls)[field.name])))


def test_defaults_are_within_their_ranges():
    for cls in DATACLASSES:
        for name, hint in hints(cls).items():
            field = cls.__dataclass_fields__[name]
            if field.default is not dataclasses.MISSING:
                node = compose(yaml.safe_dump({"x": plain(field.default)}), "defaults").value[0][1]
                assert build(hint, node, name) == field.default
