"""What the tests of saving share: models of each kind, processes of their own, kills at every instant."""

import itertools
import multiprocessing
import os
import signal
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from conftest import randomised

import zoo
from zoo.training import Classifier, Dense, MultiTask
from zoo.training.models.segmenter import Pyramid, Segmenter

FORK = multiprocessing.get_context("fork")


def plain(**kwargs) -> torch.nn.Module:
    return randomised(zoo.create_model("vit_test", in_chans=1, **kwargs))


def segmenter(**kwargs) -> Segmenter:
    return randomised(Segmenter("vit_test", Pyramid(num_classes=3, width=8, out_indices=(0, 1)), in_chans=1, **kwargs))


def tasks(**kwargs) -> MultiTask:
    heads = {"kind": Classifier(3), "part": Dense(3, width=8, out_indices=(0, 1))}
    return randomised(MultiTask("vit_test", heads, in_chans=1, **kwargs))


def save(model: torch.nn.Module, folder: Path) -> None:
    model.save(folder) if hasattr(model, "save") else zoo.save_pretrained(model, folder)


def reopened(like: torch.nn.Module, folder: Path) -> torch.nn.Module:
    return (type(like).open(folder) if hasattr(like, "save") else zoo.create_model(f"local-dir:{folder}")).eval()


def same(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    """Whether two models are: a head of one over a backbone of the other would show in the weights."""
    ours, theirs = one.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)


def opens_as_one_of(models: list, folder: Path) -> bool:
    found = reopened(models[0], folder)
    return any(same(found, model) for model in models)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def started(work: Callable, *args) -> multiprocessing.Process:
    process = FORK.Process(target=work, args=args, daemon=True)
    process.start()
    return process


def outcome(work: Callable[[], None]) -> tuple[type, str, int | None] | None:
    """Type, text and number of what `work` raises in a process of its own, where it may change what a process has."""
    ours, theirs = FORK.Pipe()

    def run():
        try:
            work()
        except BaseException as error:
            theirs.send((type(error), str(error), getattr(error, "errno", None)))
        else:
            theirs.send(None)

    process = started(run)
    found = ours.recv()
    process.join()
    return found


OPERATIONS = ("mkdir", "fsync", "link", "replace", "rename", "unlink", "rmdir", "chmod")


@contextmanager
def counted(instant: int, strike: Callable[[], None]):
    """Within the body, `strike` is called before the n-th operation on files."""
    calls = itertools.count(1)

    def counting(function):
        def wrapper(*args, **kwargs):
            if next(calls) == instant:
                strike()
            return function(*args, **kwargs)

        return wrapper

    with pytest.MonkeyPatch.context() as patch:
        for name in OPERATIONS:
            patch.setattr(os, name, counting(getattr(os, name)))
        yield


def kill_self() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def killed_at(instant: int, work: Callable[[], None]) -> bool:
    """Run `work` in a process that kills itself before the n-th of its operations; whether it came so far."""

    def child():
        with counted(instant, kill_self):
            work()

    process = started(child)
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode != 0
