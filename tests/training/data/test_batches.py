"""Batches of training in parts, and with each image several times."""

import copy

import pytest
import torch

pytest.importorskip("accelerate", reason="the recipes need zoo[train]")

from zoo.training.data.batches import TrainingBatches, loader
from zoo.training.data.digits import Digits
from zoo.training.data.splits import TensorSplit
from zoo.training.tasks.classify import Classify


@pytest.fixture(scope="module")
def digits():
    return Digits(shift=1.0).load()["train"]


def numbered(count=50, **options):
    """Images whose pixels, and label, are their number."""
    images = torch.arange(float(count))[:, None, None, None].expand(count, 1, 8, 8)
    return TensorSplit(images, torch.arange(count), num_classes=count, **options)


def thrice(split):
    split = copy.copy(split)
    split.repeats = 3
    return split


def batches(split, task=None, **options):
    return TrainingBatches(split, task or Classify(), **({"batch_size": 24, "seed": 3} | options))


@pytest.mark.parametrize("world", [1, 2])
@pytest.mark.parametrize("task", [Classify(), Classify(mixup=0.8, cutmix=1.0)], ids=["plain", "mixed"])
def test_parts_are_the_batches_of_as_many_more_processes(digits, world, task):
    """The same images, augmented and mixed alike, to the last bit."""
    for step in (0, 7, 60):
        alone = [batches(digits, task, rank=rank, world=3 * world)[step] for rank in range(3 * world)]
        parts = [batches(digits, task, rank=rank, world=world, accumulate=3)[step] for rank in range(world)]
        assert [len(part) for part in parts] == [3] * world
        in_turn = [pair for part in parts for pair in part]
        for expected, found in zip(alone, in_turn, strict=True):
            assert len(found[0]) == 24 // (3 * world) and all(map(torch.equal, expected, found))


def test_parts_come_through_the_loader(digits):
    several = batches(digits, accumulate=4)
    for step, item in zip(range(2), loader(several, range(2)), strict=True):
        for expected, found in zip(several[step], item, strict=True):
            assert all(map(torch.equal, expected, found))
    assert several.share == 24 and several.steps_per_epoch == batches(digits).steps_per_epoch
    with pytest.raises(ValueError, match="be a multiple of their number, 2, times the 5 parts that each takes it in"):
        batches(digits, world=2, accumulate=5)
    with pytest.raises(ValueError, match="batch_size is 24, of which 8 parts have 3 images each; .* a multiple of 16"):
        batches(digits, Classify(cutmix=1.0), world=2, accumulate=4)


class Unreadable(TensorSplit):
    """Of which no image below 20 can be read."""

    skip = True

    def fetch_readable(self, indices, seed):
        return *self.fetch(indices, seed), torch.tensor([index >= 20 for index in indices])


def test_a_part_of_which_nothing_can_be_read_is_left_out():
    split = Unreadable(numbered().images, torch.arange(50), num_classes=50)
    for step in range(4):
        whole, parts = batches(split)[step], batches(split, accumulate=24)[step]
        assert torch.cat([labels for _, labels in parts]).tolist() == whole[1].tolist() and len(parts) < 24
    nothing = Unreadable(numbered(20).images, torch.arange(20), num_classes=20)
    with pytest.raises(ValueError, match="none of the pictures of step 1 can be read"):
        batches(nothing, batch_size=4, accumulate=2)[0]


def test_repeated_images_come_in_a_row_and_an_epoch_stays_as_long():
    split, order = numbered(), batches(numbered())
    three = batches(thrice(split))
    assert three.steps_per_epoch == order.steps_per_epoch == 2
    for epoch in (0, 1):
        labels = torch.cat([three[step][1] for step in (2 * epoch, 2 * epoch + 1)])
        once = torch.cat([order[step][1] for step in (2 * epoch, 2 * epoch + 1)])
        assert torch.equal(labels, once[:16].repeat_interleave(3))
    for world in (2, 3, 4):
        shares = [batches(thrice(split), rank=rank, world=world)[1][1] for rank in range(world)]
        assert torch.equal(torch.stack(shares, 1).flatten(), three[1][1])
        assert world < 3 or all(len(share.unique()) == len(share) for share in shares), "each in another process"


def test_repeated_images_are_augmented_anew_and_depend_on_the_step_alone(digits):
    three, again = batches(thrice(digits)), batches(thrice(digits))
    images, labels = again[33]
    assert all(torch.equal(a, b) for a, b in zip(three[33], (images, labels), strict=True))
    for first in range(0, 24, 3):
        same = images[first : first + 3]
        assert len(labels[first : first + 3].unique()) == 1
        assert not torch.equal(same[0], same[1]) and not torch.equal(same[1], same[2])
