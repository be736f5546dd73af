"""Folders of pictures with links that lead back, and pictures that are too large: named, or passed over."""

import warnings

import numpy as np
import pytest
from PIL import Image

from zoo.training.data.image_folder import ImageFolder
from zoo.training.data.pictures import read_picture


@pytest.fixture
def root(tmp_path):
    for part, count in (("train", 4), ("validation", 2)):
        for level, name in enumerate("ab"):
            (tmp_path / "data" / part / name).mkdir(parents=True)
            for i in range(count):
                Image.new("L", (8, 8), 100 * level + i).save(tmp_path / "data" / part / name / f"{i}.png")
    return tmp_path / "data"


def load(root):
    return ImageFolder(str(root), img_size=8, in_chans=1, workers=0).load()


def counts(root):
    """Pictures of each class, by part."""
    return {part: np.bincount([label for _, label in split.samples]).tolist() for part, split in load(root).items()}


LINKS = {  # of the link that is put in class a: where it leads
    "the class": ".",
    "the part": "..",
    "the root": "../..",
    "the whole disk": "/",
    "by its path": None,
}


@pytest.mark.parametrize("kind", LINKS)
def test_a_link_that_leads_back_is_passed_over_and_counted(root, kind):
    (root / "train" / "a" / "loop").symlink_to(LINKS[kind] or root / "train" / "a")
    with pytest.warns(UserWarning, match="train: files that are left out.* 1 links to a folder that is met elsewhere"):
        assert counts(root) == {"train": [4, 4], "validation": [2, 2]}


def test_folders_that_link_to_each_other_are_read_once_under_their_own_names(root):
    a = root / "train" / "a"
    for name in map(str, range(9)):
        (a / name).mkdir()
        Image.new("L", (8, 8), 7).save(a / name / "more.png")
        for other in set(map(str, range(9))) - {name}:
            (a / name / f"to_{other}").symlink_to(a / other)
    with pytest.warns(UserWarning, match="72 links to a folder that is met elsewhere"):
        split = load(root)["train"]
    found = [path for path, _ in split.samples if path.endswith("more.png")]
    assert found == [str(a / str(name) / "more.png") for name in range(9)]


@pytest.mark.filterwarnings("error")
def test_pictures_behind_links_to_elsewhere_are_read(root, tmp_path):
    (tmp_path / "data" / "train" / "a").rename(tmp_path / "elsewhere")
    (root / "train" / "a").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "more" / "deeper").mkdir(parents=True)
    Image.new("L", (8, 8)).save(tmp_path / "more" / "deeper" / "0.png")
    (root / "train" / "b" / "more").symlink_to(tmp_path / "more")
    assert counts(root)["train"] == [4, 5]


def test_a_link_to_itself(root):
    for name in ("itself.png", "itself"):
        (root / "train" / "a" / name).symlink_to(name)
    (root / "train" / "c").symlink_to("c")
    with pytest.warns(UserWarning, match="1 in no class folder") as said:
        splits = load(root)
    assert "1 without suffix" in str(said[0].message) and splits["train"].num_classes == 2
    with pytest.raises(ValueError, match="itself.png cannot be read as a picture .*: repair it or remove it"):
        splits["train"].fetch(list(range(len(splits["train"]))), None)


def test_a_class_that_is_a_link_back_has_no_pictures(root):
    for target in ("..", "."):
        (root / "train" / "c").symlink_to(target)
        with (
            pytest.warns(UserWarning, match="met elsewhere"),
            pytest.raises(ValueError, match="without a picture: .*c"),
        ):
            load(root)
        (root / "train" / "c").unlink()


# --- How large a picture may be ---------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_picture_of_too_many_pixels_is_named_before_it_is_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    Image.new("1", (10, 10)).save(tmp_path / "right.png")
    Image.new("1", (101, 1)).save(tmp_path / "large.png")
    Image.new("1", (50, 50)).save(tmp_path / "\x1b[31m.png")
    assert read_picture(str(tmp_path / "right.png"), 1, deep=True).size == (10, 10)
    monkeypatch.setattr(Image.Image, "load", None)
    with pytest.raises(ValueError, match=r"large.png .*101 x 1 pixels; at most 100 are read.*make it smaller"):
        read_picture(str(tmp_path / "large.png"), 1, deep=True)
    with pytest.raises(ValueError, match=r"x1b\[31m.png cannot be read as a picture .* pixels") as said:
        read_picture(str(tmp_path / "\x1b[31m.png"), 1, deep=True)
    assert len(str(said.value)) < 2000 and str(said.value).isprintable()


def test_who_lifts_the_bound_of_pil_reads_larger_ones(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    Image.new("1", (101, 1)).save(tmp_path / "large.png")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_picture(str(tmp_path / "large.png"), 1, deep=True).size == (101, 1)
