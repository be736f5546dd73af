"""Segmentation: canvases of digits, intersection over union, a feature pyramid on any backbone, runs that are whole."""

import dataclasses
import json

import pytest
import torch
from conftest import ROOT, TEST_VARIANTS

pytest.importorskip("accelerate", reason="the recipes need zoo[train]")

import zoo
from zoo.registry import family_of
from zoo.skeletons.dense import PyramidHead
from zoo.skeletons.hierarchical import Hierarchical
from zoo.training import Pyramid, Segmenter, Trainer, evaluate, load_recipe
from zoo.training.data.batches import TrainingBatches
from zoo.training.data.digit_canvas import TILE, CanvasSplit, DigitCanvas
from zoo.training.data.digits import Digits
from zoo.training.data.splits import TensorSplit
from zoo.training.evaluation import outputs_of
from zoo.training.models import parts
from zoo.training.optim import param_groups
from zoo.training.tasks.segment import Segment

RECIPE = ROOT / "recipes" / "segment_digits.yaml"
HIERARCHICAL = [name for name in TEST_VARIANTS if issubclass(family_of(name).model, Hierarchical)]
PLAIN = {"noise": 0.0, "background": 0.0, "contrast": 1.0}  # nothing but ink

TEXT = """\
task: {name: segment}
model:
  name: poolformer_test
  kwargs: {in_chans: 1, drop_path_rate: 0.2}
  pyramid: {num_classes: 11, width: 8, out_indices: [0, 1, 2]}
data: {name: digit_canvas, train: 40, validation: 9, test: 10}
train: {duration: 10st, batch_size: 8, eval_every: 4st, checkpoint_every: 3st, log_every: 1st, ema: 0.9, threads: 1}
optim: {name: adamw, lr: 1e-3, weight_decay: 0.05}
schedule: {name: cosine, warmup: 2st}
expect: {metric: test/miou, status: untested}
"""


@pytest.fixture(scope="module")
def canvases():
    return DigitCanvas(test=50).load()


def records(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text("utf-8").splitlines()]


def randomised(model):
    """With noise on all that it saves, running statistics too."""
    for tensor in model.state_dict().values():
        if tensor.is_floating_point():
            tensor.add_(torch.rand_like(tensor), alpha=0.1)
    model.load_state_dict(model.state_dict())  # what follows from a buffer, such as whether knots are even, is noted
    return model.eval()


# --- Data -------------------------------------------------------------------------------------------------------------


def test_canvases_and_labels(canvases):
    assert {part: len(split) for part, split in canvases.items()} == {"train": 1024, "validation": 200, "test": 50}
    for seed in (None, 3):
        images, labels = canvases["test"].fetch([4, 2], seed)
        assert images.shape == (2, 1, 64, 64) and images.dtype == torch.float32
        assert labels.shape == (2, 64, 64) and labels.dtype == torch.int64
    images, labels = canvases["test"].fetch(list(range(50)), None)
    assert labels.unique().tolist() == list(range(11)) and (labels > 0).float().mean() > 0.05


def test_the_canvases_of_a_part_have_the_digits_of_that_part(canvases):
    digits = Digits().load()
    for part, split in canvases.items():
        large = torch.nn.functional.interpolate(digits[part].images, scale_factor=2, mode="bilinear")
        assert torch.equal(split.tiles[..., 1:-1, 1:-1], large) and torch.equal(split.labels, digits[part].labels)
    sevens = digits["test"].labels == 7
    only = TensorSplit(digits["test"].images[sevens], digits["test"].labels[sevens], num_classes=10)
    _, labels = CanvasSplit(DigitCanvas(), "test", only).fetch(list(range(20)), None)
    assert labels.unique().tolist() == [0, 8]


def test_labels_are_where_the_ink_is():
    split = DigitCanvas(**PLAIN).load()["train"]
    images, labels = split.draw(20, torch.Generator().manual_seed(0))
    assert torch.equal(labels > 0, images[:, 0] > 0.5)
    images, same = DigitCanvas(**PLAIN | {"contrast": 0.4}).load()["train"].draw(20, torch.Generator().manual_seed(0))
    assert torch.equal(labels, same), "contrast moved the labels"
    strongest = images.amax((1, 2, 3))
    assert strongest.min() >= 0.4 and strongest.max() <= 1


def test_noise_and_background_have_the_stated_size():
    empty = DigitCanvas(background=0.3, noise=0.0, contrast=1.0).load()["train"]
    images, labels = empty.fetch([0] * 200, 5)
    plain = DigitCanvas(**PLAIN).load()["train"].fetch([0] * 200, 5)[0]
    background = (images - plain)[:, 0]
    spread = background.amax((1, 2)) - background.amin((1, 2))
    assert 0.25 < spread.max() <= 0.3 + 1e-6 and background.min() >= -1e-6
    noisy = DigitCanvas(**PLAIN | {"noise": 0.2}).load()["train"].fetch([0] * 200, 5)[0]
    assert (noisy - plain).std() == pytest.approx(0.2, rel=0.01)


def test_digits_do_not_overlap_and_lie_within_the_canvas(canvases):
    number, top, left = canvases["train"]._places(100, torch.Generator().manual_seed(0))
    for canvas in range(100):
        corners = torch.stack([top, left], 1)[number == canvas]
        assert len(corners) >= 2 and corners.min() >= 0 and corners.max() + TILE <= 64
        apart = (corners[:, None] - corners).abs().amax(-1) + TILE * torch.eye(len(corners), dtype=torch.long)
        assert apart.min() >= TILE
    assert len(number) > 400


def test_evaluation_canvases_are_fixed_and_training_canvases_are_drawn_from_the_seed(canvases):
    whole, again = (split.fetch(range(50), None) for split in (canvases["test"], DigitCanvas(test=50).load()["test"]))
    assert all(torch.equal(a, b) for a, b in zip(whole, again, strict=True))
    assert torch.equal(canvases["test"].fetch([7], None)[0], whole[0][7:8])
    assert not torch.equal(DigitCanvas(split_seed=1, test=50).load()["test"].fetch(range(50), None)[1], whole[1])
    assert not torch.equal(canvases["validation"].fetch(range(50), None)[1], whole[1])

    def batch(step, seed=0):
        return TrainingBatches(canvases["train"], Segment(), batch_size=4, seed=seed)[step]

    assert all(torch.equal(a, b) for a, b in zip(batch(300), batch(300), strict=True))
    others = batch(299), batch(300 + 256), batch(300, seed=1)  # 256 steps are an epoch
    assert not any(torch.equal(batch(300)[1], other[1]) for other in others)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("size: 17", "size is 17; it must be from 18 to 4096"),
        ("tries: 0", "tries is 0; it must be from 1 to 1000"),
        ("test: 0", "test is 0; it must be from 1 to 1000000"),
        ("noise: -1", "noise is -1.0; it must be from 0 to 100"),
        ("contrast: 2", "contrast is 2.0; it must be above 0 and at most 1"),
    ],
)
def test_canvas_errors(make_recipe, option, message):
    with pytest.raises(ValueError, match=message):
        make_recipe(f"data={{name: digit_canvas, {option}}}")


# --- Intersection over union ------------------------------------------------------------------------------------------


def one_hot(labels, classes):
    return 5.0 * torch.nn.functional.one_hot(torch.tensor(labels), classes).permute(0, 3, 1, 2)


def test_miou_by_hand():
    """Two images, four classes; the last occurs nowhere. Over images alone the mean would be another."""
    targets = torch.tensor([[[0, 0, 0, 1]], [[0, 1, 1, 2]]])
    outputs = one_hot([[[0, 0, 1, 1]], [[0, 1, 2, 1]]], 4)
    meter = Segment().meter(4)
    meter.update(outputs, targets)
    summary, tables = meter.compute(), meter.tables()
    assert tables["confusion"].tolist() == [[3, 1, 0, 0], [0, 2, 1, 0], [0, 1, 0, 0], [0, 0, 0, 0]]
    assert tables["class_iou"].tolist() == pytest.approx([75, 40, 0, float("nan")], nan_ok=True)
    assert summary["miou"] == pytest.approx(100 * (3 / 4 + 2 / 5 + 0 / 2) / 3)
    assert summary["pixel_accuracy"] == pytest.approx(100 * 5 / 8)
    assert summary["loss"] == pytest.approx(torch.nn.functional.cross_entropy(outputs, targets).item())


class Guess(torch.nn.Module):
    """Logits of every pixel that follow from the image alone."""

    num_classes = 11

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(37.0))

    def forward(self, x):
        return (torch.arange(11.0)[:, None, None] * self.scale * x).sin()


@pytest.mark.parametrize("batch_size", [1, 4, 10])
def test_miou_is_counted_over_the_whole_split(make_recipe, batch_size):
    recipe = make_recipe(f"train.batch_size={batch_size}")
    split = recipe.data.load()["test"]
    images, labels = split.fetch(list(range(10)), None)
    predicted = Guess()(images).argmax(1)
    shares = [((predicted == c) & (labels == c)).sum() / ((predicted == c) | (labels == c)).sum() for c in range(11)]
    assert evaluate(Guess(), recipe, split)["miou"] == pytest.approx(100 * torch.stack(shares).mean().item(), rel=1e-5)


def test_filling_images_are_not_counted(make_recipe):
    """Three processes with four images each measure ten."""
    recipe = make_recipe()
    split = recipe.data.load()["test"]
    parts = [list(outputs_of(Guess(), recipe, split, rank=rank, world=3)) for rank in range(3)]
    batches = [batch for part in parts for batch in part]
    assert {indices.tolist()[0] for _, _, indices in batches} == {0, 1, 2}
    assert sorted(index for _, _, indices in batches for index in indices.tolist()) == list(range(10))
    assert all(len(outputs) == len(targets) == len(indices) for outputs, targets, indices in batches)


# --- Segmenter --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", HIERARCHICAL)
def test_a_pyramid_stands_on_every_hierarchical_model(name, tmp_path):
    model = Segmenter(name, Pyramid(num_classes=5, width=8), in_chans=1, img_size=64)
    assert len(model.head.pyramid.inner_blocks) == len(model.backbone.model.feature_info)
    x = torch.randn(2, 1, 64, 64)
    logits, aux = model(x, return_aux=True)
    assert logits.shape == (2, 5, 64, 64)
    assert aux.keys() == model.backbone.model(x, return_aux=True)[1].keys()
    logits.square().mean().backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    decayed, kept = param_groups(model, 0.1)
    assert decayed["weight_decay"] == 0.1 and {id(p) for p in kept["params"]} >= {id(model.head.logits.bias)}
    randomised(model).save(tmp_path)
    assert torch.equal(Segmenter.open(tmp_path).eval()(x), model(x))


def test_levels_are_taken_as_asked_for():
    model = Segmenter("vit_test", Pyramid(num_classes=3, width=8, out_indices=(-2,)))
    assert model.config.out_indices == (1,) and len(model.backbone.model.blocks) == 2
    assert model(torch.randn(1, 3, 32, 32)).shape == (1, 3, 32, 32)


def test_logits_of_a_pixel_come_from_its_position():
    """At stride 4 each position of the finest map fills its own 4x4 pixels; other sizes are interpolated."""
    head = PyramidHead([4], stride=4, num_classes=2, width=4).eval()
    maps = torch.zeros(1, 4, 8, 8)
    before = head([maps], (32, 32))
    maps[:, :, 4, 5] = 1
    changed = (head([maps], (32, 32)) != before).any(1)[0]
    rows, columns = changed.any(1).nonzero(), changed.any(0).nonzero()
    # The pyramid's 3x3 convolution carries it one position further.
    assert (rows.min(), rows.max() + 1) == (12, 24) and (columns.min(), columns.max() + 1) == (16, 28)
    assert head([maps], (31, 29)).shape == (1, 2, 31, 29)


@pytest.mark.parametrize("indices", [None, (1, 2), (-3, -2), (3, -4, 3)])
def test_a_saved_segmenter_is_the_same(tmp_path, indices):
    pyramid = Pyramid(num_classes=5, width=8, out_indices=indices)
    model = randomised(Segmenter("convnext_test", pyramid, in_chans=1, token_mixer="pool"))
    model.save(tmp_path)
    again = Segmenter.open(tmp_path).eval()
    x = torch.randn(2, 1, 64, 64)
    assert again.config == model.config and again.state_dict().keys() == model.state_dict().keys()
    assert torch.equal(again(x), model(x))
    backbone = zoo.create_model(
        f"local-dir:{tmp_path / 'backbone'}", features_only=True, out_indices=again.config.out_indices
    )
    assert all(torch.equal(a, b) for a, b in zip(backbone.eval()(x), model.backbone(x), strict=True))


def test_what_is_no_saved_segmenter_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no Segmenter: there is no .*head.safetensors"):
        Segmenter.open(tmp_path)
    path = tmp_path / "head.safetensors"
    parts.save_file({"x": torch.zeros(1)}, path, metadata={"backbone": "../elsewhere", "pyramid": "{}"})
    with pytest.raises(ValueError, match=r"names '../elsewhere' as its backbone"):
        Segmenter.open(tmp_path)
    parts.save_file({"x": torch.zeros(1)}, path, metadata={"backbone": "backbone", "pyramid": '{"num_clases": 3}'})
    with pytest.raises(ValueError, match=r"head.safetensors:1: num_clases: .*did you mean 'num_classes'"):
        Segmenter.open(tmp_path)


# --- Runs -------------------------------------------------------------------------------------------------------------


def test_it_learns(make_recipe, tmp_path):
    recipe = make_recipe("train.duration=60st", "train.ema=null", "optim.lr=1e-2", "model.kwargs.drop_path_rate=0")
    metrics = Trainer(recipe, tmp_path / "run").run()
    losses = [record["loss"] for record in records(tmp_path / "run") if "loss" in record]
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5])
    assert metrics["test/pixel_accuracy"] > 80


def test_a_resumed_run_is_bit_identical_and_a_finished_one_opens(make_recipe, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    metrics = Trainer(make_recipe(), whole).run()
    trainer = Trainer(make_recipe(), killed)
    update = trainer._update
    trainer._update = lambda step, *batch: update(step, *batch) if step < 8 else 1 / 0
    with pytest.raises(ZeroDivisionError):
        trainer.run()
    resumed = Trainer(make_recipe(), killed)
    assert resumed.step == 6 and resumed.run() == metrics
    assert records(killed) == records(whole)
    models = [Segmenter.open(path / "model") for path in (whole, killed)]
    states = [model.state_dict() for model in models]
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())
    again = evaluate(models[1], make_recipe(), make_recipe().data.load()["test"])
    assert {f"test/{name}": value for name, value in again.items()} == metrics
    assert Trainer(make_recipe(), whole).run() == metrics, "a finished run is measured again, not trained"


def test_a_mixture_in_a_segmenter_trains_balanced(make_recipe, tmp_path):
    """Its losses are known to the recipe, and biases of routers that balance without a loss move by their rate."""
    router = "{name: sigmoid, rate: 0.5, losses: [balance]}"
    slot = f"{{at: {{0: {{name: moe, num_experts: 3, top_k: 1, router: {router}}}}}}}"
    trainer = Trainer(make_recipe(f"model.kwargs.channel_mixer={slot}", "aux_losses.balance=0.1"), tmp_path / "run")
    trainer.run()
    lines = [line for line in records(tmp_path / "run") if "loss/balance" in line]
    assert lines and all(line["loss/balance"] > 0 and len(line["stat/load"]) == 1 for line in lines)
    (bias,) = (b for n, b in trainer.model.named_buffers() if n.endswith("router.bias"))
    assert bias.abs().max() >= 0.5


def test_backbone_and_slots_are_changed_from_the_command_line(make_recipe):
    recipe = make_recipe("model.name=convnext_test", "model.kwargs.token_mixer=pool", "model.pyramid.width=16")
    model = recipe.model.create()
    assert {slot.name for slot in model.backbone.model.config["token_mixer"]} == {"pool"}
    assert model.config == Pyramid(num_classes=11, width=16, out_indices=(0, 1, 2))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model.pyramid=null"], r"not for every pixel: set model.pyramid=\{num_classes: 11\}"),
        (["model.pyramid.num_classes=10"], "has 10 classes, the data 11: set model.pyramid.num_classes=11"),
        (["data={name: digits}", "model.kwargs.img_size=8"], "one label an image, not one a pixel: set data.name="),
        (["task={name: classify}"], "a label for every pixel, not for every image: set task.name=segment"),
        (
            ["task={name: classify}", "data={name: digits}"],
            "for every pixel, not for every image: remove model.pyramid",
        ),
        (["model.pyramid.width=0"], "model.pyramid.width is 0; it must be from 1 to 2048"),
        (["model.pyramid.out_indices=3"], r"model.pyramid.out_indices: expected a list, got '3' \(int\)"),
        (["model.pyramid.out_indices=[0, 9]"], r"feature indices \[0, 9\] are not all within the 4 levels"),
        (["aux_losses.balance=1"], "the loss 'balance' of aux_losses is unknown"),
    ],
)
def test_what_does_not_fit_is_refused(make_recipe, tmp_path, overrides, message):
    with pytest.raises(ValueError, match=message):
        Trainer(make_recipe(*overrides), tmp_path / "run").run()


def test_the_recipe_is_the_one_described():
    recipe = load_recipe(RECIPE)
    assert recipe.expect.metric == "test/miou" and recipe.expect.value >= 90 and recipe.expect.status == "reproduced"
    parameters = sum(p.numel() for p in recipe.model.create().parameters())
    assert f"{parameters:,} parameters" in RECIPE.read_text("utf-8")
    small = dataclasses.replace(recipe.data, train=8)
    assert recipe.model.create()(small.load()["train"].fetch([0, 1], 0)[0]).shape == (2, 11, 64, 64)
