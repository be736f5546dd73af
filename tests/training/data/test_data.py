"""Data: fixed splits, and batches that depend on the seed and the step alone."""

import io
import random
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from zoo.training import RecipeError, Trainer, load_recipe
from zoo.training.data.batches import EvaluationBatches, TrainingBatches, loader
from zoo.training.data.digits import Digits
from zoo.training.data.image_folder import ImageFolder
from zoo.training.data.splits import random_affine
from zoo.training.recipe.recipe import differences, dump_recipe
from zoo.training.tasks.classify import Classify
from zoo.training.tasks.denoise import Denoise


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


def test_fewer_training_images_are_some_of_them_with_every_class_as_often(digits):
    few = Digits(images=100).load()
    assert torch.bincount(few["train"].labels).tolist() == [10] * 10
    assert identities(few["train"]) < identities(digits["train"])
    assert identities(few["validation"]) == identities(digits["validation"])


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
    with pytest.raises(ValueError, match=r"val has classes that .*train has not: dog"):
        ImageFolder(root=str(folder)).load()


def test_image_folder_without_its_parts(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"must hold train/<class>/ and validation/<class>/"):
        ImageFolder(root=str(tmp_path)).load()


# --- What is in a file ------------------------------------------------------------------------------------------------

VALUES = np.random.default_rng(1).integers(0, 65536, (16, 16)).astype(np.uint16)
PLAIN = {"img_size": 16, "crop_pct": 1.0, "workers": 0}  # a picture of 16x16 pixels arrives as it is


def saved(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def png(values):
    """A PNG of 16 bits a sample with 1 to 4 channels, (H, W, C), of which PIL writes only those with one."""

    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    height, width, channels = values.shape
    head = struct.pack(">IIBBBBB", width, height, 16, {1: 0, 2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def tiff(content, bits, photometric):
    """A grey TIFF of 16x16 samples; photometric 0: the largest is black."""
    tags = {256: 16, 257: 16, 258: bits, 259: 1, 262: photometric, 273: 10 + 12 * 9 + 4, 277: 1, 278: 16}
    tags[279] = len(content)
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + struct.pack("<I", 0) + content


def packed(values):
    """Two samples of 12 bits in three bytes."""
    a, b = values[:, ::2].ravel(), values[:, 1::2].ravel()
    return np.stack([a >> 4, (a & 15) << 4 | b >> 8, b & 255], 1).astype(np.uint8).tobytes()


UNIT = VALUES / 65535
BIG_ENDIAN = Image.frombytes("I;16B", (16, 16), VALUES.astype(">u2").tobytes())
DEEP = {
    "png": (saved(Image.fromarray(VALUES), "PNG"), UNIT),
    "tiff": (saved(Image.fromarray(VALUES), "TIFF"), UNIT),
    "big endian tiff": (saved(BIG_ENDIAN, "TIFF"), UNIT),
    "tiff with black as the largest": (tiff(VALUES.astype("<u2").tobytes(), 16, 0), 1 - UNIT),
    "tiff of 12 bits": (tiff(packed(VALUES >> 4), 12, 1), (VALUES >> 4) / 4095),
    "pgm, which PIL gives as I": (saved(Image.fromarray(VALUES), "PPM"), UNIT),
    "tiff of mode I": (saved(Image.fromarray(VALUES.astype(np.int32)), "TIFF"), UNIT),
    "tiff of floats": (saved(Image.fromarray(UNIT.astype(np.float32)), "TIFF"), UNIT),
}


@pytest.fixture
def one(tmp_path):
    """Makes the splits of a folder whose only picture is made of these bytes; without normalisation."""

    def make(content, in_chans=1, suffix="png", **options):
        for part in ("train", "validation"):
            (tmp_path / part / "a").mkdir(parents=True, exist_ok=True)
            (tmp_path / part / "a" / f"only.{suffix}").write_bytes(content)
        plain = {"mean": (0.0,) * in_chans, "std": (1.0,) * in_chans}
        return ImageFolder(root=str(tmp_path), **PLAIN | plain | {"in_chans": in_chans} | options).load()

    return make


@pytest.mark.parametrize("in_chans", [1, 3])
@pytest.mark.parametrize("kind", DEEP)
def test_deep_pictures_are_scaled_by_the_range_of_their_type(one, kind, in_chans):
    content, expected = DEEP[kind]
    image = one(content, in_chans)["validation"].fetch([0], None)[0]
    assert image.shape == (1, in_chans, 16, 16) and image.dtype == torch.float32
    assert torch.allclose(image[0], torch.from_numpy(expected).float().expand(in_chans, -1, -1), atol=1e-6)
    rounded = one(content, in_chans, auto_augment="original")["validation"].fetch([0], None)[0]
    assert (rounded * 255 - (rounded * 255).round()).abs().max() < 1e-4, "timm's policies take 8 bits"
    assert (rounded - image).abs().max() <= 0.5 / 255 + 1e-6


@pytest.mark.parametrize("channels", [2, 3, 4])
def test_colours_of_16_bits_keep_their_range(one, channels):
    values = np.stack([VALUES, VALUES // 2, VALUES // 3, VALUES][:channels], -1)
    image = one(png(values), 3)["validation"].fetch([0], None)[0][0]
    expected = values[..., [0, 0, 0]] if channels == 2 else values[..., :3]
    assert (image - torch.from_numpy(expected / 65535).movedim(-1, 0)).abs().max() < 1 / 255


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB"])
@pytest.mark.parametrize("in_chans", [1, 3])
@pytest.mark.filterwarnings("error")
def test_pictures_of_8_bits_are_what_pil_makes_of_them(one, mode, in_chans):
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    image, kind, options = Image.fromarray(pixels), "TIFF", {}
    if mode == "LAB":
        image = Image.frombytes("LAB", (16, 16), image.tobytes())
    elif mode == "P":  # several entries of the palette are transparent
        image, kind, options = image.quantize(8), "PNG", {"transparency": bytes([0, 99] * 4)}
    else:
        image = image.convert(mode)
    found = one(saved(image, kind, **options), in_chans)["validation"].fetch([0], None)[0][0]
    expected = image.convert("RGB") if mode == "LAB" else image
    expected = np.asarray(expected.convert("L" if in_chans == 1 else "RGB"), np.float32).reshape(16, 16, in_chans) / 255
    assert torch.allclose(found, torch.from_numpy(expected).movedim(-1, 0))


@pytest.mark.parametrize("in_chans", [1, 3])
def test_a_deep_picture_is_augmented_as_one_of_8_bits(one, in_chans):
    """The same crop, flip and jitter of the same seed, and the same normalisation, of a smooth picture."""
    y, x = np.mgrid[:16, :16] / 15
    eight = np.uint8(255 * (0.2 + 0.5 * x + 0.3 * y * (1 - x)))
    options = {"mean": (0.4,) * in_chans, "std": (0.2,) * in_chans, "re_prob": 0.5}
    shallow = one(saved(Image.fromarray(eight), "PNG"), in_chans, **options)["train"]
    expected = [shallow.fetch([0], seed)[0] for seed in range(20)]
    deep = one(saved(Image.fromarray(eight * np.uint16(257)), "PNG"), in_chans, **options)["train"]
    found = [deep.fetch([0], seed)[0] for seed in range(20)]
    assert all((a - b).abs().max() * 0.2 < 4 / 255 for a, b in zip(expected, found, strict=True))
    assert len({image.numpy().tobytes() for image in found}) == 20


def test_deep_pictures_keep_more_than_8_bits_and_stay_within_their_range(one):
    dark = (VALUES >> 8).astype(np.uint16)  # 256 values that 8 bits would all make black
    split = one(saved(Image.fromarray(dark), "PNG"))["validation"]
    assert len(split.fetch([0], None)[0].unique()) > 100
    edges = np.kron(np.random.default_rng(0).integers(0, 2, (8, 8)), np.full((4, 4), 65535)).astype(np.uint16)
    resized = one(saved(Image.fromarray(edges), "PNG"))["validation"].fetch([0], None)[0]
    assert resized.min() == 0 and resized.max() == 1, "bicubic curves leave the range"


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF"])
@pytest.mark.parametrize("deep", [False, True])
def test_pictures_stand_the_way_up_that_they_say(one, kind, deep):
    if deep and kind == "JPEG":
        pytest.skip("JPEG has 8 bits")
    pixels = np.zeros((16, 16), np.uint16 if deep else np.uint8)
    pixels[:8] = 65535 if deep else 255
    exif = Image.Exif()
    exif[274] = 6  # to be turned clockwise by 90 degrees
    image = one(saved(Image.fromarray(pixels), kind, exif=exif))["validation"].fetch([0], None)[0][0, 0]
    assert image[:, 8:].min() > 0.9 and image[:, :8].max() < 0.1


def truncated_png():
    return saved(Image.fromarray(VALUES), "PNG")[:300]


BROKEN = {
    "truncated png": (truncated_png, "truncated|broken"),
    "truncated jpeg": (
        lambda: saved(Image.fromarray(VALUES).convert("RGB").resize((99, 99)), "JPEG")[:-400],
        "truncated",
    ),
    "garbage": (lambda: b"no picture at all", "cannot identify"),
    "empty": (lambda: b"", "cannot identify"),
    "floats of another range": (
        lambda: saved(Image.fromarray(np.float32([[0, 300]])), "TIFF"),
        "its values go from 0 to 300, where 0 to 1 is expected of PIL's mode F",
    ),
    "not a number": (
        lambda: saved(Image.fromarray(np.float32([[0, np.nan]])), "TIFF"),
        "its values go from nan to nan",
    ),
    "signed": (lambda: saved(Image.fromarray(np.int32([[-5, 9]])), "TIFF"), "its values go from -5 to 9"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_file_that_cannot_be_read_is_named(one, kind):
    content, reason = BROKEN[kind]
    splits = one(content())
    with pytest.raises(ValueError, match=rf"(?i)validation/a/only.png cannot be read as a picture .*({reason})"):
        splits["validation"].fetch([0], None)
    with pytest.raises(ValueError, match="train/a/only.png cannot be read as a picture"):
        splits["train"].fetch([0], 0)


def test_a_file_that_cannot_be_read_is_named_by_a_worker_too(one):
    split = one(b"no picture", workers=1)["train"]
    with pytest.raises(ValueError, match="train/a/only.png cannot be read as a picture"):
        list(loader(TrainingBatches(split, Classify(), batch_size=1, seed=0), range(1)))


# --- What is in a folder ----------------------------------------------------------------------------------------------


def counts(root, **options):
    """Pictures of each class, by part."""
    splits = ImageFolder(root=str(root), in_chans=3, **options).load()
    return {part: np.bincount([label for _, label in split.samples]).tolist() for part, split in splits.items()}


def test_suffixes_and_deeper_folders(folder):
    train = folder / "train"
    (train / "ant" / "0.png").rename(train / "ant" / "0.PNG")
    for suffix in ("tif", "TIFF", "bmp", "webp", "gif", "JPG"):
        Image.new("RGB", (4, 4)).save(train / "bee" / f"more.{suffix}")
    (train / "cat" / "2019" / "ant").mkdir(parents=True)  # the class is the first folder, not the last
    (train / "cat" / "0.png").rename(train / "cat" / "2019" / "ant" / "0.png")
    assert counts(folder) == {"train": [6, 12, 6], "validation": [2, 2, 2]}


@pytest.mark.filterwarnings("error")
def test_what_tools_leave_behind_is_passed_over(folder):
    (folder / "train" / ".ipynb_checkpoints").mkdir()
    for name in (".DS_Store", "ant/.DS_Store", "ant/._0.png"):
        (folder / "train" / name).write_bytes(b"")
    assert counts(folder)["train"] == [6, 6, 6]


def test_other_files_are_left_out_with_a_warning(folder):
    for name in ("list.csv", "ant/notes.txt", "bee/more.txt", "bee/README"):
        (folder / "train" / name).write_text("text")
    with pytest.warns(
        UserWarning, match="train: files that are left out.* 2 .txt, 1 in no class folder|1 without suffix"
    ):
        assert counts(folder)["train"] == [6, 6, 6]


def test_parts_and_classes_without_pictures_are_refused(folder):
    (folder / "train" / "dog").mkdir()
    with pytest.raises(ValueError, match=r"train has classes without a picture: dog; fill them or remove them"):
        counts(folder)
    (folder / "train" / "dog").rmdir()
    (folder / "test" / "ant").mkdir(parents=True)
    with pytest.raises(ValueError, match="test has no picture in its class folders"):
        counts(folder)
    (folder / "validation").mkdir()
    with pytest.raises(ValueError, match="holds both val/ and validation/: remove or rename one"):
        counts(folder)


def test_links_between_parts_and_classes(folder):
    train, val = folder / "train", folder / "val"
    (train / "ant" / "again.png").symlink_to(train / "ant" / "0.png")  # twice as often is no mistake
    assert counts(folder)["train"] == [7, 6, 6]
    (val / "ant" / "seen.png").symlink_to(train / "ant" / "1.png")
    (val / "bee" / "more").symlink_to(train / "bee")
    with pytest.warns(UserWarning, match="7 pictures of 'validation' are links to those of 'train'"):
        assert counts(folder)["validation"] == [3, 8, 2]
    (train / "cat" / "bee.png").symlink_to(train / "bee" / "3.png")
    with pytest.raises(ValueError, match=r"bee/3.png and .*cat/bee.png are one file under two classes"):
        counts(folder)


# --- Channels ---------------------------------------------------------------------------------------------------------

POLICIES = ["rand-m9-mstd0.5-inc1", "rand-m2-n4", "augmix-m9-w3-d2", "original", "originalr", "v0", "v0r", "3a"]


@pytest.mark.parametrize("in_chans", [1, 3])
@pytest.mark.parametrize("policy", POLICIES)
def test_every_policy_takes_grey_and_rgb(policy, in_chans):
    """Among them those that would posterise to no bits, which Pillow refuses."""
    transform = ImageFolder(root="", img_size=8, in_chans=in_chans, auto_augment=policy)._transform("train")
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 9, 3), dtype=np.uint8))
    image = image.convert("L") if in_chans == 1 else image
    for seed in range(150):
        random.seed(seed)
        assert transform(image).shape == (in_chans, 8, 8)


def test_defaults_of_mean_and_std_follow_the_channels():
    grey, rgb = ImageFolder(root="", in_chans=1), ImageFolder(root="", in_chans=3)
    assert (grey.mean, grey.std) == ((0.449,), (0.226,))
    assert (rgb.mean, rgb.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert ImageFolder(root="", mean=(0.5,)) == ImageFolder(root="", in_chans=1, mean=(0.5,), std=grey.std)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("in_chans: 1, mean: [0.5, 0.5, 0.5]", "mean has 3 numbers, in_chans is 1: give a number a channel"),
        ("mean: [0.5], std: [0.5, 0.5, 0.5]", "std has 3 numbers, in_chans is 1"),
        ("in_chans: 4", r"data.in_chans: expected one of 1, 3, got '4'"),
        ("mean: []", r"mean has 0 numbers: it must have 1 \(grey\) or 3"),
        ("std: [0]", r"data.std\[0\] is 0.0; it must be from 1e-06 to 1000"),
        ("crop_pct: 0", "data.crop_pct is 0.0; it must be above 0 and at most 1"),
        ("hflip: 2", "data.hflip is 2.0; it must be from 0 to 1"),
        ("img_size: 0", "data.img_size is 0; it must be from 1 to 8192"),
        ("interpolation: cubic", "data.interpolation: expected one of nearest, bilinear, bicubic, box"),
        ("auto_augment: rnd-m9", "auto_augment is 'rnd-m9', which cannot be had .*such as rand-m9-mstd0.5"),
    ],
)
def test_options_that_do_not_go_together(options, message):
    with pytest.raises(RecipeError, match=message):
        load_recipe("recipes/mixer_digits.yaml", [f"data={{name: image_folder, root: x, {options}}}"])


def recipe(root, kwargs, *overrides, options=""):
    return load_recipe(
        "recipes/mixer_digits.yaml",
        [
            f"model={{name: mixer_test, kwargs: {{img_size: 16, patch_size: 8, num_classes: 3, {kwargs}}}}}",
            f"data={{name: image_folder, root: {root}, img_size: 16, workers: 0, {options}}}",
            *("train.batch_size=6", "train.duration=2st", "schedule.warmup=1st", "train.checkpoint_every=1st"),
            "expect.metric=validation/top1",
            *overrides,
        ],
    )


@pytest.mark.parametrize(
    ("kwargs", "options", "channels"),
    [
        ("", "", 3),
        ("in_chans: 1", "", 1),
        ("in_chans: 1", "mean: [0.3]", 1),
        ("in_chans: 1", "in_chans: 1", 1),
        ("in_chans: 3", "std: [1, 1, 1]", 3),
    ],
)
def test_a_recipe_trains_on_grey_and_on_rgb(folder, tmp_path, kwargs, options, channels):
    made = recipe(folder, kwargs, options=options)
    assert made.data.in_chans == len(made.data.mean) == len(made.data.std) == channels
    (tmp_path / "resolved.yaml").write_text(dump_recipe(made), "utf-8")
    assert not differences(load_recipe(tmp_path / "resolved.yaml"), made)
    trainer = Trainer(made, tmp_path / "run")
    trainer.fit()
    assert trainer.batches[0][0].shape == (6, channels, 16, 16)


def test_a_run_from_before_in_chans_goes_on(folder, tmp_path):
    (tmp_path / "old.yaml").write_text(dump_recipe(recipe(folder, "")).replace("  in_chans: 3\n", ""), "utf-8")
    assert not differences(load_recipe(tmp_path / "old.yaml"), recipe(folder, ""))


@pytest.mark.parametrize(
    ("kwargs", "options", "model", "data"), [("in_chans: 3", "in_chans: 1", 3, 1), ("in_chans: 1", "in_chans: 3", 1, 3)]
)
def test_other_channels_than_the_model_takes_are_refused_before_the_first_step(
    folder, tmp_path, kwargs, options, model, data
):
    message = (
        rf"the model takes images of {model} channels, those of the data have {data}: set model.kwargs.in_chans={data}"
    )
    with pytest.raises(ValueError, match=rf"{message}, or data.in_chans={model} of an image_folder"):
        Trainer(recipe(folder, kwargs, options=options), tmp_path / "run")
    with pytest.raises(ValueError, match=r"takes images of 3 channels, those of the data have 1"):
        Trainer(load_recipe("recipes/mixer_digits.yaml", ["model.kwargs.in_chans=3"]), tmp_path / "digits")
    with pytest.raises(ValueError, match=r"takes images of 3 channels, those of the data have 1"):
        Trainer(load_recipe("recipes/segment_digits.yaml", ["model.kwargs.in_chans=3"]), tmp_path / "canvas")


@pytest.mark.parametrize("odd", ["empty", "unknown"])
def test_of_many_odd_classes_the_first_are_named(tmp_path, odd):
    for part in ("train", "validation"):
        (tmp_path / part / "0").mkdir(parents=True)
        Image.new("L", (8, 8)).save(tmp_path / part / "0" / "0.png")
    for number in range(400):
        (tmp_path / ("train" if odd == "empty" else "validation") / f"class\x1b{number:03}").mkdir()
    with pytest.raises(ValueError, match=r"class\\x1b000, class\\x1b001, .*… \(400 in all\)") as said:
        ImageFolder(str(tmp_path)).load()
    assert len(str(said.value)) < 2000 and "\x1b" not in str(said.value)
