"""Worker processes: no more than there are cores, and kept from one evaluation to the next where one asks for it."""

import multiprocessing
import os
import signal
import warnings

import pytest
import torch

from zoo.training import load_recipe
from zoo.training.data import workers
from zoo.training.data.batches import EvaluationBatches, TrainingBatches, loader, waiting_workers
from zoo.training.data.splits import TensorSplit
from zoo.training.data.workers import available_cores, worker_count
from zoo.training.recipe.recipe import differences
from zoo.training.tasks.classify import Classify


@pytest.mark.parametrize(
    ("asked", "cores", "beside", "count"),
    [(None, 1, "1", 1), (None, 2, "1", 2), (None, 64, "1", 4), (0, 2, "1", 0), (3, 8, "1", 3), (None, 8, "4", 2)],
)
def test_no_more_than_there_are_cores(monkeypatch, asked, cores, beside, count):
    monkeypatch.setattr(workers, "available_cores", lambda: cores)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", beside)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert worker_count(asked) == count


def test_who_asks_for_more_is_told(monkeypatch):
    monkeypatch.setattr(workers, "available_cores", lambda: 2)
    with pytest.warns(UserWarning, match="data.workers is 16: 2 are started, as many as there are cores"):
        assert worker_count(16) == 2


def test_cores_are_those_that_the_process_is_bound_to():
    assert 1 <= available_cores() <= (os.cpu_count() or 1)


def test_two_recipes_that_differ_in_workers_train_the_same():
    recipes = [
        load_recipe("recipes/mixer_digits.yaml", [f"data={{name: image_folder, root: x, workers: {count}}}"])
        for count in ("4", "null")
    ]
    assert not differences(*recipes)


class Reporting(TensorSplit):
    """Has in place of each image the number of the process that fetched it."""

    workers = 2

    def fetch(self, indices, seed):
        images, labels = super().fetch(indices, seed)
        return torch.full_like(images, os.getpid(), dtype=torch.float64), labels


def processes(split, **options):
    batches = EvaluationBatches(split, Classify(), **{"batch_size": 2, "seed": 0} | options)
    return {int(number) for inputs, _, _ in loader(batches, range(len(batches))) for number in inputs.unique()}


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_they_fetch_for_a_whole_training():
    batches = TrainingBatches(
        Reporting(torch.zeros(8, 1, 2, 2), torch.zeros(8).long(), num_classes=2), Classify(), batch_size=4, seed=0
    )
    assert batches.steps_per_epoch == 2
    assert len({int(number) for images, _ in loader(batches, range(9)) for number in images.unique()}) == 2


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_they_wait_for_the_next_evaluation_within_a_context():
    split = Reporting(torch.zeros(8, 1, 2, 2), torch.zeros(8, dtype=torch.long), num_classes=2)
    assert not processes(split) & processes(split)
    with waiting_workers():
        first = processes(split)
        assert len(first) == 2 and processes(split) == first
        assert not processes(split, batch_size=4) & first and processes(split) == first
        assert not processes(Reporting(split.images, split.labels, num_classes=2)) & first
        left = loader(EvaluationBatches(split, Classify(), batch_size=2, seed=0), range(4))
        next(left)
        left.close()
        assert not processes(split) & first, "of an evaluation that was not finished nothing is kept"
    assert all(not os.path.exists(f"/proc/{number}") for number in first)


def test_a_signal_to_all_processes_lets_the_readers_finish_what_the_training_waits_for():
    split = Reporting(torch.zeros(64, 1, 2, 2), torch.zeros(64, dtype=torch.long), num_classes=2)
    batches = EvaluationBatches(split, Classify(), batch_size=2, seed=0)
    before = set(multiprocessing.active_children())
    fetched = loader(batches, range(len(batches)))
    next(fetched), next(fetched)  # of either reader, so both have begun
    for reader in set(multiprocessing.active_children()) - before:
        os.kill(reader.pid, signal.SIGTERM)
    assert len(list(fetched)) == len(batches) - 2
