"""Shards: indexed once and read at their place, whatever is torn, missing or compressed in them is named."""

import gzip
import io
import json
import multiprocessing
import tarfile

import pytest
import torch
from picture_sets import write_shard
from PIL import Image
from trainings import kill_at

from zoo.training import Trainer, load_recipe
from zoo.training.data import shards
from zoo.training.data.shards import TornShard, read_samples
from zoo.training.data.web_dataset import WebDataset, expand

PLAIN = {"img_size": 8, "in_chans": 1, "workers": 0, "mean": (0.0,), "std": (1.0,), "crop_pct": 1.0}


def png(level):
    file = io.BytesIO()
    Image.new("L", (8, 8), level).save(file, "PNG")
    return file.getvalue()


def samples(count, begin=0, label=lambda number: str(number % 3)):
    return [(f"{begin + i:05}.png", png(begin + i), label(begin + i).encode()) for i in range(count)]


@pytest.fixture
def root(tmp_path):
    """Three shards of twelve pictures to train on, whose grey is their number, and one to validate on."""
    for number in range(3):
        write_shard(tmp_path / f"train-{number:06}.tar", samples(12, 12 * number))
    write_shard(tmp_path / "val-000000.tar", samples(6))
    return tmp_path


def data(root, pattern="train-*.tar", **options):
    options = {"validation": str(root / "val-*.tar")} | PLAIN | options
    return WebDataset(shards=str(root / pattern), **options)


def test_pictures_go_with_their_labels(root):
    split = data(root).load()["train"]
    assert [split.read(index).getpixel((0, 0)) for index in (35, 0, 13)] == [35, 0, 13]
    assert split.fetch([35, 0, 13], None)[1].tolist() == [2, 0, 1]
    assert split.class_names == ("0", "1", "2") and split.describe(13).endswith("train-000001.tar: 00013")


def test_patterns(root):
    pytest.importorskip("braceexpand")
    assert [path[-9:] for path in expand(str(root / "train-{000000..000002}.tar"))] == [
        f"0000{i}.tar" for i in range(3)
    ]
    assert len(data(root, "train-00000{0,2}.tar").load()["train"]) == 24
    assert len(expand(str(root / "{train,val}-*.tar"))) == 4
    with pytest.raises(FileNotFoundError, match=r"there is no shard .*train-000003.tar"):
        data(root, "train-{000000..000003}.tar").load()
    with pytest.raises(ValueError, match="has braces that are not in pairs"):
        data(root, "train-{000000..000003.tar").load()
    with pytest.raises(FileNotFoundError, match="there is no shard .*nothing"):
        data(root, "nothing-*.tar").load()


@pytest.mark.parametrize("library", [False, True])
def test_what_webdataset_writes_is_read(tmp_path, library):
    """Keys with folders and dots, other members beside, and classes by name."""
    members = [("a/b/one", ".png", png(1)), ("a/b/one", ".cls", b"dog"), ("a/b/one", ".mask.png", png(9))]
    members += [("a/c/one", ".cls", b"cat\n"), ("a/c/one", ".txt", b"text"), ("a/c/one", ".PNG", png(2))]
    if library:
        webdataset = pytest.importorskip("webdataset")
        with webdataset.TarWriter(str(tmp_path / "train-0.tar"), encoder=False) as writer:
            for key in ("a/b/one", "a/c/one"):
                writer.write({"__key__": key} | {end[1:]: content for name, end, content in members if name == key})
    else:
        with tarfile.open(tmp_path / "train-0.tar", "w") as archive:
            folder = tarfile.TarInfo("a")
            folder.type = tarfile.DIRTYPE
            archive.addfile(folder)
            archive.addfile(tarfile.TarInfo("a/b/._one.png"))
            for key, ending, content in members:
                entry = tarfile.TarInfo(key + ending)
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
    split = data(tmp_path, validation=str(tmp_path / "train-0.tar")).load()["train"]
    assert split.class_names == ("cat", "dog") and split.part.labels.tolist() == [1, 0]
    assert [split.read(i).getpixel((0, 0)) for i in range(2)] == [1, 2]


def test_classes_in_json(tmp_path):
    facts = lambda number: json.dumps({"label": number % 2, "tags": ["x", "y"][: number % 3]})
    write_shard(tmp_path / "train-0.tar", samples(6, label=facts), "json")
    whole = str(tmp_path / "train-0.tar")
    split = data(tmp_path, validation=whole, label="label", classes=("no", "yes")).load()["train"]
    assert split.class_names == ("no", "yes") and split.part.labels.tolist() == [0, 1] * 3
    tags = data(tmp_path, validation=whole, label="tags").load()["train"]
    assert tags.kind == "labels" and tags.part.labels.tolist() == [[0, 0], [1, 0], [1, 1]] * 2
    with pytest.raises(ValueError, match="the key 'labl' is unknown; did you mean 'label'"):
        data(tmp_path, validation=whole, label="labl").load()
    with pytest.raises(ValueError, match="'00000' has no member .cls among .*name a key of .json as data.label"):
        data(tmp_path, validation=whole).load()
    with pytest.raises(ValueError, match="validation has labels that are no class|train has labels that are no class"):
        data(tmp_path, validation=whole, label="label", classes=("no",)).load()


CUTS = {"in a picture": 700, "in a header": 9 * 512 + 100, "between two": 4 * 512, "its end mark": -1, "at once": 0}


@pytest.mark.parametrize("cut", CUTS)
def test_a_torn_shard_is_named(root, cut):
    path = root / "train-000001.tar"
    content = path.read_bytes()
    end = content.rstrip(b"\0")
    length = -(-len(end) // 512) * 512 if cut == "its end mark" else CUTS[cut]
    path.write_bytes(content[:length])
    with pytest.raises(ValueError, match=r"the shard .*train-000001.tar is torn or damaged .*: fetch it again") as said:
        data(root).load()
    assert len(str(said.value)) < 2000
    with pytest.warns(UserWarning, match="train-000001.tar is torn .*what is whole of it is used"):
        split = data(root, unreadable="skip").load()["train"]
    assert 24 <= len(split) < 36
    numbers = [split.read(index).getpixel((0, 0)) for index in range(len(split))]
    assert [number % 3 for number in numbers] == split.part.labels.tolist()
    assert numbers[:12] == [*range(12)] and numbers[-12:] == [*range(24, 36)]


@pytest.mark.filterwarnings("ignore:.*what is whole|data.workers")
def test_large_shards_are_indexed_at_once_and_in_their_order(root, monkeypatch):
    path = root / "train-000001.tar"
    path.write_bytes(path.read_bytes()[:9000])
    alone = data(root, unreadable="skip").load()["train"]
    monkeypatch.setattr(shards, "LARGE", 0)
    split = data(root, unreadable="skip", workers=2).load()["train"]
    assert [split.describe(i) for i in range(len(split))] == [alone.describe(i) for i in range(len(alone))]
    assert torch.equal(split.part.labels, alone.part.labels) and split.read(27).tobytes() == alone.read(27).tobytes()
    with pytest.raises(TornShard, match="train-000001.tar is torn"):
        data(root, workers=2).load()


def test_damaged_and_compressed_shards_and_what_changes_later(root):
    path = root / "train-000001.tar"
    content = path.read_bytes()
    path.write_bytes(content[:1024] + b"x" * 512 + content[1536:])
    with pytest.raises(TornShard, match="torn or damaged"):
        data(root).load()
    path.write_bytes(gzip.compress(content))
    with pytest.raises(TornShard, match="train-000001.tar is compressed, .*gunzip it"):
        data(root).load()
    path.write_bytes(content)
    split = data(root).load()["train"]
    path.write_bytes(content[:600])
    with pytest.raises(ValueError, match="train-000001.tar: 00013 ends too early"):
        split.fetch([13], None)


def test_samples_that_lack_something(root):
    write_shard(root / "more-0.tar", [*samples(3), ("lone.png", None, b"1")])
    with pytest.raises(ValueError, match="the sample 'lone' has no picture among cls: remove it"):
        data(root, "more-0.tar").load()
    assert len(data(root, "more-0.tar", unreadable="skip").load()["train"]) == 4
    write_shard(root / "more-1.tar", [("lone.png", png(1), b"")])
    with pytest.raises(ValueError, match="the sample 'lone': its class is ''; it must be a number or a name"):
        data(root, "more-1.tar").load()
    write_shard(root / "more-2.tar", [("a.png", png(1), b"1"), ("b.png", png(1), b"dog")])
    with pytest.raises(ValueError, match="some labels are numbers and others names"):
        data(root, "more-2.tar").load()
    write_shard(root / "more-3.tar", [])
    with pytest.raises(ValueError, match="there is no sample in these shards"):
        data(root, "more-3.tar").load()
    assert list(read_samples(str(root / "more-3.tar"), frozenset())) == []


def read_all(split, numbers, answers):
    answers.put([split.read(number).getpixel((0, 0)) for number in numbers])


def test_processes_that_were_forked_read_at_once(root):
    split = data(root).load()["train"]
    split.read(0)
    context = multiprocessing.get_context("fork")
    answers, orders = context.Queue(), [list(range(36)), list(range(36))[::-1]]
    children = [context.Process(target=read_all, args=(split, 20 * order, answers)) for order in orders]
    for child in children:
        child.start()
    found = [answers.get(timeout=60) for _ in children]
    for child in children:
        child.join()
    assert sorted(found) == sorted(20 * order for order in orders)


@pytest.mark.filterwarnings("ignore:data.workers")
def test_a_run_on_shards_goes_on_where_it_was(root, tmp_path):
    recipe = load_recipe(
        "recipes/mixer_digits.yaml",
        [
            "model={name: mixer_test, kwargs: {img_size: 8, patch_size: 4, in_chans: 1, num_classes: 3, depth: 1}}",
            f"data={{name: webdataset, shards: '{root}/train-*.tar', validation: '{root}/val-*.tar', img_size: 8}}",
            *("data.workers=2", "train.batch_size=6", "train.duration=9st", "schedule.warmup=1st"),
            *("train.checkpoint_every=4st", "train.eval_every=9st", "expect.metric=validation/top1"),
        ],
    )
    whole = Trainer(recipe, tmp_path / "whole").run()
    kill_at(Trainer(recipe, tmp_path / "stopped"), 6)
    resumed = Trainer(recipe, tmp_path / "stopped")
    assert resumed.step == 4 and resumed.run() == whole
