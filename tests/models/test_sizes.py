"""`set_input_size` on every family: all of a model moves, or nothing does, and nothing else about it changes."""

import copy

import pytest
import torch
from conftest import TEST_VARIANTS, images, is_of_one_size, randomised
from torch import nn

import zoo
from zoo.skeletons.hierarchical import Hierarchical
from zoo.slots.table import _BLOCKS, register

ALL = pytest.mark.parametrize("name", TEST_VARIANTS)
HOSTILE = [
    dict(img_size=0),
    dict(img_size=-32),
    dict(img_size=(32,)),
    dict(img_size=(32, 32.0)),
    dict(img_size="32"),
    dict(img_size=True),
    dict(img_size=(64, 1)),
    dict(img_size=(36, 44)),
    dict(img_size=(64, 96), patch_size=7),
    dict(img_size=(64, 96), patch_size=0),
    dict(img_size=(64, 96), patch_size=(4, 4, 4)),
    dict(img_size=(2, 2), patch_size=2),
    dict(img_size=(64, 96), window_size=0),
    dict(img_size=(64, 96), window_size=(2, 2, 2)),
    dict(img_size=(64, 96), patch_size=2, window_size=-1),
]


@pytest.fixture
def refusing():
    """A token mixer that depends on the grid and cannot be moved."""

    @register("token_mixer", "refusing")
    class Refusing(nn.Module):
        needs_grid = True

        def __init__(self, dim, *, grid, device=None, dtype=None):
            super().__init__()
            self.grid = grid

        def forward(self, x):
            return x

        def set_grid(self, grid):
            self.grid = grid
            raise ValueError("refusing stays where it is")

    yield
    del _BLOCKS["token_mixer"]["refusing"]


def facts(model: nn.Module) -> dict:
    """All that a refused change must leave alone: what is learnt, what is saved, and what is told to timm's tools."""
    return {
        "tensors": {n: (id(t), t.clone()) for n, t in (*model.named_parameters(), *model.named_buffers())},
        "plain": {
            n: {k: copy.deepcopy(v) for k, v in vars(m).items() if isinstance(v, (int, float, str, tuple, list))}
            for n, m in model.named_modules()
        },
        "config": copy.deepcopy(model.config),
        "traits": copy.deepcopy(getattr(model, "_traits", None)),
        "modules": [(n, id(m)) for n, m in model.named_modules()],
    }


def assert_same(found: dict, expected: dict) -> None:
    ours, theirs = found["tensors"], expected["tensors"]
    assert ours.keys() == theirs.keys()
    for name, (number, tensor) in ours.items():
        assert number == theirs[name][0] and torch.equal(tensor, theirs[name][1]), name
    assert {**found, "tensors": None} == {**expected, "tensors": None}


@ALL
def test_a_refused_size_leaves_the_model_as_it_was(name):
    model = randomised(zoo.create_model(name))
    x, refused = images(model), 0
    expected = model(x)
    for sizes in HOSTILE:
        if "window_size" in sizes and not isinstance(model, Hierarchical):
            continue
        before = facts(model)
        try:
            copy.deepcopy(model).set_input_size(**sizes)
        except ValueError:
            with pytest.raises(ValueError):
                model.set_input_size(**sizes)
            refused += 1
            assert_same(facts(model), before)
    assert refused >= 9
    assert torch.equal(model(x), expected)


@ALL
@pytest.mark.parametrize("sizes", [dict(img_size=(128, 64)), dict(img_size=(64, 128), patch_size=2)])
def test_a_mixer_that_refuses_stops_the_others(name, sizes, refusing):
    model = randomised(zoo.create_model(name, token_mixer={"at": {-1: "refusing"}}))
    x = images(model)
    expected, before = model(x), facts(model)
    with pytest.raises(ValueError, match="refusing stays|no patches|cannot be (resampled|moved)|whole number"):
        model.set_input_size(**sizes)
    assert_same(facts(model), before)
    assert torch.equal(model(x), expected)


def test_a_token_mixture_whose_router_sees_more_than_positions_stops_the_others():
    router = "task(tasks=2, design='embedding', width=4)"
    model = randomised(zoo.create_model("mixer_test", token_mixer={"at": {-1: f'token_moe(router="{router}")'}}))
    before = facts(model)
    with pytest.raises(ValueError, match="has inputs other than the 16 positions"):
        model.set_input_size(64, patch_size=4)
    assert_same(facts(model), before)


def test_a_refused_classifier_leaves_the_model_as_it_was():
    model = randomised(zoo.create_model("hourglass_test", head="image"))
    before = facts(model)
    for wrong in ((-1, None), (3, "token"), (3, "mean"), (2.0, "avg")):
        with pytest.raises((ValueError, TypeError), match="num_classes|global_pool"):
            model.reset_classifier(*wrong)
        assert_same(facts(model), before)


@ALL
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_moving_changes_nothing_but_the_size(name, dtype):
    """What is frozen stays frozen, what evaluates goes on to; dtype and the order in memory stay."""
    model = zoo.create_model(name).to(dtype).eval()
    if is_of_one_size(model):
        pytest.skip("cannot be moved")
    model.stem.to(memory_format=torch.channels_last)
    for i, parameter in enumerate(model.parameters()):
        parameter.requires_grad = i % 2 == 1
    for number, module in enumerate(model.modules()):
        module.training = number % 3 == 0

    def aspects(model):
        tensors = [*model.named_parameters(), *model.named_buffers()]
        order = {n: t.is_contiguous(memory_format=torch.channels_last) for n, t in tensors if t.ndim == 4}
        kinds = {n: (t.dtype, t.device, t.requires_grad, type(t)) for n, t in tensors}
        return order, kinds, {n: (id(m), m.training) for n, m in model.named_modules()}

    def patched(model):
        return {"patch_size": tuple(2 * side for side in model.stem.patch_size)}

    before, old = aspects(model), {n: id(p) for n, p in model.named_parameters()}
    state = torch.random.get_rng_state()
    size = tuple(2 * side for side in model.img_size)
    model.set_input_size(size, **(patched(model) if hasattr(model.stem, "set_patch_size") else {}))
    assert aspects(model) == before and model.img_size == size
    assert torch.equal(torch.random.get_rng_state(), state)  # nothing is initialised on the way
    model.set_input_size((size[0], 2 * size[1]))
    assert aspects(model) == before
    moved = {n: id(p) for n, p in model.named_parameters()}
    assert all(old[n] == moved[n] for n in old if n.endswith("bias") and "stem" in n)  # an optimizer still knows them
    there = dict(moved)
    model.set_input_size((size[0], 2 * size[1]))  # where it is already
    assert {n: id(p) for n, p in model.named_parameters()} == there


def test_a_stem_whose_convolution_was_exchanged_says_so():
    model = zoo.create_model("vit_test")
    model.stem.proj = nn.Sequential(model.stem.proj)
    with pytest.raises(ValueError, match="has become a Sequential whose weight cannot be resampled"):
        model.set_input_size(patch_size=4)
