"""Forty hostile inputs a door; `python tests/fuzzing.py` has five thousand."""

import pytest
from fuzzing import DOORS, problem


@pytest.mark.parametrize("door", DOORS)
def test_hostile_input_is_taken_or_refused_in_words(door):
    tried = {number: problem(door, number) for number in range(40)}
    assert not {number: answer for number, answer in tried.items() if answer[1]}
