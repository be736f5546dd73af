"""Every kind of picture is read the same wherever it lies, named or counted where it cannot be, and goes with its
label."""

import dataclasses
import io
import pickle
import re

import numpy as np
import pytest
import torch
from picture_sets import SETS, WRITERS
from PIL import Image

from zoo.training import RecipeError, load_recipe
from zoo.training.data.batches import TrainingBatches, loader
from zoo.training.data.digit_canvas import CanvasSplit, DigitCanvas
from zoo.training.data.digits import Digits
from zoo.training.data.splits import TensorSplit
from zoo.training.tasks.classify import Classify

PLAIN = {"img_size": 16, "crop_pct": 1.0, "workers": 0, "in_chans": 3, "mean": (0.0,) * 3, "std": (1.0,) * 3}
PIXELS = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)


def saved(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def turned():
    exif = Image.Exif()
    exif[274] = 6  # to be turned clockwise by 90 degrees
    return saved(Image.fromarray(PIXELS), exif=exif)


DEEP = np.arange(256, dtype=np.uint16).reshape(16, 16)  # which 8 bits would make black
RGB = PIXELS / 255
GOOD = {  # of each kind the file, and the values that are read
    "rgb": (saved(Image.fromarray(PIXELS)), RGB),
    "grey": (saved(Image.fromarray(PIXELS[..., 0])), RGB[..., [0, 0, 0]]),
    "rgba": (saved(Image.fromarray(np.dstack([PIXELS, PIXELS[..., 0]]), "RGBA")), RGB),
    "deep": (saved(Image.fromarray(DEEP)), np.repeat(DEEP[..., None] / 65535, 3, 2)),
    "turned": (turned(), np.rot90(RGB, -1)),
}
BAD = {
    "corrupt": (saved(Image.fromarray(PIXELS).resize((40, 40)), "JPEG", quality=100)[:-900], "truncated"),
    "empty": (b"", "cannot identify its format"),
    "enormous": (saved(Image.new("1", (60, 60))), "60 x 60 pixels; at most 2,000 are read"),
    "missing": (None, "No such file|holds no picture|has no picture"),
}
NAMES = [*GOOD, *BAD]


@pytest.fixture(scope="module", params=SETS)
def data(request, tmp_path_factory):
    """All kinds of pictures in one data set, in turn of two classes, the same in both parts."""
    contents = {kind: content for kind, (content, _) in {**GOOD, **BAD}.items()}
    pictures = [(f"{i}{kind}.png", contents[kind], i % 2) for i, kind in enumerate(NAMES)]
    root = tmp_path_factory.mktemp(request.param) / "data"
    return WRITERS[request.param](root, {"train": pictures, "validation": pictures}, unreadable="skip", **PLAIN)


@pytest.fixture(autouse=True)
def bound(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2000)


def index_of(data, kind):
    """In folders the classes do not lie in turn."""
    if data.name == "image_folder":
        return [*NAMES[::2], *NAMES[1::2]].index(kind)
    return NAMES.index(kind)


@pytest.mark.filterwarnings("ignore:.*images that|.*DecompressionBomb")
@pytest.mark.parametrize("kind", GOOD)
def test_what_can_be_read_is_read_right(data, kind):
    splits, index = data.load(), index_of(data, kind)
    images, labels, readable = splits["validation"].fetch_readable([index], None)
    expected = torch.from_numpy(GOOD[kind][1].copy()).float().movedim(-1, 0)
    assert torch.allclose(images[0], expected, atol=1e-6) and readable.tolist() == [True]
    assert labels.tolist() == [NAMES.index(kind) % 2] and labels.dtype == torch.int64
    assert splits["validation"].num_classes == len(splits["train"].class_names) == 2


@pytest.mark.parametrize("kind", BAD)
def test_what_cannot_be_read_is_named_or_left_out(data, kind):
    split, index = data.load()["validation"], index_of(data, kind)
    name, reason = split.describe(index), BAD[kind][1]
    assert kind in name or f"row {index}" in name
    with pytest.warns(UserWarning, match=rf"{re.escape(name)}.*({reason}).*; it is left out"):
        images, _, readable = split.fetch_readable([index], None)
    assert readable.tolist() == [False] and images.shape == (1, 3, 16, 16)
    split.skip = False
    with pytest.raises(ValueError, match=rf"{re.escape(name)}.*({reason})") as said:
        split.fetch_readable([index], None)
    assert len(str(said.value)) < 2000 and " at 0x" not in str(said.value)


@pytest.mark.filterwarnings("ignore:.*left out", "ignore:data.workers")
def test_batches_are_the_same_whoever_reads_and_wherever_one_begins(data):
    split = dataclasses.replace(data, workers=2, auto_augment="rand-m9", re_prob=0.5).load()["train"]
    batches = TrainingBatches(split, Classify(), batch_size=4, seed=0)
    straight = list(loader(batches, range(4)))
    again = TrainingBatches(pickle.loads(pickle.dumps(split)), Classify(), batch_size=4, seed=0)
    for step in (3, 0):
        assert all(torch.equal(a, b) for a, b in zip(again[step], straight[step], strict=True))


def test_the_model_is_told_how_pictures_are_prepared(data):
    assert data.preparation() == {
        "input_size": (3, 16, 16),
        "interpolation": "bicubic",
        "crop_pct": 1.0,
        "mean": (0.0,) * 3,
        "std": (1.0,) * 3,
    }
    assert dataclasses.replace(data, in_chans=None, mean=None, std=None).preparation()["mean"][0] == 0.485


def test_what_is_drawn_or_built_in_says_so_too():
    digits = Digits(size=16)
    assert digits.preparation()["input_size"] == (1, 16, 16) and digits.preparation()["mean"] == (0.0,)
    assert digits.load()["test"].class_names == tuple("0123456789")
    assert DigitCanvas.preparation(DigitCanvas()) == {} and len(CanvasSplit.class_names) == CanvasSplit.num_classes
    assert TensorSplit(torch.zeros(3, 1, 2, 2), torch.zeros(3), num_classes=2).describe(1) == "image 1"


@pytest.mark.parametrize("name", SETS)
def test_all_have_the_same_options(name):
    place = {"image_folder": "root", "csv": "file", "hf_dataset": "path", "webdataset": "shards"}[name]
    begin = f"data={{name: {name}, {place}: x"
    made = load_recipe("recipes/mixer_digits.yaml", [f"{begin}, scale: [0.5, 1], vflip: 0.5, repeats: 3}}"]).data
    assert (made.name, made.scale, made.repeats, made.in_chans) == (name, (0.5, 1.0), 3, 1)
    with pytest.raises(RecipeError, match=r"scale is \[1.0, 0.5\]; the first is the least"):
        load_recipe("recipes/mixer_digits.yaml", [f"{begin}, scale: [1, 0.5]}}"])
    with pytest.raises(RecipeError, match=f"{place} is .*no path is so long"):
        load_recipe("recipes/mixer_digits.yaml", [f"data={{name: {name}, {place}: {'x' * 300}}}"])


def test_repeated_augmentation_has_each_picture_several_times_and_never_the_same(data):
    good = torch.tensor([index_of(data, kind) for kind in GOOD])
    split = dataclasses.replace(data, repeats=2).load()["train"]
    split.part = split.part.subset(good)
    batches = TrainingBatches(split, Classify(), batch_size=4, seed=0)
    images, labels = batches[0]
    assert batches.steps_per_epoch == 1 and torch.equal(labels[0::2], labels[1::2])
    assert not torch.equal(images[0], images[1]) and not torch.equal(images[2], images[3])
    shares = [TrainingBatches(split, Classify(), batch_size=4, seed=0, rank=rank, world=2)[0] for rank in range(2)]
    assert torch.equal(shares[0][1], labels[0::2]), "each process has one of the two"
