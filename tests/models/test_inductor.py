"""Programs of inductor: one for all batches, for every family, with the outputs and the gradients of eager mode."""

import pytest
import torch
from conftest import TINY_VARIANTS, randomised, relative_error

import zoo

# A compiler of C++ works at each of the others for up to a minute, and twice as long at its training.
FAST = {"inference": {"conventional_test", "mixer_test", "vit_test"}, "training": {"mlp_test"}}

# How many values a sum has decides how inductor's C++ adds them up, above 4,096 in parts, and so it guards the batch:
# for the gradient of a learnt scalar caformer_test sums 1,024 values an image, and 4 and 5 images are two programs.
BATCHES = {"inference": (2, 3, 5), "training": (6, 7, 8)}


def batch_of(model: torch.nn.Module, batch: int) -> torch.Tensor:
    """Images or vectors; the same for every batch of a size."""
    size = getattr(model, "input_size", None) or (model.in_chans,)
    return torch.randn(batch, *size, generator=torch.Generator().manual_seed(batch))


def batches_of(model: torch.nn.Module, use: str):
    """Batches of three sizes and the first again, each with the stance under which it is run: only one compiles."""
    for i, batch in enumerate((*BATCHES[use], BATCHES[use][0])):
        x = batch_of(model, batch)
        torch._dynamo.mark_dynamic(x, 0)  # as torch's pages of dynamic shapes say; a size that is settled is an error
        yield x, "fail_on_recompile" if i else "default"


def with_gradients(call, model: torch.nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The output of a forward pass in training, and the gradient of each parameter that gets one."""
    torch.manual_seed(0)
    model.zero_grad()
    y = call(x)
    y.square().mean().backward()
    return y.detach(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def assert_same_gradients(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    """Each to 1e-4 of its norm; one that would be zero without rounding, to a millionth of the largest."""
    assert found.keys() == expected.keys() and expected
    rounding = 1e-6 * max(gradient.norm() for gradient in expected.values())
    for name, gradient in expected.items():
        assert (found[name] - gradient).norm() <= 1e-4 * gradient.norm() + rounding, name


@pytest.fixture(autouse=True)
def forgotten():
    """Each test compiles by itself."""
    torch.compiler.reset()


def families(use: str) -> list:
    return [pytest.param(name, marks=[pytest.mark.slow] * (name not in FAST[use])) for name in TINY_VARIANTS]


@pytest.mark.parametrize("name", families("inference"))
def test_inference_has_one_program_for_all_batches(name):
    model = randomised(zoo.create_model(name))
    compiled = torch.compile(model, fullgraph=True)
    with torch.no_grad():
        for x, stance in batches_of(model, "inference"):
            with torch.compiler.set_stance(stance):
                assert relative_error(compiled(x), model(x)) < 1e-4


@pytest.mark.parametrize("name", families("training"))
def test_training_has_one_program_for_all_batches(name):
    model = randomised(zoo.create_model(name)).train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0  # experts drop out of the rows that they compute; compiled, those of empty places too
    # Routers draw the noise of eager mode.
    compiled = torch.compile(model, fullgraph=True, options={"fallback_random": True})
    for x, stance in batches_of(model, "training"):
        with torch.compiler.set_stance(stance):
            y, gradients = with_gradients(compiled, model, x)
        expected, expected_gradients = with_gradients(model, model, x)
        assert relative_error(y, expected) < 1e-4
        assert_same_gradients(gradients, expected_gradients)


@pytest.mark.parametrize("name", ["mlp_test", pytest.param("resmlp_test", marks=pytest.mark.slow)])
def test_a_batch_that_nobody_marked_is_left_open_when_it_changes(name):
    model = randomised(zoo.create_model(name))
    compiled = torch.compile(model, fullgraph=True)
    with torch.no_grad():
        for i, batch in enumerate((2, 3, 5, 2, 4)):
            x = batch_of(model, batch)
            with torch.compiler.set_stance("fail_on_recompile" if i > 1 else "default"):
                assert relative_error(compiled(x), model(x)) < 1e-4


def assert_one_program_a_size(call, *sizes: tuple[int, ...]) -> None:
    """Everything is said to be dynamic, and yet a program is for one size, of which the batch may change."""
    compiled = torch.compile(call, fullgraph=True, dynamic=True)
    with torch.no_grad():
        for size in sizes:
            # With dynamic=True torch takes sizes that are equal at first for equal ever after: a first batch of 3 for
            # the channels, and of 2, or as many as an image has windows, for a size in `Tables`.
            for batch, stance in ((5, "default"), (2, "fail_on_recompile"), (7, "fail_on_recompile")):
                x = torch.randn(batch, *size)
                with torch.compiler.set_stance(stance):
                    assert relative_error(compiled(x), call(x)) < 1e-4


def test_a_mixer_of_windows_with_dynamic_shapes():
    mixer = zoo.create_block("token_mixer", "shifted_window_mlp(window_size=4)", dim=16, grid=(8, 8))
    assert_one_program_a_size(randomised(mixer), (8, 8, 16), (9, 12, 16))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["swin_mlp_test", "swin_test", "swinv2_test"])
def test_models_of_windows_with_dynamic_shapes(name):
    model = randomised(zoo.create_model(name))
    channels, height, width = model.input_size
    assert_one_program_a_size(model, model.input_size, (channels, height + 32, width))
