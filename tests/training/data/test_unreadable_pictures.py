"""Pictures that cannot be read: an error with the path, or left out and counted where the recipe says so."""

import errno
import os
import warnings

import pytest
import torch
from PIL import Image
from trainings import kill_at

from zoo.training import Trainer, evaluate, load_recipe
from zoo.training.data.batches import EvaluationBatches, TrainingBatches, loader
from zoo.training.data.image_folder import ImageFolder
from zoo.training.data.pictures import read_picture
from zoo.training.data.splits import TensorSplit
from zoo.training.evaluation import show
from zoo.training.runs.records import read_records
from zoo.training.tasks.classify import Classify

PARTS = ("train", "validation", "test")


@pytest.fixture
def root(tmp_path):
    """Twelve pictures a part, of two classes; the second of class a cannot be read."""
    for part in PARTS:
        for name, level in (("a", 30), ("b", 220)):
            folder = tmp_path / "data" / part / name
            folder.mkdir(parents=True)
            for number in range(6):
                Image.new("L", (8, 8), level + number).save(folder / f"{number}.png")
        (tmp_path / "data" / part / "a" / "1.png").write_bytes(b"no picture")
    return tmp_path / "data"


@pytest.fixture
def make_recipe(root, tmp_path):
    (tmp_path / "tiny.yaml").write_text(
        f"""\
task: {{name: classify}}
model: {{name: mixer_test, kwargs: {{img_size: 8, patch_size: 4, in_chans: 1, num_classes: 2, depth: 1}}}}
data: {{name: image_folder, root: '{root}', img_size: 8, in_chans: 1, crop_pct: 1.0, workers: 0}}
train: {{duration: 9st, batch_size: 4, eval_every: 3st, checkpoint_every: 3st, log_every: 1st, threads: 1}}
optim: {{name: adamw, lr: 1e-3, weight_decay: 0.05}}
schedule: {{name: constant}}
expect: {{metric: test/top1, status: untested}}
"""
    )
    return lambda *overrides: load_recipe(tmp_path / "tiny.yaml", overrides)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("part", PARTS)
def test_it_is_an_error_with_its_path_in_every_part(make_recipe, root, tmp_path, part, workers):
    for other in PARTS:
        if other != part:
            Image.new("L", (8, 8), 40).save(root / other / "a" / "1.png")
    trainer = Trainer(make_recipe(f"data.workers={workers}"), tmp_path / "run")
    with pytest.raises(ValueError, match=rf"data/{part}/a/1.png cannot be read as a picture .*: repair it") as said:
        trainer.run()
    assert len(str(said.value)) < 500 and "Traceback" not in str(said.value)


def test_left_out_it_is_counted_and_not_measured(make_recipe, root, tmp_path):
    recipe = make_recipe("data.unreadable=skip")
    with pytest.warns(
        UserWarning, match="test/a/1.png cannot be read .*; it is left out, since data.unreadable is skip"
    ):
        trainer = Trainer(recipe, tmp_path / "run")
        metrics = trainer.run()
    assert metrics["test/images"] == 11 and metrics["test/unreadable"] == 1 and "images 11" in show(metrics)
    records = read_records(tmp_path / "run" / "metrics.jsonl")
    counts = [record["unreadable"] for record in records if "loss" in record]
    assert counts == sorted(counts) and counts[-1] == 3, "once in each of three epochs"
    assert all(record["validation/images"] == 11 for record in records if "validation/top1" in record)
    for part in PARTS:
        (root / part / "a" / "1.png").unlink()
    whole = evaluate(trainer.model, make_recipe(), make_recipe().data.load()["test"])
    assert {f"test/{name}": value for name, value in whole.items()} == pytest.approx(
        {name: value for name, value in metrics.items() if name not in ("test/images", "test/unreadable")}
    )


@pytest.mark.filterwarnings("ignore:.*left out")
def test_the_count_survives_a_kill(make_recipe, tmp_path):
    recipe = make_recipe("data.unreadable=skip")
    whole = Trainer(recipe, tmp_path / "whole").run()
    kill_at(Trainer(recipe, tmp_path / "killed"), 7)
    resumed = Trainer(recipe, tmp_path / "killed")
    assert resumed.step == 6 and resumed.run() == whole
    assert read_records(tmp_path / "killed" / "metrics.jsonl") == read_records(tmp_path / "whole" / "metrics.jsonl")


@pytest.mark.filterwarnings("ignore:.*left out")
@pytest.mark.parametrize("world", [1, 2, 3])
def test_batches_are_shorter_in_training_and_of_even_number_in_evaluation(make_recipe, world):
    splits = make_recipe("data.unreadable=skip").data.load()
    rank = {"seed": 0, "world": world}
    shares = [TrainingBatches(splits["train"], Classify(), batch_size=12, rank=r, **rank) for r in range(world)]
    assert sum(len(share[0][0]) for share in shares) == 11 and all(share.share == 12 // world for share in shares)
    parts = [EvaluationBatches(splits["test"], Classify(), batch_size=2, rank=r, **rank) for r in range(world)]
    assert len({len(part) for part in parts}) == 1
    batches = [batch for part in parts for batch in loader(part, range(len(part)))]
    assert sum(counts.sum() for _, _, counts in batches) == 11
    assert all(torch.isfinite(inputs).all() and len(inputs) == len(counts) for inputs, _, counts in batches)


@pytest.mark.filterwarnings("ignore:.*left out")
def test_nothing_that_can_be_read_is_an_error(make_recipe, root, tmp_path):
    for path in root.glob("*/*/*.png"):
        path.write_bytes(b"")
    trainer = Trainer(make_recipe("data.unreadable=skip"), tmp_path / "run")
    with pytest.raises(ValueError, match="none of the pictures of step 1 can be read"):
        trainer.run()
    with pytest.raises(ValueError, match="none of the pictures to measure on can be read"):
        trainer.evaluate("test")


def test_a_recipe_says_error_or_skip(make_recipe):
    assert make_recipe().data.unreadable == "error"
    with pytest.raises(ValueError, match="data.unreadable: expected one of error, skip"):
        make_recipe("data.unreadable=ignore")


@pytest.mark.parametrize("in_chans", [1, 3])
@pytest.mark.filterwarnings("ignore:.*left out")
def test_what_stands_for_it_has_the_shape_of_the_others(root, in_chans):
    options = {"img_size": 16, "in_chans": in_chans, "unreadable": "skip"}
    split = ImageFolder(str(root), auto_augment="rand-m9-mstd0.5", re_prob=0.5, **options).load()["train"]
    images, labels, readable = split.fetch_readable([0, 1, 2], 0)
    assert images.shape == (3, in_chans, 16, 16) and labels.tolist() == [0, 0, 0]
    assert readable.tolist() == [True, False, True]


def test_what_is_no_file_is_named_and_what_a_terminal_would_obey_escaped(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")  # nobody writes into it: opening it would never end
    (tmp_path / "link.png").symlink_to(tmp_path / "nothing.png")
    (tmp_path / "a\x1b[31m.png").write_bytes(b"")
    for name, said in (("pipe.png", "it is no file"), ("link.png", "No such file"), ("a\x1b[31m.png", r"a\\x1b\[31m")):
        with pytest.raises(ValueError, match=said) as error, warnings.catch_warnings():
            warnings.simplefilter("error")
            read_picture(str(tmp_path / name), 3, deep=False)
        assert "\x1b" not in str(error.value) and "cannot be read as a picture" in str(error.value)


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOMEM, None])
@pytest.mark.parametrize("unreadable", ["skip", "error"])
def test_a_machine_that_is_short_of_something_costs_no_good_picture(root, monkeypatch, number, unreadable):
    split = ImageFolder(str(root), img_size=8, in_chans=1, unreadable=unreadable, workers=0).load()["train"]

    def short(*args, **kwargs):
        raise MemoryError if number is None else OSError(number, os.strerror(number))

    monkeypatch.setattr(Image, "open", short)
    kind = MemoryError if number is None else OSError
    with pytest.raises(kind, match=r"a/0\.png.*the picture may be good") as said:
        split.fetch_readable([0], None)
    assert getattr(said.value, "errno", None) == number


def test_a_split_that_inherits_reads_all():
    split = TensorSplit(torch.zeros(3, 1, 2, 2), torch.arange(3), num_classes=3)
    images, labels, readable = split.fetch_readable([2, 0], None)
    assert labels.tolist() == [2, 0] and readable.tolist() == [True, True] and not split.skip and split.workers == 0
