"""KAN layers in several processes: one choice, one grid, and a gradient of every parameter."""

import pytest
from kan_processes import follows_the_first, trains_after_the_choice
from moe_processes import start

CASES = [
    ("kan_function", {"layer": "select"}),
    ("mixer_test", {"channel_mixer": "select_kan"}),
    ("s_convkan_test", {}),
]


def test_all_processes_compute_what_the_first_one_does():
    start(follows_the_first, 2)


def test_plain_ddp_trains_after_the_choice():
    start(trains_after_the_choice, 2, CASES[:1])


@pytest.mark.slow
def test_plain_ddp_trains_models_of_images_after_the_choice():
    start(trains_after_the_choice, 2, CASES[1:])
