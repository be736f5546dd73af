"""Forty random recombinations of any families; `python tests/composing.py` has five hundred, in every format."""

import re

import pytest
import torch
from composing import FORMATS, outcome
from drawing import Draw, draw
from torch import nn

import zoo
from zoo.registry import families, family_of

DRAWS, ALL = 24, 500
EVERY = {"exported": 8, "onnx": 20}  # of so many draws one is exported, in the suite


@pytest.mark.parametrize("number", range(DRAWS))
def test_a_recombination_goes_all_the_way_or_is_refused_in_words(number):
    drawn = draw(number)
    done = outcome(drawn, [name for name in FORMATS if number % EVERY[name] == 0])
    assert done.wrong is None, f"{drawn}\n{done.wrong}"


@pytest.mark.slow
@pytest.mark.parametrize("number", range(ALL))
def test_so_do_many_in_every_format(number):
    drawn = draw(number)
    done = outcome(drawn, FORMATS)
    assert done.wrong is None, f"{drawn}\n{done.wrong}"


def test_most_draws_can_be_built_and_every_family_is_among_them():
    drawn = [draw(number) for number in range(ALL // 2)]
    assert {family_of(one.name).name for one in drawn} == set(families())
    built = 0
    for one in drawn[:DRAWS]:
        try:
            zoo.create_model(one.name, **one.arguments, device="meta")
            built += 1
        except (ValueError, TypeError):
            continue
    assert built >= 0.6 * DRAWS


class Faulty(nn.Module):
    """A channel mixer that says or does what no block may."""

    per_position = True

    def __init__(self, dim: int, *, fault: str = "", device=None, dtype=None):
        super().__init__()
        if fault == "elsewhere":
            raise ValueError("no")
        if fault == "library":
            torch.empty(-dim)
        self.fault, self.unused = fault, nn.Linear(dim, dim, device=device, dtype=dtype)

    def forward(self, x):
        if self.fault == "input":
            x.add_(1)
        if self.fault == "state":
            self.fault = "input"
        return x / 0 if self.fault == "numbers" else x + 0 * self.unused(x) if self.fault != "unused" else x


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("elsewhere", "an internal ValueError of .*test_composition.py"),
        ("library", "RuntimeError of .*negative dimension"),
        ("numbers", "are not finite"),
        ("state", "a forward pass changes its input, or the model"),
        ("unused", r"no gradient reaches \['blocks.0.channel_mixer.unused.weight'"),
    ],
)
def test_what_must_not_be_is_noticed(fault, words):
    zoo.register_block("channel_mixer", "faulty")(Faulty)
    try:
        arguments = {"channel_mixer": f"faulty(fault={fault!r})", "head_init": "trunc_normal"}
        wrong = outcome(Draw(0, "mixer_test", arguments)).wrong
    finally:
        del zoo.slots.table._BLOCKS["channel_mixer"]["faulty"]
    assert wrong is not None
    assert re.search(words, wrong), wrong
