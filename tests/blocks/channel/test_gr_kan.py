"""Group-wise rational functions: the official formula and its gradients, each path against the plain one, and KAT."""

import importlib.util
import math
import os
import subprocess
import sys

import pytest
import torch
from conftest import ROOT, randomised, relative_error
from torch.nn import functional as F

import zoo
from zoo.blocks.channel.gr_kan import COEFFICIENTS, GRKAN, GroupRational, gain
from zoo.blocks.kernels import rational as kernel
from zoo.blocks.kernels.rational import formula, rational
from zoo.blocks.linear import initialise
from zoo.tools.kan.from_vit import from_vit

FORMS = [(8, 5, 4, True), (3, 3, 2, False), (2, 0, 1, True), (2, 2, 0, True), (1, 1, 3, False), (2, 7, 8, True)]


def coefficients(groups, m, n, shared, dtype=torch.float64):
    return torch.randn(1 if shared else groups, m + 1, dtype=dtype), torch.randn(groups, n, dtype=dtype)


def leaves(*tensors):
    return [t.detach().clone().requires_grad_() for t in tensors]


@pytest.fixture
def small_pieces(monkeypatch):
    """Pieces of a few rows, so that small tensors have several, the last one shorter."""
    monkeypatch.setattr(kernel, "PIECE", 100)


# --- The function -----------------------------------------------------------------------------------------------------


def official(x, a, b, grad):
    """Values and gradients as the authors' CUDA kernel writes them out: power by power, group by group."""
    groups, width = len(b), x.shape[-1] // len(b)
    y, dx, da, db = torch.zeros_like(x), torch.zeros_like(x), torch.zeros(groups, 6).double(), torch.zeros_like(b)
    for i in range(groups):
        part = slice(i * width, (i + 1) * width)
        z, g = x[:, part], grad[:, part]
        size, sign = z.abs(), torch.where(z < 0, -1.0, 1.0)
        p = sum(a[0, k] * z**k for k in range(6))
        q = 1 + sum(b[i, k - 1].abs() * size**k for k in range(1, 5))
        r = sum(k * a[0, k] * z ** (k - 1) for k in range(1, 6))
        s = sign * sum(k * b[i, k - 1].abs() * size ** (k - 1) for k in range(1, 5))
        y[:, part], dx[:, part] = p / q, (r / q - p / q**2 * s) * g
        for k in range(6):
            da[i, k] = (z**k / q * g).sum()
        for k in range(1, 5):
            db[i, k - 1] = (-p / q**2 * (-1.0 if b[i, k - 1] < 0 else 1.0) * size**k * g).sum()
    return y, dx, da.sum(0, keepdim=True), db


@pytest.mark.parametrize("function", [rational, formula])
def test_values_and_gradients_are_those_of_the_official_kernel(function):
    """Also where x or b is zero, whose sign is +1: denominators that start from zero get a gradient."""
    x, (a, b), grad = torch.randn(50, 16).double(), coefficients(8, 5, 4, True), torch.randn(50, 16).double()
    x[0], b[0], b[1, 2] = 0, 0, 0
    inputs = leaves(x, a, b)
    y = function(*inputs)
    found = [y, *torch.autograd.grad(y, inputs, grad)]
    for one, expected in zip(found, official(x, a, b, grad), strict=True):
        assert relative_error(one, expected) < 1e-12
    assert (found[3][0] != 0).all()


@pytest.mark.parametrize("form", FORMS)
def test_gradients_once_and_twice(form, small_pieces):
    inputs = leaves(torch.randn(10, 24).double(), *coefficients(*form))
    assert torch.autograd.gradcheck(rational, inputs)
    inputs = leaves(torch.randn(2, 24).double(), *coefficients(*form))
    assert torch.autograd.gradgradcheck(rational, inputs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("form", FORMS)
def test_piece_by_piece_is_the_formula(form, dtype, small_pieces):
    x = torch.randn(24, 3, 31).transpose(0, 2).to(dtype)
    inputs, twins = (leaves(x, *coefficients(*form, torch.float32)) for _ in range(2))
    with torch.no_grad():
        for twin, one in zip(twins, inputs, strict=True):
            twin.copy_(one)
    grad = torch.randn(x.shape).to(dtype)
    y, expected = rational(*inputs), formula(*twins)
    y.backward(grad)
    expected.backward(grad)
    assert y.dtype is dtype and y.shape == x.shape
    limit = 0.02 if dtype.itemsize == 2 else 1e-5
    assert relative_error(y.double(), expected.double()) < limit
    for one, twin in zip(inputs, twins, strict=True):
        if one.numel():
            assert one.grad.dtype is one.dtype and relative_error(one.grad.double(), twin.grad.double()) < limit


def test_gradients_of_some_inputs_alone(small_pieces):
    x, (a, b), grad = torch.randn(20, 16).double(), coefficients(8, 5, 4, True), torch.randn(20, 16).double()
    every = torch.autograd.grad(rational(*(inputs := leaves(x, a, b))), inputs, grad)
    for place in range(3):
        inputs = [t.clone().requires_grad_(i == place) for i, t in enumerate((x, a, b))]
        assert torch.equal(torch.autograd.grad(rational(*inputs), inputs[place], grad)[0], every[place])
    assert rational(x[:0], a, b).shape == (0, 16)


def test_the_same_input_gives_the_same_bits(small_pieces):
    layer, x, grad = GroupRational(64), torch.randn(999, 64), torch.randn(999, 64)
    runs = [torch.autograd.grad(layer(x), list(layer.parameters()), grad) for _ in range(3)]
    for again in runs[1:]:
        assert all(torch.equal(one, other) for one, other in zip(runs[0], again, strict=True))


def test_only_the_input_and_the_coefficients_are_kept():
    layer, x, kept = GroupRational(64), torch.randn(10, 64, requires_grad=True), []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        layer(x)
    assert sorted(t.numel() for t in kept) == [6, 32, 640]


def test_compiled_gradients_are_the_same_also_from_zero():
    x, (a, b), grad = torch.randn(20, 16), coefficients(8, 5, 4, True, torch.float32), torch.randn(20, 16)
    x[0], b[0] = 0, 0
    compiled = torch.compile(rational, backend="aot_eager", fullgraph=True)
    inputs, twins = leaves(x, a, b), leaves(x, a, b)
    y, expected = compiled(*inputs), rational(*twins)
    assert torch.allclose(y, expected, atol=1e-5)
    for one, other in zip(
        torch.autograd.grad(y, inputs, grad), torch.autograd.grad(expected, twins, grad), strict=True
    ):
        assert relative_error(one, other) < 1e-5


def test_gradients_of_each_sample_under_vmap():
    a, b = coefficients(4, 5, 4, True)
    x = torch.randn(6, 3, 8).double()
    loss = lambda a, b, x: rational(x, a, b).square().sum()
    each = torch.func.vmap(torch.func.grad(loss, (0, 1)), (None, None, 0))(a, b, x)
    for i, sample in enumerate(x):
        inputs = leaves(a, b)
        for found, expected in zip(each, torch.autograd.grad(loss(*inputs, sample), inputs), strict=True):
            assert relative_error(found[i], expected) < 1e-12


def test_a_batch_of_gradients_at_once():
    inputs = leaves(torch.randn(5, 8).double(), *coefficients(4, 5, 4, True))
    y, grads = rational(*inputs), torch.randn(3, 5, 8).double()
    batch = torch.autograd.grad(y, inputs, grads, is_grads_batched=True, retain_graph=True)
    for i, grad in enumerate(grads):
        for found, expected in zip(batch, torch.autograd.grad(y, inputs, grad, retain_graph=True), strict=True):
            assert relative_error(found[i], expected) < 1e-12


TRITON = """
import torch
from zoo.blocks.kernels import rational as kernel, rational_triton as triton

torch.manual_seed(0)
triton.PROGRAMS = 2
for groups, m, n, shared in [(8, 5, 4, True), (3, 3, 2, False), (2, 0, 1, True)]:
    x, grad = torch.randn(2, 2, 171, 24)
    x[0, 0, :4] = torch.tensor([0.0, float("inf"), -1e38, 5.0])
    a, b = torch.randn(1 if shared else groups, m + 1), torch.randn(groups, n)
    b[0] = 0
    inputs = [t.requires_grad_() for t in (x, a, b)]
    y = kernel.formula(*inputs)
    expected = (y, *torch.autograd.grad(y, inputs, grad))
    with torch.no_grad():
        limit = kernel.bound(a, b, torch.float32)
        runs = [(triton.forward(x, a, b, limit), *triton.backward(grad, x, a, b, limit)) for _ in range(2)]
    for one, again, twin in zip(*runs, expected):
        assert torch.equal(one, again)
        assert (one - twin).abs().max() <= 1e-5 * twin.abs().max(), (groups, m, n)
print("equal")
"""


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
def test_the_kernels_for_the_gpu_in_tritons_interpreter():
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": str(ROOT)}
    run = subprocess.run([sys.executable, "-c", TRITON], env=environment, capture_output=True, text=True, timeout=300)
    assert run.stdout.strip() == "equal", run.stderr


# --- Where plain arithmetic would give no number ----------------------------------------------------------------------

paths = pytest.mark.parametrize("function", [rational, formula])


@paths
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("start", COEFFICIENTS)
def test_beyond_the_bound_the_value_stays(function, dtype, start):
    a, b = (torch.tensor([c]) for c in COEFFICIENTS[start])
    bound = kernel.bound(a, b, torch.promote_types(dtype, torch.float32))
    huge = torch.tensor([[1.0], [bound], [2 * bound], [torch.finfo(dtype).max], [math.inf]], dtype=dtype)
    x = torch.cat([huge, -huge]).requires_grad_()
    inputs = [x, *leaves(a, b)]
    y = function(*inputs)
    assert torch.isfinite(y).all()
    assert (y[1:5] == y[1]).all() and (y[6:] == y[6]).all()
    gradients = torch.autograd.grad(y.sum(), inputs)
    assert all(torch.isfinite(g).all() for g in gradients)
    assert (gradients[0][[1, 2, 3, 4, 6, 7, 8, 9]] == 0).all()
    alone = leaves(x[[0, 5]], a, b)  # nor have the coefficients anything of them
    expected = torch.autograd.grad(function(*alone).sum(), alone)
    assert all(torch.allclose(g, e) for g, e in zip(gradients[1:], expected[1:], strict=True))


@paths
def test_what_is_not_a_number_stays_so_and_spoils_nothing_else(function):
    x = torch.randn(4, 16)
    expected = function(x, *coefficients(8, 5, 4, True, torch.float32))
    torch.manual_seed(0)
    x = torch.randn(4, 16)
    x[1, 3] = math.nan
    y = function(x, *coefficients(8, 5, 4, True, torch.float32))
    assert y[1, 3].isnan() and y.isnan().sum() == 1
    assert torch.equal(y[~y.isnan()], expected[~y.isnan()])


def test_the_denominator_is_never_below_one():
    """Coefficients that would give the usual P / (1 + b x) a pole: here nothing is above P."""
    x = torch.linspace(-5, 5, 1001).unsqueeze(1)
    y = rational(x, torch.ones(1, 1), torch.tensor([[-1.0, -2.0, 0.5, -3.0]]))
    assert 0 < y.min() < 0.01 and y.max() == pytest.approx(1)


# --- The layers -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("start", "function", "error"),
    [
        ("identity", lambda x: x, 0),
        ("swish", F.silu, 1.2e-6),
        ("sigmoid", torch.sigmoid, 1.9e-5),
        ("tanh", torch.tanh, 4.1e-5),
        ("gelu", F.gelu, 4.2e-3),
    ],
)
def test_coefficients_are_what_they_are_called(start, function, error):
    x = torch.linspace(-3, 3, 2001, dtype=torch.float64).unsqueeze(1)
    layer = GroupRational(1, init=start, dtype=torch.float64)
    assert (layer(x) - function(x)).abs().max() <= error


def test_groups_share_the_numerator_and_have_their_own_denominators():
    layer = GroupRational(16)
    assert layer.numerator.shape == (1, 6) and layer.denominator.shape == (8, 4)
    assert GroupRational(12).denominator.shape == (4, 4) and GroupRational(7).denominator.shape == (1, 4)
    with torch.no_grad():
        layer.denominator[3] += 1
    x = torch.ones(1, 16)
    changed = (layer(x) != GroupRational(16)(x)).flatten()
    assert changed.nonzero().flatten().tolist() == [6, 7]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: GroupRational(12, groups=8), "12 channels cannot be cut into 8 groups"),
        (lambda: GroupRational(8, init="gleu"), "did you mean 'gelu'"),
        (lambda: GRKAN(8, weights="xavir"), "did you mean 'xavier'"),
        (lambda: GRKAN(8, hidden=0), "hidden is 0; it must be from 1"),
        (lambda: zoo.create_model("vit_test", channel_mixer="gr_kan(groups=5)"), "32 channels cannot be cut into 5"),
        (lambda: rational(torch.randn(2, 6), torch.ones(1, 2), torch.ones(4, 2)), "6 channels are not a multiple of 4"),
        (lambda: rational(torch.randn(2, 6), torch.ones(2, 2), torch.ones(3, 2)), "coefficients of shapes"),
    ],
)
def test_errors_say_what_would_do(call, message):
    with pytest.raises(ValueError, match=message):
        call()
    with pytest.raises(TypeError, match="floating-point"):
        rational(torch.ones(2, 2, dtype=torch.long), torch.ones(1, 2), torch.ones(1, 2))


def test_mixer_is_the_official_order():
    """Rational, dropout, map; rational, dropout, map."""
    mixer, x = randomised(GRKAN(16, ratio=2)), torch.randn(3, 5, 16)
    expected = mixer.fc2(mixer.act2(mixer.fc1(mixer.act1(x))))
    assert torch.equal(mixer(x), expected)
    mixer = GRKAN(16, drop=0.5).train()
    seen = []
    for layer in (mixer.fc1, mixer.fc2):
        layer.register_forward_pre_hook(lambda _, inputs: seen.append((inputs[0] == 0).float().mean().item()))
    mixer(torch.randn(500, 16))
    assert all(0.4 < share < 0.6 for share in seen) and len(seen) == 2


@pytest.mark.parametrize("whole", [True, False])
def test_bf16(whole):
    mixer, x = randomised(GRKAN(64)), torch.randn(20, 64)
    expected = mixer(x)
    if whole:
        y = mixer.bfloat16()(x.bfloat16())
    else:
        with torch.autocast("cpu", torch.bfloat16):
            y = mixer(x)
    y.float().sum().backward()
    assert y.dtype is torch.bfloat16 and relative_error(y.float(), expected) < 0.03
    assert all(p.grad.dtype is p.dtype and torch.isfinite(p.grad).all() for p in mixer.parameters())


def test_costs():
    report = zoo.count_flops(GRKAN(16, ratio=2), (3, 16))
    assert report.macs == 3 * (2 * 16 * 32 + 9 * (16 + 32))


def test_built_on_meta_it_is_the_same_mixer():
    mixer = GRKAN(256, device="meta").to_empty(device="cpu")
    for module in mixer.modules():
        initialise(module)
    assert torch.equal(mixer.act2.numerator, GroupRational(1).numerator)
    assert mixer.fc1.weight.std().item() == pytest.approx(256**-0.5, rel=0.01)
    assert mixer.fc2.weight.std().item() == pytest.approx(gain("swish") * 1024**-0.5, rel=0.01)
    assert not mixer.fc2.bias.any()


# --- Variance ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("start", ["swish", "gelu"])
def test_gains_keep_the_second_moment(start):
    z = torch.randn(10**6, 1).double()
    moment = GroupRational(1, init=start, dtype=torch.float64)(z).square().mean().item()
    assert moment * gain(start) ** 2 == pytest.approx(1, rel=0.01)
    authors = {"gelu": 2.3567850379928976, "swish": 2.8178205270359653}
    assert gain(start) ** 2 == pytest.approx(authors[start], rel=0.006)


@pytest.mark.parametrize("start", ["swish", "gelu"])
def test_a_chain_of_mixers_keeps_the_variance(start):
    """At the width of KAT-B. Without residuals the chance of each draw is handed on: at 256, one in six leaves it."""
    x = torch.randn(64, 768)
    variances = []
    with torch.no_grad():
        for _ in range(12):
            x = GRKAN(768, rational=start)(x)
            variances.append(x.var().item())
    assert all(0.5 < v < 2 for v in variances), variances


def test_kat_keeps_its_variances_through_the_depth():
    """Of the residual stream and of what the perceptrons add. What mimetic attention adds grows by 2.1 to 2.5."""
    model = zoo.create_model("kat_tiny_patch16_224").eval()
    stream, added = [], []
    for block in model.blocks:
        block.register_forward_hook(lambda m, i, y: stream.append(y.var().item()))
        block.channel_mixer.register_forward_hook(lambda m, i, y: added.append(y.var().item()))
    with torch.no_grad():
        model(torch.randn(2, *model.input_size))
    for found in (stream, added):
        assert len(found) == 12 and max(found) < 2 * min(found), found


# --- KAT --------------------------------------------------------------------------------------------------------------


def test_mimetic_attention():
    """The products begin near to multiples of the identity, as the authors' code makes them."""
    layer = zoo.create_block("token_mixer", "attention(heads=2, init='mimetic')", dim=128)
    q, k, v = layer.qkv.weight.detach().chunk(3)
    for query, key in zip(q.chunk(2), k.chunk(2), strict=True):
        product = query.t() @ key  # of rank 64: the greatest half of the singular values
        assert torch.linalg.matrix_rank(product, rtol=1e-4) == 64
        assert 0.4 < product.diagonal().mean() < 0.9 and abs(product.mean()) < 0.02
        assert torch.allclose(query @ query.t(), key @ key.t(), atol=1e-4)  # the singular values are shared evenly
    product = layer.proj.weight.detach() @ v
    assert product.diagonal().mean().item() == pytest.approx(-0.4, abs=0.05)
    assert torch.allclose(torch.linalg.eigvals(product).abs().sort()[0].mean(), torch.tensor(0.5), atol=0.1)
    assert not layer.qkv.bias.any() and not layer.proj.bias.any()


def test_kat_starts_as_the_authors_code_does():
    model = zoo.create_model("kat_tiny_patch16_224", depth=1)
    mixer = model.blocks[0].channel_mixer
    for weight in (mixer.fc1.weight, mixer.fc2.weight, model.head.weight):
        assert weight.std().item() == pytest.approx(0.02, rel=0.03)
    assert model.tokens.cls_token.abs().max() < 1e-5
    assert (mixer.act1.init, mixer.act2.init) == ("identity", "swish")
    assert mixer.act1.denominator.shape == mixer.act2.denominator.shape == (8, 4)
    gelu = zoo.create_model("kat_tiny_gelu_patch16_224", device="meta")
    assert gelu.blocks[3].channel_mixer.act2.init == "gelu"


@pytest.mark.parametrize("name", ["vit_test", "deit_test"])
def test_a_kat_from_a_vit_computes_nearly_the_same(name):
    vit = randomised(zoo.create_model(name))
    kat, x = from_vit(vit).eval(), torch.randn(4, *vit.input_size)
    assert relative_error(kat(x), vit(x)) < 0.05
    state = kat.state_dict()
    assert all(torch.equal(state[key], value) for key, value in vit.state_dict().items())
    act1, act2 = kat.blocks[1].channel_mixer.act1, kat.blocks[1].channel_mixer.act2
    assert (act1.init, act2.init) == ("identity", "gelu")
    assert from_vit(vit, rational="swish").blocks[1].channel_mixer.act2.init == "swish"


def test_a_kat_from_a_vit_takes_the_images_that_the_vit_took():
    vit = zoo.create_model("vit_small_patch16_224", depth=1)
    cfg = from_vit(vit).pretrained_cfg
    assert cfg["mean"] == (0.5, 0.5, 0.5) == vit.pretrained_cfg["mean"] and cfg["architecture"].startswith("kat_small")


def test_a_kat_from_a_vit_is_saved_and_opened_again(tmp_path):
    kat = from_vit(zoo.create_model("deit_test", drop_path_rate=0.1, num_classes=3)).eval()
    zoo.save_pretrained(kat, tmp_path)
    x = torch.randn(2, *kat.input_size)
    again = zoo.create_model(f"local-dir:{tmp_path}").eval()
    assert torch.equal(again(x), kat(x)) and again(x).shape == (2, 3)


def test_a_kat_from_a_checkpoint_by_name(timm_checkpoint):
    model, path = timm_checkpoint("deit_tiny_patch16_224", num_classes=5, img_size=64)
    kat = from_vit(
        "deit_tiny_patch16_224.fb_in1k",
        num_classes=5,
        img_size=64,
        pretrained_cfg_overlay={"file": str(path), "num_classes": 5, "input_size": (3, 64, 64)},
    ).eval()
    assert kat.pretrained_cfg["architecture"] == "kat_tiny_patch16_224"
    x = torch.randn(1, 3, 64, 64)
    assert relative_error(kat(x), model(x)) < 0.05


@pytest.mark.parametrize("name", ["gmlp_test", "gmixer_test", "kat_test", "swin_test"])
def test_only_a_model_with_perceptrons_of_gelu_makes_a_kat(name):
    with pytest.raises(TypeError, match="takes a ViT or a DeiT"):
        from_vit(zoo.create_model(name, device="meta"))
