"""Every random stream of a run, each a pure function of the recipe's seed and what it is for."""

import contextlib
import functools
import random
from collections.abc import Iterator

import numpy as np
import torch

# What a seed is for, the second key of `derive_seed`: the streams never meet.
SPLIT, INIT, ORDER, AUGMENT, CORRUPT, STEP, EVALUATE, CANVAS, TASK, TURN = range(10)
AHEAD = 64  # steps whose seeds are made together


def derive_seed(*keys: int) -> int:
    """One 63-bit seed out of several whole numbers (numpy's SeedSequence: near keys give unrelated streams)."""
    return int(np.random.SeedSequence(keys).generate_state(1, np.uint64)[0] >> np.uint64(1))


def step_seed(seed: int, step: int, part: int) -> int:
    """`derive_seed(seed, STEP, step, part)`, made for some steps at once.

    Amid a step numpy's code has left the processor's caches: there a seed takes 74 us, and 7 in a row of them.
    """
    block, number = divmod(step, AHEAD)
    return _step_seeds(seed, block, part)[number]


@functools.lru_cache(maxsize=1024)
def _step_seeds(seed: int, block: int, part: int) -> tuple[int, ...]:
    return tuple(derive_seed(seed, STEP, step, part) for step in range(block * AHEAD, (block + 1) * AHEAD))


def generator(*keys: int) -> torch.Generator:
    """A CPU generator seeded by `derive_seed(*keys)`."""
    return torch.Generator().manual_seed(derive_seed(*keys))


@contextlib.contextmanager
def seeded_globals(seed: int) -> Iterator[None]:
    """Seed the global CPU generators that image transforms draw from, and put them back afterwards."""
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.set_rng_state(before[2])
