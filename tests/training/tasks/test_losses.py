"""What classification and labels are trained on: criteria, weights of classes, Mixup and CutMix."""

import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from trainings import TINY, kill_at

pytest.importorskip("accelerate", reason="the recipes need zoo[train]")

from zoo.training import Trainer, load_recipe
from zoo.training.data.digits import Digits
from zoo.training.data.splits import TensorSplit
from zoo.training.recipe.recipe import dump_recipe
from zoo.training.runs.records import read_records
from zoo.training.tasks.classify import Classify
from zoo.training.tasks.multilabel import Multilabel

CLASSES = 4
OUTPUTS = torch.tensor([[2.0, -1.0, 0.5, 0.0], [0.0, 1.0, -2.0, 3.0], [1.0, 1.0, 1.0, -1.0]])
TARGETS = torch.tensor([0, 2, 1])
HARD = F.one_hot(TARGETS, CLASSES).float()


TEXT = TINY


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


# --- Criteria ---------------------------------------------------------------------------------------------------------


def test_binary_cross_entropy_by_hand():
    """Softplus of x is the loss of a logit x without, and of -x with the class."""
    smoothed = 0.9 * HARD + 0.1 / CLASSES
    losses = smoothed * F.softplus(-OUTPUTS) + (1 - smoothed) * F.softplus(OUTPUTS)
    make = lambda **options: Classify(criterion="bce", **options).loss
    torch.testing.assert_close(make(label_smoothing=0.1)(OUTPUTS, TARGETS), losses.mean())
    torch.testing.assert_close(make(label_smoothing=0.1, sum_classes=True)(OUTPUTS, TARGETS), losses.sum(1).mean())
    soft = 0.7 * HARD + 0.3 * HARD.flip(0)
    above = (soft > 0.2).float() * F.softplus(-OUTPUTS) + (soft <= 0.2).float() * F.softplus(OUTPUTS)
    torch.testing.assert_close(make(target_threshold=0.2)(OUTPUTS, soft), above.mean())
    weights = (1.0, 2.0, 3.0, 4.0)
    weighted = (HARD * F.softplus(-OUTPUTS) + (1 - HARD) * F.softplus(OUTPUTS)) * torch.tensor(weights)
    torch.testing.assert_close(make(class_weights=weights)(OUTPUTS, TARGETS), weighted.mean())


def test_cross_entropy_of_soft_and_smoothed_targets_by_hand():
    soft = 0.7 * HARD + 0.3 * HARD.flip(0)
    by_hand = lambda targets: -(targets * OUTPUTS.log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(Classify().loss(OUTPUTS, soft), by_hand(soft))
    for targets, dense in ((TARGETS, HARD), (soft, soft)):
        smoothed = by_hand(0.9 * dense + 0.1 / CLASSES)
        torch.testing.assert_close(Classify(label_smoothing=0.1).loss(OUTPUTS, targets), smoothed)


def test_weights_of_classes_are_given_or_those_of_the_training_data():
    labels = torch.tensor([0] * 6 + [1] * 3 + [2] * 2 + [3])
    split = TensorSplit(torch.zeros(12, 1, 4, 4), labels, num_classes=4)
    task = Classify(class_weights="balanced")
    with pytest.raises(
        ValueError, match=r"class_weights is balanced, which the training data decide: take task.fitted"
    ):
        task.loss(OUTPUTS, TARGETS)
    fitted = task.fitted(split)
    assert fitted.class_weights == (0.5, 1.0, 1.5, 3.0) and Classify().fitted(split) == Classify()
    losses = torch.tensor(fitted.class_weights)[TARGETS] * F.cross_entropy(OUTPUTS, TARGETS, reduction="none")
    torch.testing.assert_close(fitted.loss(OUTPUTS, TARGETS), losses.sum() / 3.0)
    with pytest.raises(
        ValueError, match="class_weights is balanced, but these classes have no training image: 3; give"
    ):
        task.fitted(TensorSplit(split.images[:11], labels[:11], num_classes=4))


def test_unknown_labels_are_in_no_loss():
    targets = torch.tensor([[1.0, 0, torch.nan, 0], [torch.nan] * 4, [0, 1, 1, torch.nan]])
    outputs = OUTPUTS.clone().requires_grad_()
    loss = Multilabel(pos_weight=(1.0, 2.0, 3.0, 4.0)).loss(outputs, targets)
    softplus = lambda x: np.log1p(np.exp(x))
    by_hand = [softplus(-2.0), softplus(-1.0), softplus(0.0), softplus(1.0), 2 * softplus(-1.0), 3 * softplus(-1.0)]
    assert loss.item() == pytest.approx(np.mean(by_hand))
    loss.backward()
    assert torch.equal(outputs.grad != 0, targets.isfinite())
    nothing = Multilabel().loss(outputs, torch.full((3, 4), torch.nan))
    assert nothing.item() == 0 and torch.autograd.grad(nothing, outputs)[0].count_nonzero() == 0


def test_positive_labels_are_weighted_by_how_rare_they_are():
    labels = torch.tensor([[1.0, 0], [1, 1], [1, 0], [0, 0], [torch.nan, 0]])
    split = TensorSplit(torch.zeros(5, 1, 4, 4), labels, num_classes=2, kind="labels")
    assert Multilabel(pos_weight="balanced").fitted(split).pos_weight == pytest.approx((1 / 3, 4))
    split.labels[1, 1] = 0
    with pytest.raises(ValueError, match="pos_weight is balanced, but these classes have no training image: 1; give a"):
        Multilabel(pos_weight="balanced").fitted(split)
    split.labels[:, 1] = 1
    with pytest.raises(ValueError, match="these classes have no training image without it: 1; give"):
        Multilabel(pos_weight="balanced").fitted(split)


# --- Mixing -----------------------------------------------------------------------------------------------------------


def batch(count=6):
    """Images that are a number everywhere, so that a mixed one says what it was made of."""
    images = torch.arange(1.0, count + 1)[:, None, None, None].expand(count, 1, 8, 8).contiguous()
    return images, torch.arange(count) % CLASSES


@pytest.mark.parametrize("mode", ["batch", "pair", "elem"])
@pytest.mark.parametrize("options", [{"mixup": 0.8}, {"cutmix": 1.0}, {"mixup": 0.8, "cutmix": 1.0}], ids=str)
@pytest.mark.parametrize("count", [6, 5])
def test_labels_are_mixed_as_the_images_are(options, mode, count):
    """Also where a picture could not be read, and no even number is left."""
    images, labels = batch(count)
    task = Classify(mix_mode=mode, **options)
    mixed, soft = task.mix(images, labels, CLASSES, rng())
    assert torch.equal(images, batch(count)[0]), "what was given is as it was"
    assert mixed.shape == images.shape and soft.shape == (count, CLASSES) and not torch.equal(mixed, images)
    torch.testing.assert_close(soft.sum(1), torch.ones(count))
    partners = torch.arange(count).flip(0) if count == 6 else torch.tensor([4, 4, 3, 2, 1])
    own = images[:, 0, 0, 0]
    other = own[partners]
    share = torch.where(own == other, 1, (mixed.mean((1, 2, 3)) - other) / (own - other).where(own != other, 1))
    expected = share[:, None] * F.one_hot(labels, CLASSES) + (1 - share[:, None]) * F.one_hot(labels[partners], CLASSES)
    torch.testing.assert_close(soft, expected)


def test_mixing_follows_from_the_generator_alone_and_leaves_the_others_alone():
    images, labels = batch()
    task = Classify(mixup=0.8, cutmix=1.0, criterion="bce", label_smoothing=0.1)
    random.seed(5), np.random.seed(5)
    first = task.mix(images, labels, CLASSES, rng())
    states = random.random(), np.random.rand()
    random.seed(5), np.random.seed(5)
    assert states == (random.random(), np.random.rand())
    again, other = task.mix(images, labels, CLASSES, rng()), task.mix(images, labels, CLASSES, rng(1))
    assert all(map(torch.equal, first, again)) and not torch.equal(first[0], other[0])
    assert first[1].min() == pytest.approx(0.1 / CLASSES)
    assert Classify().mix(images, labels, CLASSES, rng())[1] is labels
    never = Classify(mixup=0.8, mix_prob=0.0).mix(images, labels, CLASSES, rng())
    assert torch.equal(never[0], images) and torch.equal(never[1], F.one_hot(labels, CLASSES).float())
    soft = 0.5 * never[1] + 0.5 * never[1].roll(1, 1)
    torch.testing.assert_close(Classify(mixup=0.8, mix_prob=0.0).mix(images, soft, CLASSES, rng())[1], soft)


def test_a_mixed_training_goes_on_bit_by_bit(make_recipe, tmp_path):
    recipe = make_recipe("task={name: classify, criterion: bce, mixup: 0.8, cutmix: 1.0, label_smoothing: 0.1}")
    expected = Trainer(recipe, tmp_path / "whole").run()
    kill_at(Trainer(recipe, tmp_path / "killed"), 3)
    second = Trainer(recipe, tmp_path / "killed")
    assert second.step == 2 and second.run() == expected
    assert read_records(tmp_path / "killed/metrics.jsonl") == read_records(tmp_path / "whole/metrics.jsonl")


def test_several_labels_are_learnt(make_recipe, tmp_path, monkeypatch):
    """Whether a digit is even, whether it is above 6, and one that nobody knows of most images."""
    load = Digits.load

    def load_labels(data):
        splits = load(data)
        for split in splits.values():
            digits = split.labels
            last = torch.where(torch.arange(len(digits)) % 3 == 0, (digits == 0).float(), torch.nan)
            split.labels = torch.stack([(digits % 2 == 0).float(), (digits > 6).float(), last], 1)
            split.num_classes, split.kind = 3, "labels"
        return splits

    monkeypatch.setattr(Digits, "load", load_labels)
    task = "task={name: multilabel, pos_weight: [1, 2.5, 9]}"
    once = [f"train.{key}=60st" for key in ("duration", "eval_every", "checkpoint_every")]
    recipe = make_recipe(task, "model.kwargs.num_classes=3", "expect.metric=test/auc", *once)
    metrics = Trainer(recipe, tmp_path / "run").run()
    assert list(metrics) == ["test/auc", "test/map", "test/loss"] and metrics["test/auc"] > 85


# --- Recipes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weights", ["balanced", "[1, 2.5, 1, 1, 1, 1, 1, 1, 1, 1]", "null"])
def test_a_recipe_says_weights_as_a_word_or_as_numbers(make_recipe, tmp_path, weights):
    recipe = make_recipe(f"task.class_weights={weights}")
    expected = {"balanced": "balanced", "null": None}.get(weights, (1.0, 2.5) + (1.0,) * 8)
    assert recipe.task.class_weights == expected
    (tmp_path / "again.yaml").write_text(dump_recipe(recipe))
    assert load_recipe(tmp_path / "again.yaml") == recipe


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("class_weights=equal", "task.class_weights: expected one of balanced, got 'equal'"),
        ("class_weights=[1, 0]", r"task.class_weights\[1\] is 0.0; it must be above 0"),
        ("sum_classes=true", "task: sum_classes is of bce alone: set criterion=bce, or leave it out"),
        ("target_threshold=0.2", "task: target_threshold is of bce alone"),
        ("mix_mode=pair", "task: mix_mode has no effect without mixup or cutmix: set that, or leave it out"),
        ("mix_prob=0.5", "task: mix_prob has no effect without mixup or cutmix"),
        ("mix_switch_prob=0.1", "task: mix_switch_prob has no effect without mixup and cutmix"),
        ("mixup=-1", "task.mixup is -1.0; it must be from 0"),
    ],
)
def test_what_would_have_no_effect_is_refused(make_recipe, option, message):
    with pytest.raises(ValueError, match=message):
        make_recipe(f"task.{option}")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("task.class_weights=[1, 2]", "class_weights has 2 numbers, the data 10 classes: give one a class, or class_w"),
        (
            "task.mixup=0.8",
            "train.batch_size is 33, of which 1 parts have 33 images each; Mixup and CutMix take images",
        ),
        ("task={name: multilabel}", "the data has one label for an image, not several: set task.name=classify"),
    ],
)
def test_what_does_not_fit_the_data_is_refused_before_the_training(make_recipe, tmp_path, override, message):
    more = ["expect.metric=test/auc"] if "multilabel" in override else []
    with pytest.raises(ValueError, match=message):
        Trainer(make_recipe("train.batch_size=33", override, *more), tmp_path / "run")


def test_several_labels_are_no_task_for_one(make_recipe):
    split = TensorSplit(torch.zeros(2, 1, 8, 8), torch.zeros(2, 10), num_classes=10, kind="labels")
    model = nn.Linear(2, 2)
    with pytest.raises(ValueError, match="the data has several labels for an image, not one: set task.name=multilabel"):
        Classify().check(model, split)
    with pytest.raises(ValueError, match="set tasks.ink.task.name=multilabel"):
        Classify().check(model, split, "model.heads.ink")
    model.num_classes = 10
    Multilabel().check(model, split)
    with pytest.raises(ValueError, match="pos_weight has 3 numbers, the data 10 classes"):
        Multilabel(pos_weight=(1.0, 2.0, 3.0)).check(model, split)
