"""Validation that is drawn: fixed, of every class its share, no group in both parts."""

import pytest
import torch
from picture_sets import WRITERS
from PIL import Image

from zoo.training.data.hold_out import hold_out
from zoo.training.data.image_folder import ImageFolder


def test_every_class_has_its_share():
    sizes = torch.tensor([1, 2, 3, 5, 7, 15, 40, 200, 1000])
    labels = torch.arange(9).repeat_interleave(sizes)[torch.randperm(int(sizes.sum()))]
    kept, drawn = hold_out(labels, 0.2, seed=3)
    counts = torch.bincount(labels[drawn], minlength=9)
    assert ((counts - 0.2 * sizes).abs() <= 1).all() and (counts < sizes).all()
    assert len(drawn) == pytest.approx(0.2 * len(labels), abs=1)
    assert torch.equal(torch.cat([kept, drawn]).sort().values, torch.arange(len(labels)))
    assert torch.equal(drawn, hold_out(labels, 0.2, seed=3)[1]) and not torch.equal(drawn, hold_out(labels, 0.2, 4)[1])


def test_every_label_has_its_share_where_a_picture_has_several():
    rng = torch.Generator().manual_seed(0)
    labels = (torch.rand(2000, 5, generator=rng) < torch.tensor([0.5, 0.3, 0.1, 0.05, 0.01])).float()
    labels[:9, 0] = torch.nan
    _, drawn = hold_out(labels, 0.1, seed=0)
    shares = (labels[drawn] == 1).sum(0) / (labels == 1).sum(0)
    assert (shares - 0.1).abs().max() < 0.04 and len(drawn) == pytest.approx(200, abs=25)
    without = ~(labels == 1).any(1)
    assert int(without[drawn].sum()) == pytest.approx(0.1 * int(without.sum()), abs=1)


@pytest.mark.parametrize("several", [False, True])
def test_no_group_is_parted(several):
    patients = [f"p{i // 4}" for i in range(400)]
    labels = torch.tensor([(i // 4) % 2 for i in range(400)])
    labels = torch.nn.functional.one_hot(labels).float() if several else labels
    kept, drawn = hold_out(labels, 0.25, seed=0, groups=patients)
    assert not {patients[i] for i in kept} & {patients[i] for i in drawn} and len(drawn) == 100


def png(folder, count):
    folder.mkdir(parents=True)
    for i in range(count):
        Image.new("L", (8, 8), i).save(folder / f"{i}.png")


@pytest.mark.parametrize("part", ["train", "."])
def test_a_folder_without_validation(tmp_path, part):
    for name, count in (("ant", 20), ("bee", 10)):
        png(tmp_path / part / name, count)
    data = ImageFolder(root=str(tmp_path), img_size=8, in_chans=1, validation_share=0.2)
    with pytest.warns(UserWarning, match=r"has nothing for validation: 6 of its 30 training pictures are drawn .*0.2"):
        splits = data.load()
    assert {name: len(split) for name, split in splits.items()} == {"train": 24, "validation": 6}
    assert torch.bincount(splits["validation"].part.labels).tolist() == [4, 2]
    assert splits["train"].class_names == ("ant", "bee")
    paths = [{path for path, _ in split.samples} for split in splits.values()]
    assert not paths[0] & paths[1] and len(paths[0] | paths[1]) == 30


def test_few_pictures_give_one_and_single_ones_none(tmp_path):
    png(tmp_path / "ant", 2)
    png(tmp_path / "bee", 1)
    with pytest.warns(UserWarning, match="1 of its 3 training pictures"):
        splits = ImageFolder(root=str(tmp_path), validation_share=0.01).load()
    assert splits["validation"].part.labels.tolist() == [0]
    (tmp_path / "ant" / "1.png").unlink()
    with pytest.raises(ValueError, match="nothing for validation, and no class with two pictures"):
        ImageFolder(root=str(tmp_path)).load()


def test_a_test_part_stays_and_one_folder_alone_is_no_class(tmp_path):
    for name in ("ant", "bee"):
        png(tmp_path / "train" / name, 10)
        png(tmp_path / "test" / name, 3)
    with pytest.warns(UserWarning, match="are drawn"):
        assert [*ImageFolder(root=str(tmp_path)).load()] == ["train", "validation", "test"]
    png(tmp_path / "other" / "all", 3)
    with pytest.raises(FileNotFoundError, match="or at least two <class>/ folders"):
        ImageFolder(root=str(tmp_path / "other")).load()


@pytest.mark.parametrize("name", ["csv", "hf_dataset", "webdataset"])
def test_the_other_data_sets_without_validation(tmp_path, name):
    pictures = [(f"{i}.png", b"", i % 3) for i in range(30)]
    with pytest.warns(UserWarning, match="3 of its 30 training pictures are drawn"):
        splits = WRITERS[name](tmp_path / "data", {"train": pictures}).load()
    assert sorted(splits["validation"].part.labels.tolist()) == [0, 1, 2]
    assert len(splits["train"]) == 27
