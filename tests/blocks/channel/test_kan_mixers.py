"""The channel mixers of two Kolmogorov-Arnold layers, and the convolution of learnt functions."""

import pytest
import torch
from conftest import relative_error
from torch.autograd import gradcheck, gradgradcheck
from torch.nn import functional as F

import zoo
from zoo.blocks.kan.linear import KANLinear
from zoo.blocks.token.kan_conv import KANConv2d

MIXERS = ["spline_kan", "rbf_kan", "chebyshev_kan", "fourier_kan", "wavelet_kan", "rational_kan", "select_kan"]
BASES = ["spline", "rbf", "chebyshev", "fourier", "wavelet", "rational"]


def plain(layer: KANLinear, x: torch.Tensor) -> torch.Tensor:
    y = F.linear(layer.functions(x).flatten(-2), layer.edge_weight().flatten(1))
    return y if layer.bias is None else y + layer.bias


@pytest.fixture(params=MIXERS)
def name(request):
    return request.param


@pytest.fixture
def mixer(name):
    return create(name)


def create(name: str) -> torch.nn.Module:
    return zoo.create_block("channel_mixer", name, 32)


def output(mixer: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    y = mixer(x)
    return y[0] if isinstance(y, tuple) else y


# --- Channel mixers ---------------------------------------------------------------------------------------------------


def test_two_layers_with_a_norm_between(mixer):
    x = torch.randn(2, 3, 3, 32)
    hidden = plain(mixer.fc1, x)
    assert hidden.shape[-1] == 16
    expected = plain(mixer.fc2, F.layer_norm(hidden, (16,), eps=1e-6))
    assert torch.allclose(output(mixer, x), expected, atol=1e-5)


def test_mixers_train_in_low_precision(mixer):
    """Under autocast, AdamW brings a mixer nearer to a fixed one."""
    x, target = torch.randn(64, 32), torch.randn(64, 32)
    optimizer = torch.optim.AdamW(mixer.parameters(), lr=1e-2)
    losses = []
    for _ in range(20):
        with torch.autocast("cpu", torch.bfloat16):
            y = output(mixer, x)
        loss = (y.float() - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in mixer.parameters())
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


def test_mixers_are_saved_and_loaded(name, mixer, tmp_path):
    torch.save(mixer.state_dict(), tmp_path / "state.pt")
    again = create(name)
    again.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    x = torch.randn(2, 5, 32)
    assert torch.equal(output(again, x), output(mixer, x))


def test_mixers_are_counted(mixer):
    """rows x in x out of each product, and the evaluation of the basis for each input, at ten positions."""
    first, second = mixer.fc1, mixer.fc2
    expected = 10 * sum(
        layer.weight.shape[1] * layer.in_features * layer.out_features + layer.basis.macs * layer.in_features
        for layer in (first, second)
    )
    assert zoo.count_flops(mixer, inputs=[torch.randn(1, 10, 32)]).macs == expected


@pytest.mark.parametrize(
    "mixer_name, rows, macs",
    [
        ("spline_kan", 9, 12),
        ("rbf_kan", 9, 8),
        ("chebyshev_kan", 5, 3),
        ("fourier_kan", 10, 16),
        ("wavelet_kan", 8, 32),
        ("rational_kan", 6, 9),
        ("select_kan", 1 + 8 + 8 + 5 + 10 + 8, 12 + 8 + 3 + 16 + 32),
    ],
)
def test_rows_and_evaluations(mixer_name, rows, macs):
    layer = create(mixer_name).fc1
    assert layer.weight.shape == (16, rows, 32) and layer.basis.macs == macs


def test_mixers_compile(mixer):
    torch._dynamo.reset()
    x = torch.randn(2, 5, 32, requires_grad=True)
    compiled = torch.compile(mixer, backend="aot_eager", fullgraph=True)
    assert torch.allclose(output(compiled, x), output(mixer, x), atol=1e-5)
    grads = [torch.autograd.grad(output(f, x).square().sum(), x)[0] for f in (mixer, compiled)]
    assert relative_error(grads[1], grads[0]) < 1e-4


def test_the_signal_neither_fades_nor_grows(mixer):
    """Inputs of unit variance, as a norm gives them, come out within a factor of five."""
    assert 0.2 < output(mixer, torch.randn(500, 32)).std() < 5


@pytest.mark.parametrize(
    "slot, check",
    [
        ("spline_kan(grid_size=3, order=2, grid_range=(-3, 3))", lambda b: b.num == 5 and b.grid_range == (-3, 3)),
        ("rbf_kan(num=5, grid_range=(-1, 1), width=2.0)", lambda b: (b.num, b.width, b.grid_range) == (5, 2, (-1, 1))),
        ("chebyshev_kan(degree=6)", lambda b: b.degree == 6),
        ("fourier_kan(num_frequencies=2)", lambda b: b.num == 4),
        ("wavelet_kan(num=3, kind='dog')", lambda b: (b.num, b.kind, b.grid_range) == (3, "dog", (-2, 2))),
        ("rational_kan(degrees=(2, 2), limit=3.0)", lambda b: (b.degrees, b.limit) == ((2, 2), 3)),
        ("select_kan(bases=('rbf(num=3)', 'fourier'))", lambda b: b.sizes == [3, 10]),
    ],
)
def test_options_reach_both_layers(slot, check):
    more = ", ratio=1, base='gelu', bias=False, norm='none', drop=0.25)"
    mixer = zoo.create_block("channel_mixer", slot[:-1] + more, 32)
    for layer in (mixer.fc1, mixer.fc2):
        assert check(layer.basis) and type(layer.base) is torch.nn.GELU and layer.bias is None
        assert (layer.in_features, layer.out_features) == (32, 32)
    x = torch.randn(4, 32)
    assert torch.allclose(output(mixer.eval(), x), plain(mixer.fc2, plain(mixer.fc1, x)), atol=1e-5)
    assert (output(mixer.train(), x) == 0).float().mean() > 0.1


def test_dropout_of_the_model_reaches_them():
    model = zoo.create_model("mixer_test", channel_mixer="rbf_kan", token_mixer="kan_conv", proj_drop_rate=0.3)
    block = model.blocks[0]
    assert block.channel_mixer.drop.p == 0.3 and block.token_mixer.drop.p == 0.3


def test_a_hidden_layer_needs_a_width():
    with pytest.raises(ValueError, match="RbfKAN of dim 8 has a hidden width of 0; it must be at least 1"):
        zoo.create_block("channel_mixer", "rbf_kan(ratio=0.1)", 8)


# --- Convolution ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("basis", BASES)
def test_a_convolution_is_a_layer_on_windows_of_functions(basis, stride):
    """Each window as a long vector; outside of the image the functions are zero, not the numbers."""
    layer = KANConv2d(3, 4, 3, basis=basis, stride=stride, bias=True)
    with torch.no_grad():
        layer.bias.normal_()
    x = torch.randn(2, 5, 4, 3)
    functions = layer.functions(x).flatten(3).permute(0, 3, 1, 2)
    windows = F.unfold(functions, 3, padding=1, stride=stride).transpose(1, 2)
    expected = F.linear(windows, layer.weight.flatten(1), layer.bias)
    y = layer(x)
    assert y.shape == (2, -(-5 // stride), -(-4 // stride), 4)
    assert torch.allclose(y.flatten(1, 2), expected, atol=1e-5)


@pytest.mark.parametrize("basis", BASES)
def test_a_convolution_of_one_position_is_a_linear_layer(basis):
    conv, linear, x = KANConv2d(5, 4, 1, basis=basis), KANLinear(5, 4, basis), torch.randn(2, 3, 3, 5)
    with torch.no_grad():
        linear.weight.copy_(conv.weight[..., 0, 0])
    assert torch.allclose(conv(x), linear(x), atol=1e-5)


def test_groups_are_convolutions_by_themselves():
    layer, x = KANConv2d(4, 6, 3, groups=2), torch.randn(2, 5, 4, 4)
    y = layer(x)
    for g in range(2):
        one = KANConv2d(2, 3, 3)
        with torch.no_grad():
            one.weight.copy_(layer.weight[3 * g : 3 * g + 3])
        assert torch.allclose(one(x[..., 2 * g : 2 * g + 2]), y[..., 3 * g : 3 * g + 3], atol=1e-6)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("basis", BASES)
def test_derivatives_of_the_convolution(basis, groups):
    layer = KANConv2d(2, 2, 3, basis=basis, groups=groups, bias=True, dtype=torch.float64)
    with torch.no_grad():
        for parameter in layer.basis.parameters():
            parameter.add_(torch.rand_like(parameter), alpha=0.1)
    x = torch.randn(1, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    call = lambda x, *parameters: layer(x)
    assert gradcheck(call, (x, *layer.parameters()), fast_mode=True)
    assert gradgradcheck(call, (x, *layer.parameters()), fast_mode=True)


def test_the_convolution_compiled_counted_and_in_low_precision():
    torch._dynamo.reset()
    layer, x = KANConv2d(4, 6, 3, basis="wavelet", stride=2), torch.randn(2, 5, 4, 4, requires_grad=True)
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    assert torch.allclose(compiled(x), layer(x), atol=1e-5)
    assert zoo.count_flops(layer, inputs=[x.detach()]).macs == 3 * 2 * 8 * 4 * 9 * 6 + 5 * 4 * 4 * 32
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
    assert y.dtype is torch.bfloat16 and relative_error(y.float(), layer(x)) < 0.05
    y.float().sum().backward()
    assert x.grad.dtype is torch.float32 and all(p.grad.isfinite().all() for p in layer.parameters())


@pytest.mark.parametrize("convolution", ["kan_conv", "select_kan_conv"])
def test_a_sequence_is_an_image_of_height_one(convolution):
    mixer, x = zoo.create_block("token_mixer", convolution, 8), torch.randn(2, 7, 8)
    assert torch.allclose(output(mixer, x), output(mixer, x[:, None])[:, 0], atol=1e-6)


def test_a_strided_input_is_taken():
    mixer, x = zoo.create_block("token_mixer", "kan_conv", 8), torch.randn(2, 8, 5, 4).permute(0, 2, 3, 1)
    assert torch.allclose(mixer(x), mixer(x.contiguous()), atol=1e-6)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: KANConv2d(4, 4, 2), "kernel_size is 2; it must be odd"),
        (lambda: KANConv2d(4, 6, 3, groups=4), "4 and 6 channels in 4 groups; groups must divide both"),
        (lambda: KANConv2d(4, 4, 3, basis="none"), "needs a basis; for a layer without one use torch.nn.Conv2d"),
        (lambda: KANConv2d(4, 4, 3)(torch.ones(2, 4, 5, 5)), r"takes \(B, H, W, 4\), got \(2, 4, 5, 5\)"),
        (lambda: KANConv2d(4, 4, 3)(torch.ones(2, 5, 5, 4).double()), "of torch.float32 got torch.float64"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()
