"""What tasks measure: by torchmetrics and scikit-learn, the same however a split is cut, by outside tasks too."""

import pickle
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

pytest.importorskip("accelerate", reason="the recipes need zoo[train]")

from sklearn import metrics as sklearn_metrics

from zoo.training import evaluation
from zoo.training.data.splits import TensorSplit
from zoo.training.evaluation import evaluate, measure
from zoo.training.predictions import predict_split
from zoo.training.tasks.base import Task
from zoo.training.tasks.classify import Classify
from zoo.training.tasks.denoise import Denoise
from zoo.training.tasks.multilabel import Multilabel
from zoo.training.tasks.segment import Segment

TEXT = """\
task: {name: classify}
model: {name: mixer_test, kwargs: {img_size: 4, patch_size: 2, in_chans: 1, num_classes: 7, depth: 1}}
data: {name: digits}
train: {duration: 1st, batch_size: 4, eval_every: 1st, checkpoint_every: 1st, threads: 1}
optim: {name: adamw, lr: 1e-3, weight_decay: 0}
schedule: {name: constant}
expect: {metric: test/top1, status: untested}
"""


class Unreadable(TensorSplit):
    """Of which the images 1 and 12 cannot be read."""

    skip = True

    def fetch_readable(self, indices, seed):
        return *self.fetch(indices, seed), torch.tensor([index not in (1, 12) for index in indices])


def draw(split=TensorSplit, count=13, classes=7, **options):
    """Images whose pixels are random, and classes of which the last two have none."""
    rng = torch.Generator().manual_seed(1)
    images = torch.randn(count, 1, 4, 4, generator=rng)
    return split(images, torch.randint(classes - 2, (count,), generator=rng), num_classes=classes, **options)


class Project(nn.Module):
    """Logits that are the same for an image whatever batch it is in; of most of them the class can be guessed."""

    def __init__(self, outputs=7):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(16, outputs, generator=torch.Generator().manual_seed(2)))

    def forward(self, x):
        return (x.flatten(1)[:, :, None] * self.weight).sum(1)


def updated(task, outputs, targets, classes=None):
    meter = task.meter(outputs.shape[1] if classes is None else classes)
    meter.update(outputs, targets)
    return meter


def test_classification_is_what_sklearn_and_the_definitions_say():
    split = draw(count=300)
    outputs, labels = Project()(split.images).detach(), split.labels
    meter = updated(Classify(), outputs, labels)
    found, tables, predicted = meter.compute(), meter.tables(), outputs.argmax(1)
    assert found["top1"] == pytest.approx(100 * sklearn_metrics.accuracy_score(labels, predicted), rel=1e-12)
    top5 = sklearn_metrics.top_k_accuracy_score(labels, outputs, k=5, labels=range(7))
    assert found["top5"] == pytest.approx(100 * top5, rel=1e-12) and found["top1"] < found["top5"] < 100
    with pytest.warns(UserWarning, match="y_pred contains classes not in y_true"):
        balanced = sklearn_metrics.balanced_accuracy_score(labels, predicted)
    assert found["balanced_accuracy"] == pytest.approx(100 * balanced, rel=1e-12)
    assert found["loss"] == pytest.approx(F.cross_entropy(outputs.double(), labels).item(), rel=1e-6)
    confidence, right = outputs.softmax(1).amax(1), (predicted == labels).float()
    bins = [(confidence >= i / 15) & (confidence < (i + 1) / 15) for i in range(15)]
    gaps = [(confidence[b].mean() - right[b].mean()).abs() * b.float().mean() for b in bins if b.any()]
    assert found["ece"] == pytest.approx(100 * sum(gaps).item(), rel=1e-5)
    confusion = sklearn_metrics.confusion_matrix(labels, predicted, labels=range(7))
    assert tables["confusion"].tolist() == confusion.tolist()
    by_class = np.full(7, np.nan)
    by_class[:5] = 100 * confusion.diagonal()[:5] / confusion.sum(1)[:5]
    assert tables["class_accuracy"].tolist() == pytest.approx(by_class.tolist(), nan_ok=True)


def test_top5_is_for_more_than_five_classes_and_soft_targets_have_a_class():
    outputs, labels = torch.randn(9, 5), torch.arange(9) % 5
    found = updated(Classify(), outputs, labels).compute()
    assert tuple(found) == ("top1", "balanced_accuracy", "ece", "loss") == Classify().reported(5)
    assert updated(Classify(), outputs, F.one_hot(labels).float()).compute() == pytest.approx(found)
    assert Classify().reported(6) == Classify.reports


def test_several_labels_are_measured_class_by_class_without_the_unknown():
    rng = torch.Generator().manual_seed(3)
    outputs = 30 * torch.randn(80, 5, generator=rng)  # whose probabilities are 1 for many, in float32
    targets = (torch.rand(80, 5, generator=rng) < 0.3).float()
    targets[torch.rand(80, 5, generator=rng) < 0.2] = torch.nan
    targets[:, 3], targets[:, 4] = 0, 1
    meter = updated(Multilabel(), outputs, targets)
    found, tables = meter.compute(), meter.tables()
    auc, precision, losses = [], [], []
    for scores, labels in zip(outputs.T, targets.T, strict=True):
        known = ~labels.isnan()
        scores, labels = scores[known].double(), labels[known].double()
        above = (scores[labels == 1][:, None] > scores[labels == 0]).double()
        auc.append(100 * above.mean().item())  # how often one that has it is before one that has it not
        order = labels[scores.argsort(descending=True)]
        shares = order.cumsum(0) / torch.arange(1, len(order) + 1)
        precision.append(100 * shares[order == 1].mean().item())
        losses.append(F.binary_cross_entropy_with_logits(scores, labels, reduction="none"))
    assert np.isnan(auc[3:]).all() and np.isnan(precision[3]) and precision[4] == 100
    assert tables["class_auc"].tolist() == pytest.approx(auc, nan_ok=True)
    assert tables["class_average_precision"].tolist() == pytest.approx(precision, nan_ok=True)
    assert found["auc"] == pytest.approx(np.nanmean(auc)) and found["map"] == pytest.approx(np.nanmean(precision))
    assert found["loss"] == pytest.approx(torch.cat(losses).mean().item(), rel=1e-6)


def test_intersection_over_union_is_that_of_the_classes_that_are_somewhere():
    rng = torch.Generator().manual_seed(4)
    outputs, targets = torch.randn(6, 9, 16, 16, generator=rng), torch.randint(6, (6, 16, 16), generator=rng)
    outputs[:, 7:] = -9  # nobody says, nor is labelled; 6 is said where it is not
    meter, predicted = updated(Segment(), outputs, targets), outputs.argmax(1)
    counts = torch.bincount((9 * targets + predicted).flatten(), minlength=81).view(9, 9).double()
    union = counts.sum(0) + counts.sum(1) - counts.diag()
    expected = 100 * (counts.diag()[:7] / union[:7]).mean().item()
    assert meter.compute()["miou"] == pytest.approx(expected, rel=1e-14)
    assert meter.compute()["pixel_accuracy"] == pytest.approx(
        100 * (predicted == targets).double().mean().item(), rel=1e-14
    )
    assert torch.equal(meter.tables()["confusion"].double(), counts)
    assert meter.tables()["class_iou"].isnan().tolist() == [False] * 7 + [True] * 2


def test_psnr_is_the_mean_of_the_images_of_which_each_has_at_most_100():
    targets = torch.rand(4, 1, 5, 5)
    outputs = targets + torch.tensor([0.1, 0.01, 1e-9, 0.0])[:, None, None, None] * torch.randn(4, 1, 5, 5)
    errors = (outputs.clamp(0, 1) - targets).square().flatten(1).mean(1)
    expected = (-10 * errors.clamp(min=1e-10).log10()).mean().item()
    assert updated(Denoise(sigma=1.0), outputs, targets).compute()["psnr"] == pytest.approx(expected, rel=1e-6)


@dataclass(frozen=True)
class Summed(Task):
    """A task as it was written before meters, and may be; without a name, so that no recipe knows it."""

    reports: ClassVar[tuple[str, ...]] = ("rms",)

    def check(self, model, split, head=None):
        pass

    def loss(self, outputs, targets):
        return outputs.square().mean()

    def metrics(self, outputs, targets):
        return {"square": outputs.square().mean(1), "ones": torch.ones(len(targets), 2, 3)}

    def summarise(self, sums, images):
        assert sums["ones"].tolist() == [[images] * 3] * 2
        return {"rms": (sums["square"].item() / images) ** 0.5}


@dataclass(frozen=True)
class Stricter(Classify):
    """One that measures otherwise than its base, by sums."""

    reports: ClassVar[tuple[str, ...]] = ("sure",)

    def metrics(self, outputs, targets):
        return {"sure": outputs.softmax(1).gather(1, targets[:, None]).squeeze(1)}


def test_a_class_measures_by_what_it_says_itself():
    outputs, targets = torch.tensor([[3.0, 4.0], [0.0, 0.0]]), torch.tensor([0, 1])
    assert updated(Summed(), outputs, targets).compute() == {"rms": 2.5}
    assert updated(Stricter(), outputs, targets).compute()["sure"] == pytest.approx((1 / (1 + np.e) + 0.5) / 2)
    named = type("Named", (), {"name": "nothing"})
    nothing = type("Nothing", (named, Task), {"check": Summed.check, "loss": Summed.loss})
    with pytest.raises(TypeError, match="the task nothing measures nothing: define metrics"):
        dataclass(frozen=True)(nothing)()


TASKS = {
    "classify": (Classify(), draw),
    "multilabel": (
        Multilabel(),
        lambda split: split(
            draw().images,
            torch.where(
                torch.arange(91).view(13, 7) % 5 == 0, torch.nan, (torch.arange(91).view(13, 7) % 3 > 1).float()
            ),
            num_classes=7,
            kind="labels",
        ),
    ),
    "summed": (Summed(), draw),
}


@pytest.mark.filterwarnings("ignore:The ``compute`` method")  # of a process without images, in the first alone
@pytest.mark.parametrize("split", [TensorSplit, Unreadable])
@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("world", [2, 3, 20])
def test_several_processes_measure_exactly_what_one_does(make_recipe, monkeypatch, world, name, split):
    """Of 13 images, some processes get one that only fills up, and of 20 processes most get nothing else.

    No metric asks the others by itself: NCCL would not send what lies in a CPU's memory.
    """
    monkeypatch.setattr("torchmetrics.metric.jit_distributed_available", lambda: True)
    recipe, (task, draw_split) = make_recipe(), TASKS[name]
    object.__setattr__(recipe, "task", task)
    data, model, sent = draw_split(split), Project(), []
    whole = evaluate(model, recipe, data)
    monkeypatch.setattr(evaluation, "gather_object", lambda part: sent.extend(pickle.loads(pickle.dumps(part))) or part)
    for rank in range(world):
        try:
            measure(model, recipe, data, rank=rank, world=world)
        except ValueError:
            assert world == 20
    assert sum(images for _, images in sent) == len(data) - 2 * data.skip
    for rank in (0, world - 1):
        monkeypatch.setattr(evaluation, "gather_object", lambda part: pickle.loads(pickle.dumps(sent)))
        found = evaluate(model, recipe, data, rank=rank, world=world)
        assert found == pytest.approx(whole, rel=1e-14, abs=0), "but for the order in which losses are added"
        exact = [key for key in whole if key not in ("loss", "rms")]
        assert [found[key] for key in exact] == [whole[key] for key in exact]


def test_a_split_is_measured_alike_however_it_is_batched(make_recipe, monkeypatch):
    data, model = draw(), Project()
    whole = evaluate(model, make_recipe(), data)
    monkeypatch.setattr(evaluation, "TOGETHER", 1)
    assert evaluate(model, make_recipe("train.batch_size=3"), data) == pytest.approx(whole, rel=1e-14)


def test_predictions_are_of_the_examples_that_can_be_read_in_their_order(make_recipe):
    recipe, data, model, done = make_recipe(), draw(Unreadable), Project().train(), []
    found = predict_split(model, recipe, data, progress=lambda *counts: done.append(counts))
    assert found.indices.tolist() == [0, *range(2, 12)] and done[-1] == (3, 4) and model.training
    assert torch.equal(found.outputs, model(data.images[found.indices])) and not found.outputs.requires_grad
    assert torch.equal(found.targets, data.labels[found.indices])
    meter = updated(recipe.task, found.outputs, found.targets, 7)
    assert meter.compute().items() <= evaluate(model, recipe, data).items()
    with pytest.raises(ValueError, match="the data are of the kind pixel, and predictions are kept of images with a"):
        predict_split(model, recipe, TensorSplit(data.images, data.labels, num_classes=7, kind="pixel"))


def test_a_model_is_as_it_was_when_it_cannot_be_measured(make_recipe):
    class Failing(Project):
        def forward(self, x):
            raise RuntimeError("no")

    model, threads = Failing().train(), torch.get_num_threads()
    for measured in (evaluate, predict_split):
        with pytest.raises(RuntimeError, match="no"):
            measured(model, make_recipe(), draw())
        assert model.training and torch.is_grad_enabled() and torch.get_num_threads() == threads
