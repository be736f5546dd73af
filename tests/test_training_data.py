"""Data: fixed splits, and batches that depend on the seed and the step alone."""

import numpy as np
import pytest
import torch
from PIL import Image

from zoo.training.data import Digits, EvaluationBatches, ImageFolder, TrainingBatches, loader
from zoo.training.splits import random_affine
from zoo.training.tasks import Classify, Denoise


@pytest.fixture(scope="module")
def digits():
    return Digits(shift=0.5, rotate=10).load()


def identities(split):
    return {image.numpy().tobytes() + bytes([label]) for image, label in zip(split.images, split.labels, strict=True)}


def test_digits_are_split_for_good(digits):
    parts = [identities(digits[part]) for part in ("train", "validation", "test")]
    assert [len(digits[part]) for part in ("train", "validation", "test")] == [1257, 180, 360]
    assert len(set.union(*parts)) == sum(map(len, parts)), "the splits overlap"
    again = Digits(shift=0.5, rotate=10).load()
    for part, split in digits.items():
        assert torch.equal(split.images, again[part].images)
        shares = torch.bincount(split.labels) / len(split)
        assert (shares - 0.1).abs().max() < 0.01  # the classes are near equal in size, and so in every part
        assert split.images.shape[1:] == (1, 8, 8) and split.images.min() == 0 and split.images.max() == 1
    assert not torch.equal(Digits(split_seed=1).load()["test"].images, again["test"].images)


def test_the_split_is_that_of_the_published_numbers(digits):
    """A change here makes every `expect` on digits wrong: run the recipes again."""
    assert digits["test"].labels[:12].tolist() == [1, 0, 7, 3, 6, 0, 8, 9, 9, 7, 6, 8]


def test_training_batches_depend_on_seed_and_step_alone(digits):
    def batches(seed=0):
        return TrainingBatches(digits["train"], Classify(), batch_size=64, seed=seed)

    ahead = list(loader(batches(), range(38)))
    alone = batches()[30]
    assert all(torch.equal(a, b) for a, b in zip(alone, ahead[30], strict=True))
    assert not torch.equal(alone[1], batches(seed=1)[30][1])
    assert not torch.equal(ahead[0][1], ahead[19][1]), "the second epoch has the order of the first"


def test_an_epoch_sees_every_image_at_most_once(digits):
    plain = Digits().load()["train"]
    batches = TrainingBatches(plain, Classify(), batch_size=64, seed=0)
    images = torch.cat([batches[step][0] for step in range(batches.steps_per_epoch)])
    assert len({image.numpy().tobytes() for image in images}) == len(images) == 19 * 64


def test_processes_share_one_batch():
    plain = Digits().load()["train"]
    whole = TrainingBatches(plain, Classify(), batch_size=64, seed=0)[5]
    shares = [TrainingBatches(plain, Classify(), batch_size=64, seed=0, rank=rank, world=4)[5] for rank in range(4)]
    assert torch.equal(torch.stack([images for images, _ in shares], 1).flatten(0, 1), whole[0])
    with pytest.raises(ValueError, match="train.batch_size is 64.*multiple of their number, 3"):
        TrainingBatches(plain, Classify(), batch_size=64, seed=0, world=3)


def test_evaluation_does_not_depend_on_batch_size_or_processes(digits):
    whole = EvaluationBatches(digits["test"], Denoise(sigma=0.3), seed=0, batch_size=360)[0]
    small = EvaluationBatches(digits["test"], Denoise(sigma=0.3), seed=0, batch_size=7)
    assert torch.equal(torch.cat([small[i][0] for i in range(len(small))]), whole[0])
    shares = [
        EvaluationBatches(digits["test"], Denoise(sigma=0.3), seed=0, batch_size=360, rank=rank, world=7)[0]
        for rank in range(7)
    ]
    counts = torch.stack([share[2] for share in shares], 1).flatten()
    assert counts.sum() == 360 and len(counts) == 364
    assert torch.equal(torch.stack([share[0] for share in shares], 1).flatten(0, 1)[counts.bool()], whole[0])


def test_noise_has_the_stated_sigma_and_is_fresh_each_step(digits):
    batches = TrainingBatches(digits["train"], Denoise(sigma=0.3), batch_size=1024, seed=0)
    noise = [inputs - targets for inputs, targets in (batches[0], batches[1])]
    assert noise[0].std() == pytest.approx(0.3, rel=0.02)
    assert (noise[0] * noise[1]).mean().abs() < 0.002


def dots(count=400):
    """A blurred dot up and right of the middle, in each of two channels."""
    y, x = torch.meshgrid(torch.arange(31.0), torch.arange(31.0), indexing="ij")
    return torch.exp(-((y - 10) ** 2 + (x - 22) ** 2) / 8).expand(count, 2, 31, 31)


def centers(images):
    """Centres of mass from the middle of the image, in pixels: (B, 2) as (y, x)."""
    mass = images[:, 0] / images[:, 0].sum((1, 2), keepdim=True)
    axis = torch.arange(31.0) - 15
    return torch.stack([(mass.sum(2) * axis).sum(1), (mass.sum(1) * axis).sum(1)], 1)


def test_random_affine_moves_turns_and_stretches_each_image_on_its_own():
    def augmented(**options):
        return random_affine(dots(), torch.Generator().manual_seed(0), **{"shift": 0, "rotate": 0, "zoom": 0} | options)

    start = centers(dots())
    assert torch.allclose(augmented(), dots(), atol=1e-5)
    moved = centers(augmented(shift=2.0)) - start
    assert moved.min(0).values.tolist() == pytest.approx([-2, -2], abs=0.1)
    assert moved.max(0).values.tolist() == pytest.approx([2, 2], abs=0.1)
    turned = centers(augmented(rotate=30.0))
    assert torch.allclose(turned.norm(dim=1), start.norm(dim=1), rtol=0.02)
    angles = torch.rad2deg(torch.atan2(turned[:, 0], turned[:, 1]) - torch.atan2(start[:, 0], start[:, 1]))
    assert [angles.min().item(), angles.max().item()] == pytest.approx([-30, 30], abs=1)
    stretched = (centers(augmented(zoom=0.2)) / start).log()
    assert stretched.abs().max(0).values.tolist() == pytest.approx([0.2, 0.2], abs=0.01)
    both = augmented(shift=2.0, rotate=30.0, zoom=0.2)
    assert torch.equal(both[:, 0], both[:, 1]), "the channels went apart"


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for part, count in (("train", 6), ("val", 2)):
        for label, name in enumerate(("ant", "bee", "cat")):
            (tmp_path / part / name).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 80, (20, 24, 3), dtype=np.uint8) + np.uint8(80 * label)
                Image.fromarray(pixels).save(tmp_path / part / name / f"{i}.png")
    return tmp_path


def test_image_folder(folder):
    splits = ImageFolder(root=str(folder), img_size=16, workers=0, mean=(0, 0, 0), std=(1, 1, 1), crop_pct=1.0).load()
    assert set(splits) == {"train", "validation"} and splits["train"].num_classes == 3
    images, labels = splits["validation"].fetch(list(range(6)), None)
    assert images.shape == (6, 3, 16, 16) and labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert images.mean((1, 2, 3)).diff()[1::2].min() > 0.2, "the images do not go with the labels"


def test_image_folder_augments_by_the_seed_alone(folder):
    train = ImageFolder(root=str(folder), img_size=16, auto_augment="rand-m9", re_prob=0.5, workers=2).load()["train"]
    before = torch.get_rng_state()
    first, other = train.fetch([3, 4], seed=1)[0], train.fetch([3, 4], seed=2)[0]
    assert torch.equal(first[1:], train.fetch([4], seed=1)[0]) and not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), before), "the global generator was touched"
    batches = TrainingBatches(train, Classify(), batch_size=6, seed=0)
    in_workers, here = list(loader(batches, range(4))), [batches[step] for step in range(4)]
    assert all(torch.equal(a[0], b[0]) for a, b in zip(in_workers, here, strict=True))


def test_image_folder_refuses_a_class_it_cannot_train(folder):
    (folder / "val" / "dog").mkdir()
    with pytest.raises(ValueError, match=r"val has classes that .*train has not: \['dog'\]"):
        ImageFolder(root=str(folder)).load()


def test_image_folder_without_its_parts(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"must hold train/<class>/ and validation/<class>/"):
        ImageFolder(root=str(tmp_path)).load()
