"""Experts split over processes: all is as in one process."""

import pytest
import torch
from moe_processes import (
    ALL_LOSSES,
    batch,
    differentiates_twice,
    equals_one_process,
    keeps_working,
    refuses,
    save,
    stands_empty_shares,
    start,
)

import zoo

CASES = [
    {"router": ALL_LOSSES},
    {"router": ALL_LOSSES, "collapsed": True},
    {"experts": "glu(act='star_relu')", "dispatch": "capacity(factor=1.0)", "group": 1},
    {"experts": ["mlp", "spline_kan"], "shared": "mlp"},
    {"experts": ["mlp", "glu"], "top_k": 1, "collapsed": True},
    {"experts": "modulated"},
    {"name": "mixer_test", "token_mixer": "token_moe(top_k=2)"},
]

EMPTY_SHARES = [  # the mean square of the logits is not taken over processes
    {"router": "top_k(losses=('balance', 'importance', 'concentration'))"},
    {"experts": ["mlp", "spline_kan"], "router": "relu", "shared": "mlp"},
    {"experts": "glu", "router": "expert_choice(losses=('importance',))"},
    {"router": "sigmoid", "dispatch": "capacity(factor=1.0)", "group": 1},
]


@pytest.mark.parametrize("how", ["ddp", "fsdp"])
def test_two_processes_equal_one(how):
    start(equals_one_process, 2, (2,), how, CASES)


@pytest.mark.parametrize("how, shape", [("ddp", (4,)), ("ddp", (2, 2)), ("fsdp", (2, 2))])
def test_four_processes_equal_one(how, shape):
    """With two dimensions each expert is in two processes."""
    start(equals_one_process, 4, shape, how, [CASES[1], CASES[3]])


@pytest.mark.parametrize("how", ["ddp", "fsdp"])
def test_a_process_without_samples(how):
    start(stands_empty_shares, 2, (2,), how, EMPTY_SHARES)


def test_gradients_of_gradients():
    start(differentiates_twice, 2, (2,), [{}, {"experts": ["mlp", "glu"]}])


@pytest.mark.parametrize("how, experts", [("ddp", ["mlp", "glu"]), ("fsdp", "mlp")])
def test_saved_by_four_loads_in_one(how, experts, tmp_path):
    start(save, 4, (4,), how, {"experts": experts}, tmp_path)
    model = zoo.create_model(f"local-dir:{tmp_path}").eval()
    with torch.no_grad():
        torch.testing.assert_close(model(batch()[0]), torch.load(tmp_path / "logits.pt"), rtol=1e-5, atol=1e-5)


def test_it_stands_what_else_is_done_with_models():
    start(keeps_working, 2)


def test_refusals():
    start(refuses, 2)
