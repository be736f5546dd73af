"""KANLinear on B-splines: against the recursion, against pykan, and each of its paths against the plain one."""

import copy
import math
import subprocess
import sys

import pytest
import torch
from conftest import ROOT, relative_error
from torch import nn
from torch.nn import functional as F

import zoo
from zoo.blocks.kan.bases import base as basis_base
from zoo.blocks.kan.bases.spline import Spline, spline_values
from zoo.blocks.kan.linear import KANLinear
from zoo.blocks.kernels import functions
from zoo.blocks.linear import initialise

ORDERS = range(6)


def uneven(basis: Spline) -> Spline:
    """The basis on knots of different distances in each feature."""
    gaps = 0.1 + torch.rand(basis.knots.shape, dtype=torch.float64)
    basis.set_knots((gaps.cumsum(1) - gaps.sum(1, keepdim=True) / 2) * 0.3)
    return basis


def layer_of(*, even: bool = True, std: float = 1.0, **options) -> KANLinear:
    layer = KANLinear(3, 4, **options)
    nn.init.normal_(layer.weight, std=std)
    if not even:
        uneven(layer.basis)
    return layer


def recursion(x: torch.Tensor, knots: torch.Tensor, order: int) -> torch.Tensor:
    """Cox and de Boor as textbooks have it, (N, features) -> (N, features, num) in float64."""
    x, t = x.double()[..., None], knots.double()
    values = ((t[:, :-1] <= x) & (x < t[:, 1:])).double()
    for k in range(1, order + 1):
        rising = (x - t[:, : -k - 1]) / (t[:, k:-1] - t[:, : -k - 1])
        falling = (t[:, k + 1 :] - x) / (t[:, k + 1 :] - t[:, 1:-k])
        values = rising * values[..., :-1] + falling * values[..., 1:]
    return values


def expected(layer: KANLinear, x: torch.Tensor) -> torch.Tensor:
    """The layer spelled out, in float64."""
    values = recursion(x, layer.basis.knots, layer.basis.order)
    y = torch.einsum("nik,oki->no", values, layer.coefficients.double())
    return y if layer.base is None else y + F.linear(F.silu(x.double()), layer.weight[:, 0].double())


# --- The splines ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("even", [True, False])
@pytest.mark.parametrize("order", ORDERS)
def test_splines_are_those_of_the_recursion_and_sum_to_one(order, even):
    basis = Spline(3, grid_size=7, order=order, grid_range=(-1, 2))
    basis = basis if even else uneven(basis)
    assert basis.even is even
    low, high = basis.knots[:, 0], basis.knots[:, -1]
    x = low + (high - low) * (1.2 * torch.rand(500, 3) - 0.1)
    values = basis.values(x)
    assert values.shape == (500, 7 + order, 3)
    reference = recursion(x, basis.knots, order).transpose(1, 2)
    at_a_step = (values - reference).abs() > 0.5  # a step of order 0 is on either side of a knot
    assert at_a_step.sum() == 0 and (values - reference).abs().max() < 1e-5
    inside = (x >= basis.knots[:, order]) & (x < basis.knots[:, -order - 1])
    assert inside.sum() > 100 and (values.sum(1)[inside] - 1).abs().max() < 1e-5
    outside = (x < low) | (x > high)
    assert outside.sum() > 100 and values.transpose(1, 2)[outside].abs().max() < 1e-6


@pytest.mark.parametrize("even", [True, False])
@pytest.mark.parametrize("order", ORDERS)
def test_the_form_in_place_is_the_plain_one(order, even, monkeypatch):
    monkeypatch.setattr(basis_base, "CHUNK", 200)  # several chunks
    basis = Spline(3, order=order, dtype=torch.float64)
    basis = basis if even else uneven(basis)
    x = (3 * torch.rand(50, 3, dtype=torch.float64) - 1.5).requires_grad_()
    values, found = basis.values(x), torch.empty(50, basis.num, 3, dtype=torch.float64)
    basis.fill(x.detach(), found)
    assert torch.allclose(found, values, atol=1e-12)
    narrow = torch.empty(50, basis.num, 3, dtype=torch.bfloat16)
    basis.fill(x.detach(), narrow)
    assert torch.allclose(narrow.double(), values, atol=0.01)
    grad = torch.randn_like(values)
    (slope,) = basis.pull_back(x.detach(), grad)
    by_autograd = torch.autograd.grad(values, x, grad, allow_unused=True)[0] if order else torch.zeros_like(x)
    assert torch.allclose(slope, by_autograd, atol=1e-9)


def test_splines_refuse_what_is_no_grid():
    for options in (dict(grid_size=0), dict(order=-1), dict(grid_range=(1, 1))):
        with pytest.raises(ValueError, match="must be"):
            Spline(2, **options)
    basis = Spline(2)
    with pytest.raises(ValueError, match=r"shape \(2, 5\).*\(2, grid_size \+ 7\)"):
        basis.set_knots(torch.arange(5.0).expand(2, 5))
    with pytest.raises(ValueError, match="do not rise"):
        basis.set_knots(torch.zeros(2, 12))


def test_knots_of_another_number_make_other_functions():
    basis = Spline(2, grid_size=5)
    basis.set_knots(torch.linspace(-4, 4, 17).expand(2, -1))
    assert (basis.grid_size, basis.num, basis.even) == (10, 13, True)
    assert basis.values(torch.zeros(1, 2)).sum(1).allclose(torch.ones(2))


# --- The layer against other codes ------------------------------------------------------------------------------------


@pytest.mark.parametrize("even", [True, False])
@pytest.mark.parametrize("base", ["silu", "none"])
def test_layer_is_the_formula_of_efficient_kan(base, even):
    """Its base term, and splines by the recursion times scaled weights; see `recursion`."""
    layer, x = layer_of(even=even, base=base), 1.2 * torch.randn(200, 3)
    scaler, spline_weight = torch.randn(4, 3), torch.randn(4, 3, 8)
    with torch.no_grad():
        layer.coefficients.copy_((spline_weight * scaler[..., None]).transpose(1, 2))
    reference = expected(layer, x)
    assert relative_error(layer(x).double(), reference) < 1e-5
    values = recursion(x, layer.basis.knots, 3).flatten(1)
    by_hand = F.linear(values, (spline_weight * scaler[..., None]).flatten(1).double())
    if base == "silu":
        by_hand = by_hand + F.linear(F.silu(x), layer.weight[:, 0]).double()
    assert relative_error(layer(x).double(), by_hand) < 1e-5


@pytest.mark.parametrize("adapted", [False, True])
def test_layer_is_that_of_pykan(adapted):
    official = pytest.importorskip("kan.KANLayer").KANLayer(in_dim=3, out_dim=4, num=6, k=3)
    x = torch.randn(300, 3)
    if adapted:
        official.update_grid_from_samples(x)
    with torch.no_grad():
        official.coef.normal_()
        official.mask[1, 2] = 0
    layer = KANLinear(3, 4, grid_size=6)
    layer.basis.set_knots(official.grid)
    with torch.no_grad():
        layer.weight[:, 0] = (official.mask * official.scale_base).t()
        layer.coefficients.copy_(((official.mask * official.scale_sp)[..., None] * official.coef).permute(1, 2, 0))
    assert layer.basis.even is not adapted
    assert relative_error(layer(x), official(x)[0]) < 1e-5


# --- Gradients --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("blocks", [1, 5])
@pytest.mark.parametrize("even", [True, False])
@pytest.mark.parametrize("order", ORDERS)
def test_gradients(order, even, blocks, monkeypatch):
    """The second derivative exists from cubic splines on; of lower ones it jumps at the knots."""
    layer = layer_of(order=order, even=even, bias=True, dtype=torch.float64)
    if blocks > 1:
        monkeypatch.setattr(functions, "BLOCK", 2 * layer.weight[0].numel())
    x = (2.4 * torch.rand(9, 3, dtype=torch.float64) - 1.2).requires_grad_()
    nn.init.normal_(layer.bias)

    def run(x, weight, bias):
        return torch.func.functional_call(layer, {"weight": weight, "bias": bias}, (x,))

    inputs = (x, layer.weight, layer.bias)
    assert torch.autograd.gradcheck(run, inputs)
    if order >= 3:
        assert torch.autograd.gradgradcheck(run, inputs, atol=1e-4)


@pytest.mark.parametrize("even", [True, False])
def test_block_by_block_is_the_plain_form(even, monkeypatch):
    layer, x = layer_of(even=even, bias=True), torch.randn(40, 3, requires_grad=True)
    grad = torch.randn(40, 4)
    inputs = (x, layer.weight, layer.bias)
    results = []
    for eager, block in (
        (False, functions.BLOCK),
        (True, functions.BLOCK),
        (True, 7 * layer.weight[0].numel()),
        (True, 1),
    ):
        monkeypatch.setattr(functions, "eager", lambda x, eager=eager: eager)
        monkeypatch.setattr(functions, "BLOCK", block)
        y = layer(x)
        results.append((y, *torch.autograd.grad(y, inputs, grad)))
    for result in results[1:]:
        for found, plain in zip(result, results[0], strict=True):
            assert relative_error(found, plain) < 1e-5


@pytest.mark.parametrize("frozen", ["weight", "input"])
def test_block_by_block_without_some_gradients(frozen, monkeypatch):
    layer, x = layer_of(), torch.randn(20, 3, requires_grad=True)
    both = torch.autograd.grad(layer(x).square().sum(), (x, layer.weight))
    monkeypatch.setattr(functions, "BLOCK", 100)
    layer.weight.requires_grad_(frozen != "weight")
    x = x.detach().requires_grad_(frozen != "input")
    wanted, known = (x, both[0]) if frozen == "weight" else (layer.weight, both[1])
    assert relative_error(torch.autograd.grad(layer(x).square().sum(), wanted)[0], known) < 1e-5


def test_one_gradient_a_sample():
    layer, x = layer_of(), torch.randn(6, 3)
    loss = lambda weight, sample: torch.func.functional_call(layer, {"weight": weight}, (sample[None],)).square().sum()
    found = torch.func.vmap(torch.func.grad(loss), (None, 0))(layer.weight.detach(), x)
    for one, sample in zip(found, x, strict=True):
        assert relative_error(one, torch.autograd.grad(loss(layer.weight, sample), layer.weight)[0]) < 1e-5


def test_without_gradients_it_is_the_same():
    layer, x = layer_of(), torch.randn(20, 3)
    with torch.no_grad():
        assert torch.equal(layer(x), layer(x.clone().requires_grad_()))


# --- Precisions, compilers, shapes ------------------------------------------------------------------------------------


@pytest.mark.parametrize("even", [True, False])
def test_bf16(even):
    layer, x = layer_of(even=even), torch.randn(50, 3)
    exact = layer(x)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x.requires_grad_())
    assert y.dtype is torch.bfloat16 and relative_error(y.float(), exact) < 0.02
    grads = torch.autograd.grad(y.float().square().sum(), (x, layer.weight))
    known = torch.autograd.grad(layer(x).square().sum(), (x, layer.weight))
    for found, right in zip(grads, known, strict=True):
        assert found.dtype is torch.float32 and relative_error(found, right) < 0.05
    narrow, rounded = copy.deepcopy(layer).bfloat16(), x.detach().bfloat16()
    y = narrow(rounded)
    assert y.dtype is torch.bfloat16 and relative_error(y.float(), layer(rounded.float())) < 0.03


def test_knots_that_bf16_cannot_tell_apart():
    """Adapted grids have knots nearer to each other than bf16 can say."""
    layer, x = KANLinear(1, 2), 100 + torch.rand(50, 1)
    layer.basis.set_knots((100 + torch.linspace(-0.1, 1.1, 12).pow(3))[None])
    exact = layer(x)
    narrow = layer.to(torch.bfloat16)
    assert narrow.weight.dtype is torch.bfloat16 and narrow.basis.knots.dtype is torch.float32
    y = narrow(x.bfloat16())
    assert y.isfinite().all() and y.shape == exact.shape
    assert KANLinear(2, 2, dtype=torch.bfloat16).basis.knots.dtype is torch.float32


def test_a_compiled_derivative_forwards_goes_through_the_splines_too():
    layer, x = KANLinear(3, 2, basis="spline"), torch.randn(4, 3)
    tangent = lambda x: torch.func.jvp(layer, (x,), (x,))[1]
    assert torch.allclose(torch.compile(tangent, backend="aot_eager")(x), tangent(x), atol=1e-5)


@pytest.mark.parametrize("even", [True, False])
def test_what_compilers_see_of_splines_is_an_operator_by_torchs_rules(even):
    basis = KANLinear(3, 2, basis="spline").basis
    if not even:
        basis.set_knots(basis.knots + 0.05 * torch.rand_like(basis.knots))
    x = torch.randn(2, 4, 3, requires_grad=True)
    torch.library.opcheck(spline_values, (x, basis.knots, basis.order))
    values = spline_values(x, basis.knots, basis.order)
    assert torch.allclose(values, basis.values(x), atol=1e-6) and values.shape == (2, 4, 8, 3)


@pytest.mark.parametrize("even", [True, False])
def test_compiles_whole(even):
    layer, x = layer_of(even=even, bias=True), torch.randn(20, 3, requires_grad=True)
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    inputs = (x, layer.weight, layer.bias)
    plain, found = ((y, *torch.autograd.grad(y.square().sum(), inputs)) for y in (layer(x), compiled(x)))
    for a, b in zip(found, plain, strict=True):
        assert relative_error(a, b) < 1e-5


def test_exports():
    layer, x = layer_of(), torch.randn(20, 3)
    batch = torch.export.Dim("batch", min=2)
    program = torch.export.export(layer, (x,), dynamic_shapes=({0: batch},))
    other = torch.randn(7, 3)
    assert relative_error(program.module()(other), layer(other)) < 1e-5


@pytest.mark.parametrize("shape", [(0, 3), (3,), (2, 5, 3), (2, 0, 3), (2, 3, 4, 3)])
def test_any_shape_in_front(shape):
    layer, x = layer_of(bias=True), torch.randn(shape, requires_grad=True)
    y = layer(x)
    assert y.shape == (*shape[:-1], 4)
    y.sum().backward()
    assert x.grad.shape == shape and layer.weight.grad.isfinite().all()
    assert torch.allclose(y.reshape(-1, 4).double(), expected(layer, x.reshape(-1, 3)) + layer.bias, atol=1e-5)


def test_any_stride():
    layer, x = layer_of(), torch.randn(3, 6, 5)
    for view in (x.permute(2, 1, 0), x.transpose(0, 2)[::2], x[:, :, :1].transpose(0, 1).expand(6, 3, 4).mT):
        assert torch.allclose(layer(view), layer(view.contiguous()), atol=1e-6)
    a, b = (torch.autograd.grad(layer(x.mT.reshape(-1, 6)[:, :3]).mean(), layer.weight)[0] for _ in range(2))
    assert torch.equal(a, b)


def test_refuses_other_widths_and_precisions():
    with pytest.raises(ValueError, match="takes 3 features in the last dimension"):
        KANLinear(3, 4)(torch.randn(2, 4))
    with pytest.raises(ValueError, match="of torch.float32 got torch.float64; convert"):
        KANLinear(3, 4)(torch.randn(2, 3, dtype=torch.float64))
    with pytest.raises(ValueError, match="in_features is 0; it must be from 1"):
        KANLinear(0, 4)
    with pytest.raises(ValueError, match="needs a basis"):
        KANLinear(3, 4, "none")
    with pytest.raises(ValueError, match="grid_size"):
        KANLinear(3, 4, grid_sizes=7)


@pytest.mark.parametrize("even", [True, False])
@pytest.mark.parametrize("order", [0, 1, 3, 5])
def test_what_is_not_finite_or_far_outside(order, even):
    layer = layer_of(order=order, even=even)
    far = torch.tensor([[50.0], [-50.0], [1e18], [-1e18]]).expand(-1, 3).clone().requires_grad_()
    y = layer(far)
    assert torch.allclose(y, F.linear(F.silu(far), layer.weight[:, 0]))  # the base term alone
    grads = torch.autograd.grad(y[:2].sum(), (far, layer.weight))
    assert all(grad.isfinite().all() for grad in grads)
    with torch.no_grad():
        infinite, large = (layer(torch.tensor([[value, -value, 0.1]])) for value in (math.inf, 3e38))
        assert torch.equal(infinite, large) and infinite.isfinite().all()
        one = layer(torch.tensor([[0.1, math.nan, 0.2], [0.1, 0.3, 0.2]]))
    assert one[0].isnan().all() and one[1].isfinite().all()


# --- Building, counting, memory ---------------------------------------------------------------------------------------


def test_built_on_meta_and_materialised():
    layer = KANLinear(3, 4, bias=True, device="meta")
    assert all(t.is_meta for t in layer.state_dict().values())
    layer.to_empty(device="cpu")
    for module in layer.modules():
        initialise(module)
    assert torch.equal(layer.basis.knots, KANLinear(3, 4).basis.knots) and layer.alive.all()
    assert layer(torch.randn(5, 3)).isfinite().all() and layer.coefficients.std() > 0


def test_the_start_has_the_size_that_scale_says():
    layer, x = KANLinear(256, 256, base="none"), 2 * torch.rand(500, 256) - 1
    size = layer.basis.values(x).square().mean().sqrt()
    assert layer(x).std().item() == pytest.approx(size.item(), rel=0.1)
    quiet = KANLinear(256, 256, scale=0.01, base="none")
    assert quiet(x).std().item() == pytest.approx(0.01 * size.item(), rel=0.1)


def test_knots_survive_the_state_dict():
    layer, x = layer_of(even=False), torch.randn(10, 3)
    other = KANLinear(3, 4)
    other.load_state_dict(layer.state_dict())
    assert not other.basis.even and torch.equal(other(x), layer(x))


def test_costs():
    report = zoo.count_flops(KANLinear(6, 5, grid_size=4, order=2, bias=True), (6,))
    assert report.macs == 6 * 2 * 3 + 6 * 5 * (4 + 2 + 1)
    assert report.params == 6 * 5 * 7 + 5 and not report.uncounted.keys() - {"add", "silu", "cat"}
    assert zoo.count_flops(KANLinear(6, 5, base="none"), (7, 6)).macs == 7 * (6 * 12 + 6 * 5 * 8)


@pytest.mark.slow
def test_a_large_input_needs_little_memory():
    code = """
import resource, torch
from zoo.blocks.kan.linear import KANLinear
layer, x = KANLinear(512, 512), torch.randn(65536, 512, requires_grad=True)
layer(x).sum().backward()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)
"""
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert float(run.stdout) < 4  # GiB, with torch itself; the functions alone would be 4.5 GiB
