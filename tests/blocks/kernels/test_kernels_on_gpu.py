"""The kernels for a GPU beside their plain twins."""

import pytest
import torch
from conftest import relative_error

from zoo.blocks.kernels import grouped, private, rational

if not torch.cuda.is_available():
    pytest.skip("there is no GPU", allow_module_level=True)


@pytest.mark.parametrize("dtype, bound", [(torch.float32, 1e-5), (torch.bfloat16, 1e-2), (torch.float16, 2e-3)])
@pytest.mark.parametrize("rows, channels, groups, shared", [(1000, 64, 8, True), (77, 24, 3, False), (1, 8, 1, True)])
def test_rational_functions(rows, channels, groups, shared, dtype, bound):
    x = torch.randn(rows, channels, device="cuda", dtype=dtype, requires_grad=True)
    numerator = torch.randn(1 if shared else groups, 6, device="cuda", requires_grad=True)
    denominator = torch.randn(groups, 4, device="cuda", requires_grad=True)
    grad = torch.randn_like(x)
    assert rational._on_gpu(x, numerator, denominator)
    y = rational.rational(x, numerator, denominator)
    found = torch.autograd.grad(y, (x, numerator, denominator), grad)
    exact = [t.detach().double().requires_grad_() for t in (x, numerator, denominator)]
    expected = rational.formula(*exact)
    assert y.dtype is dtype and relative_error(y.double(), expected) < bound
    for one, two in zip(found, torch.autograd.grad(expected, exact, grad.double()), strict=True):
        assert relative_error(one.double(), two) < 2 * bound


@pytest.mark.parametrize("dtype, bound", [(torch.float32, 1e-5), (torch.bfloat16, 1e-2)])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("ends", [[10, 10, 40, 64], [0, 0, 0, 1], [64, 64, 64, 64], [0, 0, 0, 0]])
def test_grouped_products(ends, bias, dtype, bound):
    x = torch.randn(64, 32, device="cuda", dtype=dtype, requires_grad=True)
    weight = torch.randn(4, 48, 32, device="cuda", dtype=dtype, requires_grad=True)
    biases = torch.randn(4, 48, device="cuda", dtype=dtype, requires_grad=True) if bias else None
    ends = torch.tensor(ends, dtype=torch.int32, device="cuda")
    assert dtype is not torch.bfloat16 or (private.grouped_mm is not None and grouped._fits(x, weight))
    inputs = [t for t in (x, weight, biases) if t is not None]
    exact = [t.detach().double().requires_grad_() for t in inputs]
    y, expected = grouped.linear(x, weight, biases, ends), grouped.everywhere(*exact, *[None] * (not bias), ends)
    grad = torch.randn_like(y)
    found = torch.autograd.grad(y, inputs, grad)
    for one, two in zip((y, *found), (expected, *torch.autograd.grad(expected, exact, grad.double())), strict=True):
        assert (one.double() - two).abs().max() <= bound * two.abs().max()
