"""Data sets, tasks, heads and what mixers do in a training: one file each, from outside too."""

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
import yaml
from conftest import outside
from torch import distributed, nn
from trainings import kill_at

pytest.importorskip("accelerate", reason="the recipes need zoo[train]")

import zoo
from zoo.blocks.kan.select import SelectKANLinear
from zoo.blocks.moe.routers.remap import Remap
from zoo.blocks.moe.routers.sigmoid import Sigmoid
from zoo.blocks.moe.routers.top_k import TopK
from zoo.blocks.protocol import after_step, enter, phases_of
from zoo.training import RecipeError, Trainer, dump_recipe, load_recipe
from zoo.training.phases import enter_phase
from zoo.training.recipe.reading import compose
from zoo.training.recipe.recipe import differences
from zoo.training.recipe.schema import build, plain
from zoo.training.recipe.section import OpenSection
from zoo.training.runs.records import append_record, read_records

# --- A package from outside -------------------------------------------------------------------------------------------

PACKAGE = {
    "stripes.py": '''\
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch

from zoo.checks import Interval
from zoo.training.data.base import DataSet
from zoo.training.data.splits import TensorSplit


@dataclass(frozen=True)
class Stripes(DataSet):
    """Stripes across or down."""

    name: ClassVar[str] = "stripes"
    noise: Annotated[float, Interval(0, 100)] = 0.1  # standard deviation

    def load(self):
        rng, splits = torch.Generator().manual_seed(0), {}
        for part in ("train", "validation", "test"):
            labels = torch.randint(2, (64,), generator=rng)
            wave = (torch.arange(8) % 2).float().expand(64, 1, 8, 8)
            images = torch.where(labels[:, None, None, None] == 1, wave, wave.mT)
            images = images + self.noise * torch.randn(images.shape, generator=rng)
            splits[part] = TensorSplit(images, labels, num_classes=2)
        return splits
''',
    "margin.py": '''\
from dataclasses import dataclass
from typing import ClassVar

from torch.nn import functional as F

from zoo.training.tasks.base import Task, check_classes, check_images


@dataclass(frozen=True)
class Margin(Task):
    """A margin between the right class and the others."""

    name: ClassVar[str] = "margin"
    reports: ClassVar[tuple[str, ...]] = ("hinge", "right")

    def check(self, model, split, head=None):
        check_images(model, split, head)
        check_classes(model, split, "model.kwargs.num_classes")

    def loss(self, outputs, targets):
        return F.multi_margin_loss(outputs, targets)

    def metrics(self, outputs, targets):
        hinge = F.multi_margin_loss(outputs, targets, reduction="none")
        return {"hinge": hinge, "right": (outputs.argmax(-1) == targets).float()}
''',
    "gated.py": '''\
import torch
from torch import nn

import zoo


@zoo.register_block("channel_mixer", "gated_mlp")
class GatedMlp(nn.Module):
    """A perceptron whose gate follows what passed it, until it is frozen."""

    has_aux = True
    reports = ("stat/level",)
    phases = ("freeze",)

    def __init__(self, dim, *, device=None, dtype=None):
        super().__init__()
        self.linear = nn.Linear(dim, dim, device=device, dtype=dtype)
        self.register_buffer("level", torch.zeros((), device=device))
        self.register_buffer("frozen", torch.zeros((), device=device))

    def forward(self, x):
        y = self.linear(x)
        return y * (1 + self.level), {"stat/level": y.detach().abs().mean()}

    def after_step(self, aux):
        if not self.frozen:
            self.level.lerp_(aux["stat/level"], 0.5)

    def enter(self, phase):
        assert phase == "freeze"
        self.frozen.fill_(1)
''',
    "mean_head.py": '''\
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from zoo.training.heads.base import Head


class Twice(nn.Linear):
    per_pixel, num_classes = False, 2


@dataclass(frozen=True)
class TwiceHead(Head):
    """Two numbers."""

    name: ClassVar[str] = "twice"

    def make(self, trunk, key):
        return self, Twice(trunk.num_features, 2)

    def outputs(self, module, trunk, x, given):
        features, aux = trunk.forward_features(x, return_aux=True, **given)
        return module(trunk.forward_head(features, pre_logits=True)), aux
''',
    "unfrozen.py": """\
from dataclasses import dataclass

from zoo.training.data.base import DataSet


@dataclass
class Unfrozen(DataSet):
    name = "unfrozen"

    def load(self):
        return {}
""",
    "taken.py": """\
from dataclasses import dataclass

from zoo.training.data.base import DataSet


@dataclass(frozen=True)
class Other(DataSet):
    name = "digits"

    def load(self):
        return {}
""",
}
RECIPE = """\
task: {name: margin}
model:
  name: mixer_test
  kwargs: {img_size: 8, patch_size: 4, in_chans: 1, num_classes: 2, depth: 2, channel_mixer: gated_mlp}
data: {name: stripes, noise: 0.2}
train:
  {duration: 6st, batch_size: 32, eval_every: 6st, checkpoint_every: 3st, log_every: 1st, ema: 0.9, threads: 1,
  phases: {freeze: 4st}}
optim: {name: adamw, lr: 1e-3, weight_decay: 0.05}
schedule: {name: constant}
expect: {metric: test/right, status: untested}
"""


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """Runs a program, in a process of its own that knows the package, in a folder with the recipe."""
    folder = tmp_path_factory.mktemp("outside")
    (folder / "recipe.yaml").write_text(RECIPE, "utf-8")
    return outside(folder, "strange", PACKAGE)


def test_a_package_from_outside_is_trained_by_its_names(python):
    python("""
import pathlib, torch, zoo
from zoo.training import Trainer, load_recipe
from zoo.training.runs.records import append_record, read_records

def gates(model):
    return [module for module in model.modules() if type(module).__name__ == "GatedMlp"]

recipe = load_recipe("recipe.yaml")
assert type(recipe.data).__module__ == "strange.stripes" and recipe.task.reports == ("hinge", "right")
trainer = Trainer(recipe, "run")
update, levels = trainer._update, []

def watched(step, *batch):
    levels.append([gate.level.item() for gate in gates(trainer.model)])
    found = update(step, *batch)
    reported = found["stat/level"]
    for gate, level, entry in zip(gates(trainer.model), levels[-1], reported, strict=True):
        expected = level if gate.frozen else (level + entry) / 2
        assert abs(gate.level.item() - expected) < 1e-6, (step, gate.level, expected)
    return found

trainer._update = watched
metrics = trainer.run()
assert set(metrics) == {"test/hinge", "test/right"}
assert levels[0] == [0, 0] and levels[1] != levels[2] != levels[3] and levels[4] == levels[5]
for gate in (*gates(trainer.ema.module), *gates(zoo.create_model("local-dir:run/model"))):
    assert gate.frozen == 1  # at once, and not only when most of the average is from after

# A run that was stopped before the phase, and goes on, is the uninterrupted one.
stopped = Trainer(recipe, "stopped")
update = stopped._update
def stopping(step, *batch):
    if step == 5:
        raise KeyboardInterrupt
    return update(step, *batch)
stopped._update = stopping
try:
    stopped.run()
except KeyboardInterrupt:
    pass
again = Trainer(recipe, "stopped")
assert again.step == 3 and again.run() == metrics
assert read_records("stopped/metrics.jsonl") == read_records("run/metrics.jsonl")
""")


def test_a_package_from_outside_is_in_errors_and_on_the_page_and_its_head_on_a_trunk(python):
    done = python("""
import sys
import zoo

# A package may have data sets and tasks beside its mixers, and is then imported with zoo.
assert "strange.stripes" in sys.modules and "gated_mlp" in zoo.list_blocks("channel_mixer")
assert not {"accelerate", "sklearn"} & sys.modules.keys(), "what only trainings need"

import torch
from zoo.training import Classifier, MultiTask, RecipeError, load_recipe
from zoo.training.heads.base import Head
from zoo.training.recipe.reference import page

text = page()
for title in ("## `task`, name `margin`", "## `data`, name `stripes`", "## `model.heads.<name>`, name `twice`"):
    assert title in text, title
assert "| `noise` | number | from 0 to 100 | `0.1` | Standard deviation |" in text
for override, told in {
    "data.name=stripe": "data: 'stripe' is unknown; did you mean 'stripes'? Known: csv, digit_canvas, digits, ",
    "data.noise=-1": "data.noise is -1.0; it must be from 0 to 100",
    "data.name=unfrozen": "data: 'unfrozen' is unknown",
    "expect.metric=test/hings": "did you mean 'hinge'?",
}.items():
    try:
        load_recipe("recipe.yaml", [override])
        raise SystemExit("it was not refused")
    except RecipeError as error:
        assert told in str(error), error
assert load_recipe("recipe.yaml", ["data={name: digits}"]).data.load()["test"].num_classes == 10

twice = Head.kinds()["twice"]
model = MultiTask("mixer_test", {"pair": twice(), "digit": Classifier(num_classes=10)}).eval()
x = torch.randn(3, *model.input_size)
pair = model(x, task="pair")
assert pair.shape == (3, 2)
model.save("two")
assert torch.equal(MultiTask.open("two").eval()(x, task="pair"), pair)
""")
    taken = "the name 'digits' is taken by zoo.training.data.digits.Digits; choose another"
    assert f"strange.taken.Other is left out: {taken}" in done.stderr
    assert "strange.unfrozen.Unfrozen is left out: it is no frozen dataclass: set @dataclass" in done.stderr


# --- Open sections ----------------------------------------------------------------------------------------------------


class Shape(OpenSection, folder="zoo.training.heads"):
    """A base of this file alone."""


@dataclass(frozen=True)
class Round(Shape):
    name: ClassVar[str] = "round"
    radius: float = 1.0


def test_a_kind_is_built_by_its_name_and_written_with_it():
    assert Shape.kinds() == {"round": Round}
    made = build(Shape, compose("{name: round, radius: 2}", "some.yaml"), "shape")
    assert made == Round(2.0) and plain(made) == {"name": "round", "radius": 2.0}
    assert build(Shape | None, compose("null", "some.yaml")) is None
    with pytest.raises(RecipeError, match=r"some.yaml:1: shape: missing key 'name', one of: round"):
        build(Shape, compose("{radius: 2}", "some.yaml"), "shape")


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("round", r"the name 'round' is taken by .*\.Round; choose another"),
        (5, "its name is 5; it must be a text"),
        ("square", r"it is no frozen dataclass: set @dataclass\(frozen=True\) above it"),
    ],
)
def test_a_class_that_can_be_no_kind_is_left_out(name, problem):
    made = type("Other", (Shape,), {"name": name, "__module__": __name__})
    if name != "square":
        dataclass(frozen=True)(made)
    try:
        with pytest.warns(UserWarning, match=rf"test_open_training\.Other is left out: {problem}"):
            assert Shape.kinds() == {"round": Round}
    finally:
        del Shape._classes[f"{__name__}.Other"]


def test_a_module_that_is_read_again_puts_its_kind_in_the_place_of_the_first():
    again = dataclass(frozen=True)(type("Round", (Shape,), {"name": "round", "__module__": __name__}))
    assert Shape.kinds() == {"round": again}
    Shape._classes[f"{__name__}.Round"] = Round


# --- After a step -----------------------------------------------------------------------------------------------------


class Heard(nn.Module):
    """Keeps what it is told."""

    def __init__(self, *reports: str):
        super().__init__()
        self.reports, self.told = reports, []

    def after_step(self, aux):
        assert not torch.is_grad_enabled()
        self.told.append({key: entry.tolist() for key, entry in aux.items()})


def test_each_module_is_told_what_its_layer_reported():
    model = nn.ModuleList([Heard("stat/a"), nn.ModuleList([Heard("stat/b", "stat/a")]), Heard(), nn.Linear(2, 2)])
    aux = {"stat/a": (torch.tensor(1.0), torch.tensor([2.0, 3.0])), "stat/b": (torch.tensor(4.0),)}
    after_step(model, aux | {"loss/c": torch.tensor(5.0), "stat/d": (torch.tensor(6.0),)})
    assert model[0].told == [{"stat/a": 1.0}]
    assert model[1][0].told == [{"stat/b": 4.0, "stat/a": [2.0, 3.0]}]
    assert model[2].told == [{}]


def test_an_entry_belongs_to_one_that_does_nothing_with_it_too():
    model = nn.ModuleList([TopK(4, 2, 1), Sigmoid(4, 2, 1, rate=1.0)])
    after_step(model, {"stat/load": (torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]))})
    assert model[1].bias.tolist() == [1.0, -1.0]
    after_step(model[:1], {})  # nobody asks for it


def test_one_that_reports_answers_for_what_is_within_it():
    remapped = Remap(4, 4, 1, router="sigmoid(rate=1.0)", split=(1,))
    after_step(remapped, {"stat/load": torch.tensor([0.4, 0.2, 0.1, 0.3])})  # the last was split off expert 1
    assert remapped.router.bias.tolist() == [-1.0, -1.0, 1.0]
    after_step(Remap(4, 4, 1, split=(1,)), {})  # its router does nothing after a step


def test_entries_that_are_not_those_of_the_modules_are_refused():
    model = nn.ModuleList([Sigmoid(4, 3, 1), Sigmoid(4, 3, 1)])
    with pytest.raises(ValueError, match=r"aux has 1 entries of stat/load and the model has 2 modules that report it"):
        after_step(model, {"stat/load": torch.tensor([0.2, 0.3, 0.5])})
    with pytest.raises(ValueError, match="the load is of 2 experts, and the router has 3"):
        after_step(model[0], {"stat/load": torch.tensor([0.5, 0.5])})
    assert not any(router.bias.any() for router in model)


def test_processes_exchange_all_statistics_at_once(monkeypatch):
    sent = []
    monkeypatch.setattr(distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(distributed, "get_world_size", lambda: 4)
    monkeypatch.setattr(distributed, "all_reduce", lambda total: sent.append(total.clone()) or total.mul_(2))
    model = nn.ModuleList([Heard("stat/a"), Heard("stat/a"), Heard("stat/b")])
    aux = {"stat/a": (torch.ones(2, 2), torch.tensor(3.0)), "stat/b": torch.tensor([4.0])}
    after_step(model, aux)
    assert [total.tolist() for total in sent] == [[1.0, 1.0, 1.0, 1.0, 3.0, 4.0]]
    assert [module.told for module in model] == [
        [{"stat/a": [[0.5, 0.5], [0.5, 0.5]]}],
        [{"stat/a": 1.5}],
        [{"stat/b": [2.0]}],
    ]
    after_step(nn.Linear(2, 2), {})
    assert len(sent) == 1, "a model without such modules sends nothing"


class Wrapper(nn.Module):
    """Hands attributes on from what it wraps, as FSDP's and the compiler's do."""

    def __init__(self, wrapped):
        super().__init__()
        self.wrapped = wrapped

    def __getattr__(self, name):
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("wrapped"), name)


def test_a_wrapper_that_hands_attributes_on_is_not_asked_beside_what_it_wraps():
    heard, freezing = Heard("stat/a"), Freezing()
    after_step(Wrapper(heard), {"stat/a": torch.tensor(1.0)})
    assert heard.told == [{"stat/a": 1.0}]
    enter(Wrapper(freezing), "freeze")
    assert freezing.entered == ["freeze"]


# --- Phases -----------------------------------------------------------------------------------------------------------


class Freezing(nn.Module):
    phases = ("freeze", "thaw")

    def __init__(self):
        super().__init__()
        self.entered = []
        self.register_buffer("frozen", torch.zeros(()))
        self.register_buffer("other", torch.zeros(()))

    def enter(self, phase):
        self.entered.append(phase)
        self.frozen.fill_(float(phase == "freeze"))


def test_a_phase_reaches_the_modules_that_know_it():
    model = nn.ModuleList([Freezing(), nn.Sequential(Freezing()), SelectKANLinear(4, 2), nn.Linear(2, 2)])
    assert phases_of(model) == {"freeze", "thaw", "select"}
    enter(model, "freeze")
    enter(model, "select")
    assert model[0].entered == model[1][0].entered == ["freeze"] and model[2].gates.selected


def test_an_average_gets_what_a_phase_changed_and_no_more():
    model, averaged = Freezing(), Freezing()
    averaged.other.fill_(0.5)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(2))], 0.1, momentum=0.9)
    optimizer.param_groups[0]["params"][0].grad = torch.ones(2)
    optimizer.step()
    enter_phase(model, "freeze", averaged, optimizer)
    assert (averaged.frozen, averaged.other) == (1, 0.5) and averaged.entered == [] and not optimizer.state


TEXT = """\
task: {name: regress}
model: {name: kan_function, kwargs: {layer: {name: select, bases: [rbf, fourier]}}}
data: {name: formulas, formula: exp_sine, train: 32, validation: 8, test: 8}
train: {duration: 4st, batch_size: 32, eval_every: 4st, checkpoint_every: 2st, threads: 1}
optim: {name: adamw, lr: 1e-3, weight_decay: 0}
schedule: {name: constant}
expect: {metric: test/rmse, status: untested}
"""


def test_the_key_of_before_means_the_phase(make_recipe):
    assert make_recipe("train.select=3st") == make_recipe("train.phases.select=3st")
    assert make_recipe("train.select=null") == make_recipe() == make_recipe("train.phases={}")
    assert "select: 3st" in dump_recipe(make_recipe("train.select=3st"))
    assert differences(make_recipe(), make_recipe("train.select=3st")) == ["train.phases.select: None -> 3st"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["train.select=3"], "override train.select=3: train.phases.select: expected a duration"),
        (["train.select=-1st"], "override train.select=-1st: train.phases.select: expected a duration"),
        (["train.phases=5", "train.select=3st"], "override train.phases=5: train.phases: expected a section"),
        (
            ["train.phases={select: 2st}", "train.select=3st"],
            "override train.select=3st: train.select: the former name of train.phases.select, which is given too, at "
            "override train.phases={select: 2st}: remove one of the two",
        ),
        (["train.phases.select=null"], "train.phases.select: expected a duration"),
    ],
)
def test_a_phase_that_cannot_be_read_is_refused_by_its_place(make_recipe, overrides, message):
    with pytest.raises(RecipeError) as caught:
        make_recipe(*overrides)
    assert message in str(caught.value)


def test_a_phase_that_no_module_knows_is_refused_with_those_there_are(make_recipe, tmp_path):
    with pytest.raises(ValueError, match=r"'selekt' is unknown; did you mean 'select'\? Phases of the model: select"):
        Trainer(make_recipe("train.phases={selekt: 2st}"), tmp_path / "run")
    with pytest.raises(ValueError, match="train.phases.select is 4st: .* before the last of the 4 steps"):
        Trainer(make_recipe("train.phases.select=4st"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def write_as_before(folder):
    """Put into a run's folder what versions before the phases wrote as its recipe."""
    path = folder / "recipe.yaml"
    mark, written = path.read_text("utf-8").partition("\n")[0], yaml.safe_load(path.read_text("utf-8"))
    train = [("select", one.get("select")) if key == "phases" else (key, one) for key, one in written["train"].items()]
    text = yaml.safe_dump(written | {"train": dict(train)}, sort_keys=False, allow_unicode=True, width=120)
    assert "phases" not in text and "select:" in text
    path.write_text(f"{mark}\n{text}", "utf-8")


def test_a_run_from_before_the_phases_is_gone_on_with(make_recipe, tmp_path):
    recipe, folder = make_recipe("train.phases.select=3st"), tmp_path / "run"
    expected = Trainer(recipe, tmp_path / "whole").run()
    kill_at(Trainer(recipe, folder), 3)
    write_as_before(folder)
    second = Trainer(recipe, folder)
    assert second.step == 2 and second.run() == expected
    assert read_records(folder / "metrics.jsonl") == read_records(tmp_path / "whole" / "metrics.jsonl")
    model = zoo.create_model(f"local-dir:{folder / 'model'}")
    assert all(layer.gates.selected for layer in model.modules() if isinstance(layer, SelectKANLinear))


@pytest.mark.parametrize("phases", ["{}", "{select: 3st}"])
def test_a_run_from_before_that_diverged_is_still_its_own(make_recipe, tmp_path, phases):
    """What its error advises may be changed in its folder, and then its recipe is written anew."""
    recipe, folder = make_recipe(f"train.phases={phases}"), tmp_path / "run"
    kill_at(Trainer(recipe, folder), 3)
    write_as_before(folder)
    append_record(folder / "metrics.jsonl", {"step": 3, "diverged": "the loss is nan"})
    calmer = make_recipe(f"train.phases={phases}", "optim.lr=1e-4")
    Trainer(calmer, folder).run()
    assert load_recipe(folder / "recipe.yaml") == calmer
    assert "select: null" not in (folder / "recipe.yaml").read_text("utf-8")
