"""The bases other than splines: their formulas, their fast forms against the plain ones, and their limits."""

import copy
import math

import pytest
import torch
from conftest import relative_error
from torch.autograd import gradcheck, gradgradcheck
from torch.nn import functional as F

import zoo
from zoo.blocks.base import parameters_without_decay
from zoo.blocks.kan.bases import base
from zoo.blocks.kan.bases.chebyshev import Chebyshev
from zoo.blocks.kan.bases.fourier import Fourier
from zoo.blocks.kan.bases.gaussian import Gaussian
from zoo.blocks.kan.bases.rational import Rational
from zoo.blocks.kan.bases.sech import SechSquared
from zoo.blocks.kan.bases.wavelet import Wavelet
from zoo.blocks.kan.linear import KANLinear
from zoo.blocks.linear import initialise

BASES = [
    "rbf",
    "rbf(num=3, grid_range=(-1, 3), width=0.7)",
    "sech2",
    "sech2(num=3, grid_range=(-1, 3), width=0.7)",
    "chebyshev",
    "chebyshev(degree=1)",
    "fourier",
    "fourier(num_frequencies=1)",
    "wavelet",
    "wavelet(kind='morlet', num=3)",
    "wavelet(kind='dog', grid_range=(-1, 1))",
    "rational",
    "rational(degrees=(2, 3))",
]


@pytest.fixture(params=BASES)
def name(request):
    return request.param


def layer(name: str, inputs: int = 3, outputs: int = 2, **kwargs) -> KANLinear:
    """A layer whose basis has parameters away from where they start, and from zero, where |b| has a corner."""
    made = KANLinear(inputs, outputs, name, **kwargs)
    with torch.no_grad():
        for parameter in made.basis.parameters():
            parameter.add_(torch.rand_like(parameter), alpha=0.1)
    return made


def inputs(*shape: int, **kwargs) -> torch.Tensor:
    return (2 * torch.randn(*shape, **kwargs)).requires_grad_()


# --- Formulas ---------------------------------------------------------------------------------------------------------


def test_rbf_is_fast_kans_formula():
    """A layer of fast-kan without its norm: Gaussians by feature, then a linear map, and one of the activations."""
    made, x = KANLinear(5, 4, "rbf", bias=True), torch.randn(6, 5)
    with torch.no_grad():
        made.bias.normal_()
    centres = torch.linspace(-2, 2, 8)
    bumps = torch.exp(-(((x[..., None] - centres) / (4 / 7)) ** 2))
    by_feature = made.coefficients.transpose(1, 2).flatten(1)
    expected = F.linear(bumps.flatten(1), by_feature) + F.linear(F.silu(x), made.weight[:, 0], made.bias)
    assert torch.allclose(made(x), expected, atol=1e-6)


def test_chebyshev_polynomials():
    x = torch.randn(7, 3, dtype=torch.float64)
    expected = [(k * x.tanh().acos()).cos() for k in range(7)]
    assert torch.allclose(Chebyshev(3, degree=6).values(x), torch.stack(expected, -2), atol=1e-12)


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-13), (torch.float32, 1e-6)])
def test_fourier_series(dtype, tolerance):
    basis, x = Fourier(50, num_frequencies=6), 3 * torch.randn(100, 50, dtype=dtype)
    steps = torch.arange(1, 7)[:, None] * x.double().unsqueeze(-2)
    expected = torch.cat([steps.cos(), steps.sin()], -2)
    assert (basis.values(x) - expected).abs().max() < tolerance
    filled = torch.empty(100, 12, 50, dtype=dtype)
    basis.fill(x, filled)
    assert (filled - expected).abs().max() < tolerance


@pytest.mark.parametrize(
    "kind, wavelet",
    [
        ("mexican_hat", lambda u: 2 / (3**0.5 * math.pi**0.25) * (1 - u**2) * torch.exp(-(u**2) / 2)),
        ("morlet", lambda u: torch.cos(5 * u) * torch.exp(-(u**2) / 2)),
        ("dog", lambda u: -u * torch.exp(-(u**2) / 2)),
    ],
)
def test_wavelets(kind, wavelet):
    basis, x = Wavelet(3, num=5, kind=kind, dtype=torch.float64), torch.randn(7, 3, dtype=torch.float64)
    with torch.no_grad():
        basis.rate.normal_()
        basis.translation.normal_()
        scale = 1 / basis.rate
        expected = wavelet((x[:, None] - basis.translation) / scale)
        assert torch.allclose(basis.values(x), expected, atol=1e-12)
        basis.rate.zero_()  # an infinite scale: constant, and no division by zero
        assert torch.allclose(basis.values(x), wavelet(torch.zeros(1, dtype=torch.float64)).expand(7, 5, 3))


def test_rational_functions():
    basis, x = Rational(3, dtype=torch.float64), 3 * torch.randn(7, 3, dtype=torch.float64)
    assert torch.allclose(basis.values(x)[:, 5], x**5 / (1 + x**4))
    with torch.no_grad():
        basis.denominator.normal_()
    b = basis.denominator.detach().abs()
    q = 1 + b[0] * x.abs() + b[1] * x**2 + b[2] * x.abs() ** 3 + b[3] * x**4
    assert torch.allclose(basis.values(x), torch.stack([x**i / q for i in range(6)], 1))


def test_rational_functions_are_constant_beyond_their_limit():
    basis = Rational(1, limit=4.0)
    with torch.no_grad():
        basis.denominator.zero_()
    far, end = basis.values(torch.tensor([[1e9], [-1e9]])), basis.values(torch.tensor([[4.0], [-4.0]]))
    assert torch.equal(far, end) and end[0, 5] == 4**5 and end[1, 5] == -(4**5)


def test_a_denominator_that_is_zero_can_be_trained():
    made, x = KANLinear(2, 2, "rational", dtype=torch.float64), torch.randn(5, 2, dtype=torch.float64)
    with torch.no_grad():
        made.basis.denominator.zero_()
    made(x).sum().backward()
    found = made.basis.denominator.grad.clone()
    with torch.no_grad():
        made.basis.denominator.fill_(1e-9)
    made.zero_grad()
    made(x).sum().backward()
    assert torch.allclose(found, made.basis.denominator.grad, rtol=1e-5) and found.abs().min() > 0


# --- The fast forms ---------------------------------------------------------------------------------------------------


def test_derivatives(name):
    made, x = layer(name, dtype=torch.float64), inputs(4, 3, dtype=torch.float64)
    call = lambda x, *parameters: made(x)
    assert gradcheck(call, (x, *made.parameters()))
    assert gradgradcheck(call, (x, *made.parameters()))


@pytest.mark.parametrize("chunk", [1, 40, 10**6])
def test_the_fast_form_is_the_plain_one(name, chunk, monkeypatch):
    monkeypatch.setattr(base, "CHUNK", chunk)
    basis, x = layer(name, dtype=torch.float64).basis, inputs(5, 3, dtype=torch.float64)
    values = basis.values(x)
    room = torch.zeros(5, basis.num + 1, 3, dtype=torch.float64)  # with a row of somebody else's before them
    with torch.no_grad():
        basis.fill(x, room[:, 1:])
    assert torch.allclose(room[:, 1:], values, atol=1e-12) and not room[:, 0].any()
    grad = torch.randn_like(values)
    found = basis.pull_back(x.detach(), grad)
    expected = torch.autograd.grad(values, (x, *basis.parameters()), grad)
    assert len(found) == len(expected)
    assert all(torch.allclose(a, b, atol=1e-10) for a, b in zip(found, expected, strict=True))


def test_low_precision(name):
    """In bf16 the functions are evaluated in fp32, so that only their rounding is seen."""
    made, x = layer(name, 16, 8), torch.randn(50, 16)
    exact = made(x)
    with torch.autocast("cpu", torch.bfloat16):
        y = made(x)
    y.float().square().mean().backward()
    assert y.dtype is torch.bfloat16 and relative_error(y.float(), exact) < 0.03
    assert all(p.grad.isfinite().all() and p.grad.abs().max() > 0 for p in made.parameters())
    lower = copy.deepcopy(made).bfloat16()
    assert relative_error(lower(x.bfloat16()).float(), exact) < 0.1


def test_compiled(name):
    torch._dynamo.reset()
    made, x = layer(name), inputs(4, 3)
    compiled = torch.compile(made, backend="aot_eager", fullgraph=True)
    by_both = [torch.autograd.grad(f(x).square().sum(), (x, *made.parameters())) for f in (made, compiled)]
    assert torch.allclose(compiled(x), made(x), atol=1e-5)
    assert all(relative_error(b, a) < 1e-4 for a, b in zip(*by_both, strict=True))


# --- Limits -----------------------------------------------------------------------------------------------------------


def test_a_nan_stays_one_and_spoils_nothing_else(name):
    made, x = layer(name), torch.tensor([[math.nan, 1.0, 2.0], [0.0, 1.0, 2.0]])
    for functions in (made.functions(x), filled(made, x)):
        assert functions[0, :, 0].isnan().all() and not functions[:, :, 1:].isnan().any()
        assert not functions[1].isnan().any()


def filled(made: KANLinear, x: torch.Tensor) -> torch.Tensor:
    out = torch.empty(len(x), made.weight.shape[1], x.shape[1])
    with torch.no_grad():
        made.fill(x, out)
    return out


def test_numbers_without_bound(name):
    """Infinity is what a very large number is; outputs and both kinds of gradients are finite."""
    made = layer(name)
    x = torch.tensor([[math.inf, -math.inf, 1e30], [1e19, -1e12, 3e38]], requires_grad=True)
    large = math.sqrt(torch.finfo(torch.float32).max)
    assert torch.equal(made.functions(x)[0], made.functions(torch.tensor([large, -large, large])))
    plain = F.linear(made.functions(x).flatten(1), made.weight.flatten(1))
    for y in (made(x), plain):
        assert y.isfinite().all()
        assert all(g.isfinite().all() for g in torch.autograd.grad(y.sum(), (x, *made.parameters())))
    (slope,) = torch.autograd.grad(made(x).sum(), x, create_graph=True)
    assert torch.autograd.grad(slope.sum(), x)[0].isfinite().all()


# --- Keeping house ----------------------------------------------------------------------------------------------------


def test_built_on_meta(name):
    made = KANLinear(3, 2, name, device="meta")
    assert all(t.is_meta for t in (*made.parameters(), *made.buffers()))
    made = made.to_empty(device="cpu")
    for module in made.modules():
        initialise(module)
    expected, x = KANLinear(3, 2, name), torch.randn(4, 3)
    assert torch.equal(made.basis.values(x), expected.basis.values(x))


def test_scales_places_and_denominators_are_not_decayed(name):
    made = KANLinear(3, 2, name, bias=True)
    assert parameters_without_decay(made) == {"bias", *(f"basis.{n}" for n, _ in made.basis.named_parameters())}


def test_a_basis_alone_carries_the_signal(name):
    """At the start, without a base term, outputs are of about the size of the inputs."""
    made = KANLinear(256, 256, name, base="none", scale=1.0)
    assert 0.2 < made(torch.randn(500, 256)).std() < 1.5


@pytest.mark.parametrize(
    "name, macs",
    [
        ("rbf(num=8)", 8),
        ("sech2(num=8)", 8),
        ("chebyshev(degree=4)", 3),
        ("fourier(num_frequencies=5)", 16),
        ("wavelet(num=8)", 32),
        ("wavelet(num=8, kind='dog')", 24),
        ("rational(degrees=(5, 4))", 9),
    ],
)
def test_costs_by_hand(name, macs):
    made = KANLinear(6, 5, name)
    rows = made.weight.shape[1]
    assert zoo.count_flops(made, inputs=[torch.randn(7, 6)]).macs == rows * 6 * 5 + macs * 6


@pytest.mark.parametrize(
    "build, message",
    [
        (lambda: Gaussian(2, num=1), "num is 1; it must be from 2"),
        (lambda: Gaussian(2, grid_range=(1, -1)), r"grid_range=\(1, -1\); it must be \(low, high\)"),
        (lambda: Gaussian(2, width=0.0), "width is 0.0; it must be above 0"),
        (lambda: SechSquared(2, num=1), "num is 1; it must be from 2"),
        (lambda: SechSquared(2, grid_range=(1, -1)), r"grid_range=\(1, -1\); it must be \(low, high\)"),
        (lambda: SechSquared(2, width=0.0), "width is 0.0; it must be above 0"),
        (lambda: Chebyshev(2, degree=0), "degree is 0; it must be from 1"),
        (lambda: Fourier(2, num_frequencies=0), "num_frequencies is 0; it must be from 1"),
        (lambda: Wavelet(2, kind="haar"), "kind is 'haar'; it must be one of 'mexican_hat', 'morlet', 'dog'"),
        (lambda: Wavelet(2, num=1), "num is 1; it must be from 2"),
        (lambda: Wavelet(2, grid_range=(0, 0)), "it must be .low, high. with low < high"),
        (lambda: Rational(2, degrees=(0, 4)), r"degrees\[0\] is 0; it must be from 1"),
        (lambda: Rational(2, limit=-1.0), "limit is -1.0; it must be above 0"),
        (lambda: Rational(2, degrees=(6, 4), limit=1e6), "to the power 6 it must be below 1e30"),
        (lambda: KANLinear(2, 2, "rbf", grid_size=5), "basis rbf has no option 'grid_size'"),
    ],
)
def test_refusals(build, message):
    with pytest.raises(ValueError, match=message):
        build()
