"""Folders that an earlier layout of the package saved open, and give the outputs that they gave then."""

import pytest
import torch
from conftest import DATA
from safetensors.torch import load_file

import zoo
from zoo.training import MultiTask, Segmenter

FOLDERS = DATA / "folders"


def outputs(name: str) -> dict[str, torch.Tensor]:
    return load_file(FOLDERS / name / "outputs.safetensors")


def assert_same(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["hierarchical", "images", "isotropic", "vectors"])
def test_a_model_opens_with_equal_outputs(name):
    model = zoo.create_model(f"local-dir:{FOLDERS / name}").eval()
    stored = outputs(name)
    with torch.no_grad():
        assert_same(model(stored["x"]), stored["y"])


@pytest.mark.parametrize("name", ["hierarchical", "images", "isotropic", "vectors"])
def test_what_was_opened_saves_and_opens_again(name, tmp_path):
    zoo.save_pretrained(zoo.create_model(f"local-dir:{FOLDERS / name}"), tmp_path)
    stored = outputs(name)
    with torch.no_grad():
        assert_same(zoo.create_model(f"local-dir:{tmp_path}").eval()(stored["x"]), stored["y"])


@torch.no_grad()
def test_a_segmenter_opens_with_equal_outputs():
    stored = outputs("segmenter")
    assert_same(Segmenter.open(FOLDERS / "segmenter").eval()(stored["x"]), stored["y"])


@torch.no_grad()
def test_a_model_of_several_tasks_opens_with_equal_outputs():
    stored, model = outputs("multitask"), MultiTask.open(FOLDERS / "multitask").eval()
    for task in ("digit", "ink"):
        assert_same(model(stored["x"], task=task), stored[task])
