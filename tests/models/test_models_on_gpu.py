"""Every family on a GPU: the numbers of the CPU, in fp32 and under autocast, forward and backward."""

import copy

import pytest
import torch
from conftest import TINY_VARIANTS, randomised, relative_error

import zoo

GPU = torch.device("cuda")
if not torch.cuda.is_available():
    pytest.skip("there is no GPU", allow_module_level=True)


@pytest.fixture(autouse=True)
def full_precision(monkeypatch):
    """Convolutions in fp32 round to 10 bits on a GPU unless they are told not to."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def passed(model, x):
    """The output, and the gradients of all parameters by name, on the CPU."""
    model.zero_grad()
    y = model(x)
    y.float().square().mean().backward()
    gradients = {name: p.grad.float().cpu() for name, p in model.named_parameters() if p.grad is not None}
    return y.detach().float().cpu(), gradients


@pytest.mark.parametrize("name", TINY_VARIANTS)
def test_outputs_and_gradients_are_those_of_the_cpu(name):
    model = randomised(zoo.create_model(name))
    x = torch.randn(3, *model.input_size)
    y, gradients = passed(model, x)
    model = copy.deepcopy(model).to(GPU)
    on_gpu, theirs = passed(model, x.to(GPU))
    assert relative_error(on_gpu, y) < 1e-4
    assert theirs.keys() == gradients.keys()
    largest = max(gradient.abs().max() for gradient in gradients.values())
    for key, gradient in gradients.items():
        assert (theirs[key] - gradient).abs().max() < 1e-3 * max(gradient.abs().max(), 1e-2 * largest), key
    for precision in (torch.bfloat16, torch.float16):
        with torch.autocast("cuda", precision):
            half, halves = passed(model, x.to(GPU))
        assert relative_error(half, y) < 0.2
        assert all(gradient.isfinite().all() for gradient in halves.values())


WAITING = {
    "mlp_kan_test",  # experts that are mixers run one after another, each on as many rows as chose it
    "swin_moe_test",  # how many choices are left of those that overflow
}


@pytest.mark.parametrize("name", sorted({*TINY_VARIANTS} - WAITING))
def test_a_forward_pass_waits_for_nothing(name):
    """A value that Python reads stops the GPU until all that was asked of it is done."""
    model = zoo.create_model(name).to(GPU).eval()
    x = torch.randn(3, *model.input_size, device=GPU)
    with torch.no_grad(), torch.autocast("cuda", torch.bfloat16):
        model(x)  # tables that are made once
        torch.cuda.set_sync_debug_mode("error")
        try:
            model(x)
        finally:
            torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("name", ["convnext_test", "kat_test", "swin_test", "vmoe_test", "vit_test"])
def test_compiled(name):
    model = randomised(zoo.create_model(name)).to(GPU)
    x = torch.randn(2, *model.input_size, device=GPU)
    y, gradients = passed(model, x)
    compiled, theirs = passed(torch.compile(model), x)
    assert relative_error(compiled, y) < 1e-4
    for key, gradient in gradients.items():
        assert (theirs[f"_orig_mod.{key}"] - gradient).abs().max() <= 1e-2 * gradient.abs().max(), key
