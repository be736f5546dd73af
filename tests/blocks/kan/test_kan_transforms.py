"""Learnt functions under transformations and in recorded programs: tangents, gradients of a sample, batch sizes."""

import warnings

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, vmap

import zoo
from zoo.blocks.channel.gr_kan import GRKAN
from zoo.blocks.kan.edges import edge_sizes
from zoo.blocks.kan.linear import KANLinear
from zoo.blocks.kan.select import SelectKANLinear
from zoo.blocks.kernels.autograd import gradients
from zoo.blocks.token.kan_conv import KANConv2d
from zoo.blocks.token.select_kan_conv import SelectKANConv2d

BASES = zoo.list_blocks("basis")
FEW = ("spline(grid_size=2, order=2)", "wavelet(num=2)", "rbf(num=3)")


def selected(layer: nn.Module) -> nn.Module:
    with torch.no_grad():
        layer.gates.logits.normal_()
    layer.select()
    return layer


def uneven(layer: nn.Module) -> nn.Module:
    layer.basis.set_knots(layer.basis.knots + 0.2 * torch.rand_like(layer.basis.knots))
    return layer


DOUBLE = {"dtype": torch.float64}
LAYERS = {
    **{f"linear of {basis}": lambda basis=basis: KANLinear(3, 2, basis, base="silu", **DOUBLE) for basis in BASES},
    "linear of uneven splines": lambda: uneven(KANLinear(3, 2, **DOUBLE)),
    "linear of broken lines": lambda: KANLinear(3, 2, "spline(order=1)", **DOUBLE),
    "conv of splines": lambda: KANConv2d(4, 2, 3, basis="spline", bias=True, **DOUBLE),
    "conv of wavelets": lambda: KANConv2d(4, 2, 3, basis="wavelet(num=3)", groups=2, **DOUBLE),
    "select": lambda: SelectKANLinear(3, 5, FEW, **DOUBLE),
    "selected": lambda: selected(SelectKANLinear(3, 5, FEW, **DOUBLE)),
    "select conv": lambda: SelectKANConv2d(3, 4, 3, bases=FEW, **DOUBLE),
    "selected conv": lambda: selected(SelectKANConv2d(3, 4, 3, bases=FEW, **DOUBLE)),
    "gr_kan": lambda: GRKAN(4, hidden=8, **DOUBLE),
}


@pytest.fixture(params=LAYERS)
def layer(request):
    """A layer off its initialisation, where the denominators of rational functions are at the kink of ``|b|``."""
    made = LAYERS[request.param]()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return made


def batch(layer: nn.Module, size: int = 3) -> Tensor:
    if isinstance(layer, KANConv2d):
        return torch.randn(size, 3, 4, layer.in_features, dtype=torch.float64)
    features = layer.in_features if isinstance(layer, KANLinear) else 4
    return torch.randn(size, features, dtype=torch.float64)


def finite_difference(function, x: Tensor, direction: Tensor) -> Tensor:
    step = 1e-6
    with torch.no_grad():
        return (function(x + step * direction) - function(x - step * direction)) / (2 * step)


def test_forward_mode_has_a_tangent(layer):
    """Of the input, and of all weights at once."""
    x = batch(layer)
    along = torch.randn_like(x)
    expected = finite_difference(layer, x, along)
    assert torch.allclose(jvp(layer, (x,), (along,))[1], expected, atol=1e-6)
    with forward_ad.dual_level():
        assert torch.allclose(
            forward_ad.unpack_dual(layer(forward_ad.make_dual(x, along))).tangent, expected, atol=1e-6
        )
    weights = {name: p.detach() for name, p in layer.named_parameters()}
    ways = {name: torch.randn_like(p) for name, p in weights.items()}
    call = lambda weights: functional_call(layer, weights, (x,))
    found = jvp(call, (weights,), (ways,))[1]
    step = 1e-6
    moved = [call({n: w + sign * step * ways[n] for n, w in weights.items()}) for sign in (1, -1)]
    assert torch.allclose(found, (moved[0] - moved[1]) / (2 * step), atol=1e-5)


def test_gradients_of_each_sample(layer):
    x = batch(layer)
    weights = {name: p.detach() for name, p in layer.named_parameters()}
    loss = lambda weights, one: functional_call(layer, weights, (one[None],)).square().sum()
    found = vmap(grad(loss), in_dims=(None, 0))(weights, x)
    for i, one in enumerate(x):
        expected = torch.autograd.grad(layer(one[None]).square().sum(), [*layer.parameters()])
        for name, value in zip(weights, expected, strict=True):
            assert torch.allclose(found[name][i], value, atol=1e-9), name


def test_second_derivatives(layer):
    """By the two modes one in the other, in both orders, and by a gradient of the gradient."""
    x = batch(layer, 1)
    loss = lambda x: layer(x).square().sum()
    twice = hessian(loss)(x)
    assert torch.allclose(jacrev(jacfwd(loss))(x), twice, atol=1e-9)
    y = x.clone().requires_grad_()
    (first,) = torch.autograd.grad(loss(y), y, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), y)
    assert torch.allclose(second, twice.flatten(x.ndim).sum(-1).reshape(x.shape), atol=1e-9)


def test_several_gradients_at_once(layer):
    """`is_grads_batched` and `vmap` over a backward pass, of which the forward pass knew nothing."""
    x = batch(layer).requires_grad_()
    y = layer(x)
    cotangents = torch.randn(4, *y.shape, dtype=torch.float64)
    inputs = (x, *(p for p in layer.parameters()))
    pull = lambda c: torch.autograd.grad(y, inputs, c, retain_graph=True)
    rows = [pull(c) for c in cotangents]
    together = torch.autograd.grad(y, inputs, cotangents, is_grads_batched=True, retain_graph=True)
    for way in (together, vmap(pull)(cotangents)):
        for i, found in enumerate(way):
            assert torch.allclose(found, torch.stack([row[i] for row in rows]), atol=1e-9)


def test_traced_with_another_batch_size(layer):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(layer, batch(layer, 2))
    x = batch(layer, 5)
    assert torch.allclose(traced(x), layer(x), atol=1e-9)


def test_exported_with_a_dynamic_batch(layer):
    exported = torch.export.export(layer, (batch(layer, 3),), dynamic_shapes=({0: torch.export.Dim("batch")},))
    for size in (2, 5):
        x = batch(layer, size)
        assert torch.allclose(exported.module()(x), layer(x), atol=1e-9)
        with torch.no_grad():
            assert torch.allclose(exported.module()(x), layer(x), atol=1e-9)


@pytest.mark.parametrize("basis", ["spline", "wavelet"])
def test_sizes_of_edges_under_transformations(basis):
    layer, x = KANLinear(3, 2, basis, **DOUBLE), torch.randn(4, 3, dtype=torch.float64)
    expected = torch.stack([edge_sizes(layer, one) for one in x.split(1)])
    assert torch.allclose(vmap(lambda one: edge_sizes(layer, one[None]))(x), expected, atol=1e-9)

    class Sizes(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = layer

        def forward(self, x):
            return edge_sizes(self.layer, x)

    exported = torch.export.export(Sizes(), (x,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    assert torch.allclose(exported.module()(x[:2]), edge_sizes(layer, x[:2]), atol=1e-9)
    assert edge_sizes(layer, x[:0]).abs().max() == 0


def test_what_does_not_depend_on_its_input_has_zeros_as_gradients():
    x, weight = torch.randn(2, requires_grad=True), torch.randn(2, requires_grad=True)
    zeros = gradients(torch.ones(2), (x, weight), (True, False), torch.ones(2), create_graph=True)
    assert torch.equal(zeros[0], torch.zeros(2)) and zeros[1] is None
    steps = KANLinear(2, 2, "spline(order=0)", base="none").requires_grad_(False)
    (once,) = torch.autograd.grad(steps(x).sum(), x, create_graph=True)
    assert torch.equal(once, torch.zeros(2))
