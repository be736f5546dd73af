"""What each block computes, against a plain spelling of it, and each fast path against its plain twin."""

import pytest
import torch
from conftest import relative_error
from torch import nn
from torch.nn import functional as F

import zoo
from zoo.blocks.channel.glu import Glu
from zoo.blocks.channel.mlp import Mlp
from zoo.blocks.kernels import attention, machine, onednn
from zoo.blocks.linear import Linear, TokenLinear, initialise, linear_act, linear_act_halves
from zoo.blocks.token.pool import Pool
from zoo.slots.table import blocks_of


def test_token_linear_is_transpose_linear_transpose():
    layer, x = TokenLinear(5, 7), torch.randn(3, 5, 4)
    expected = F.linear(x.transpose(1, 2), layer.weight, layer.bias).transpose(1, 2)
    assert torch.allclose(layer(x), expected, atol=1e-6)


@pytest.mark.parametrize(
    "act, function",
    [
        ("silu", F.silu),
        ("gelu", F.gelu),
        ("relu", F.relu),
        ("sigmoid", torch.sigmoid),
        ("none", lambda x: x),
    ],
)
@pytest.mark.parametrize("gate_last", [False, True])
def test_glu_variants(act, function, gate_last):
    layer, x = Glu(8, hidden=5, act=act, gate_last=gate_last), torch.randn(2, 3, 8)
    a, b = layer.fc1(x).chunk(2, -1)
    hidden = a * function(b) if gate_last else function(a) * b
    assert torch.allclose(layer(x), layer.fc2(hidden), atol=1e-6)


def test_glu_has_the_parameters_of_mlp():
    count = lambda slot: sum(p.numel() for p in zoo.create_block("channel_mixer", slot, dim=768).parameters())
    assert count("glu(bias=False)") == pytest.approx(count("mlp(ratio=4, bias=False)"), rel=1e-3)


def test_open_gates_start_open():
    layer = Glu(64, open_gate=True)
    value, gate = layer.fc1(torch.randn(10, 64)).chunk(2, -1)
    assert torch.allclose(value, torch.ones(1), atol=1e-3) and gate.std() > 0.01  # the gate is the first half


@pytest.mark.parametrize("shape", [(2, 6, 4), (2, 6, 5, 4)])
@pytest.mark.parametrize("size", [1, 3, 5])
def test_pool_is_the_mean_of_the_neighbours_that_exist(shape, size):
    x = torch.randn(shape)
    y = Pool(4, size=size, subtract=False)(x)
    r = size // 2
    for place in [(0,) * (len(shape) - 2), (2,) * (len(shape) - 2), (5, 4)[: len(shape) - 2]]:
        window = x[(slice(None), *(slice(max(0, p - r), p + r + 1) for p in place))]
        assert torch.allclose(y[(slice(None), *place)], window.flatten(1, -2).mean(1), atol=1e-6)
    assert torch.allclose(Pool(4, size=size)(x), y - x, atol=1e-6)


# --- Fast paths -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tokens", [5, 197])
def test_the_two_forms_of_attention_agree(tokens, monkeypatch):
    """bf16 on the CPU takes two matrix products; in float64 precision both forms are the same function."""
    monkeypatch.setattr(machine, "AMX", False)
    x = torch.randn(2, tokens, 3 * 32)
    exact = attention.attend(x.double(), 4)
    plain = attention.attend(x.bfloat16(), 4)
    monkeypatch.setattr(attention, "PRODUCTS_LIMIT", 0)
    fused = attention.attend(x.bfloat16(), 4)
    assert relative_error(plain.double(), exact) < 1.5 * relative_error(fused.double(), exact) + 0.01
    assert relative_error(attention.attend(x, 4).double(), exact) < 1e-5


def test_both_forms_of_attention_have_the_same_gradients(monkeypatch):
    x = torch.randn(2, 50, 3 * 32).bfloat16().requires_grad_()
    grads = []
    for limit in (1024, 0):
        monkeypatch.setattr(attention, "PRODUCTS_LIMIT", limit)
        grads.append(torch.autograd.grad(attention.attend(x, 4).float().square().sum(), x)[0].float())
    assert relative_error(grads[0], grads[1]) < 0.03


def test_attention_dropout_drops_weights_in_both_forms(monkeypatch):
    monkeypatch.setattr(machine, "AMX", False)
    x = torch.randn(2, 20, 3 * 32).bfloat16()
    for limit in (1024, 0):
        monkeypatch.setattr(attention, "PRODUCTS_LIMIT", limit)
        kept = torch.stack([attention.attend(x, 4, 0.5).float() for _ in range(300)]).mean(0)
        assert relative_error(kept, attention.attend(x, 4).float()) < 0.25  # right on average
        assert not torch.equal(attention.attend(x, 4, 0.5), attention.attend(x, 4, 0.5))


@pytest.fixture
def any_size(monkeypatch):
    """The fast linear maps for tensors of any size, so that small ones test them."""
    monkeypatch.setattr(onednn, "LEAST_MACS", dict.fromkeys(onednn.LEAST_MACS, 1))


@pytest.mark.parametrize("approximate", ["none", "tanh"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bias", [False, True])
def test_fast_linear_maps_are_the_plain_ones(approximate, dtype, bias, any_size):
    x, act = torch.randn(2, 3, 5, 16, dtype=dtype), nn.GELU(approximate)
    layer = Linear(16, 24, bias, init="torch", dtype=dtype)
    plain = F.linear(x.double(), layer.weight.double(), None if layer.bias is None else layer.bias.double())
    with torch.no_grad():
        pairs = [
            (layer(x), plain),
            (linear_act(x, layer, act), act(plain)),
            (torch.cat(linear_act_halves(x, layer, act), -1), act(plain)),
        ]
    for found, expected in pairs:
        assert found.shape == (2, 3, 5, 24) and found.dtype is dtype
        assert relative_error(found.double(), expected) < (1e-5 if dtype is torch.float32 else 0.02)


def test_fast_linear_maps_step_aside_wherever_something_watches(any_size):
    x, layer, act = torch.randn(4, 16), Linear(16, 24, init="torch"), nn.GELU()
    call = lambda x: linear_act(x, layer, act)
    assert call(x).grad_fn is not None
    with torch.no_grad():
        assert onednn.usable(x, layer.weight) or not torch.backends.mkldnn.is_available()
        with torch.autocast("cpu", torch.bfloat16):
            assert call(x).dtype is torch.bfloat16
        plain = act(F.linear(x, layer.weight, layer.bias))
        assert torch.allclose(torch.compile(call, backend="aot_eager", fullgraph=True)(x), plain, atol=1e-5)
        assert call(x[:0]).shape == (0, 24)
        calls = []
        layer.register_forward_hook(lambda *a: calls.append(a))
        call(x)
        assert len(calls) == 1


@pytest.mark.parametrize("name", ["mixer_test", "gmixer_test", "gmlp_test", "vit_test"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_adapter_in_place_of_a_layer_is_called(name, dtype, any_size):
    """LoRA and the like exchange the linear maps; no fast path goes around what stands in their place."""

    class Adapter(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner, self.calls = inner, 0

        def forward(self, x):
            self.calls += 1
            return self.inner(x)

    model = zoo.create_model(name, dtype=dtype).eval()
    x = torch.randn(1, 3, 32, 32, dtype=dtype)
    with torch.no_grad():
        expected = model.forward_features(x)
        layers = [
            (m, k) for m in model.modules() for k, c in m.named_children() if isinstance(c, (nn.Linear, nn.Conv2d))
        ]
        for parent, key in layers:
            setattr(parent, key, Adapter(getattr(parent, key)))
        assert relative_error(model.forward_features(x).float(), expected.float()) < (
            1e-5 if dtype is torch.float32 else 0.05
        )
        model(x)
    assert [m.calls for m in model.modules() if isinstance(m, Adapter)] == [2] * (len(layers) - 1) + [1]


def test_train_and_eval_forward_agree(any_size):
    """The fast path of inference gives what the path with gradients gives."""
    layer, x = Mlp(16), torch.randn(3, 16)
    with torch.no_grad():
        fast = layer(x)
    assert torch.allclose(fast, layer(x), atol=1e-6)


# --- Initialisation ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "scheme, std",
    [
        ("trunc_normal", 0.02),
        ("trunc_normal_005", 0.005),
        ("trunc_normal(std=0)", 0.0),
        ("xavier", (2 / (400 + 200)) ** 0.5),
        ("lecun", 400**-0.5),
        ("zeros", 0.0),
        ("prior", 0.0),
        ("torch", (1 / 3 / 400) ** 0.5),
        ("open_gate", 1e-6),
    ],
)
def test_initialisation_schemes(scheme, std):
    layer = Linear(400, 200, init=scheme)
    assert layer.weight.std().item() == pytest.approx(std, rel=0.05)
    layer.weight.data.fill_(7)
    initialise(layer)
    assert layer.weight.std().item() == pytest.approx(std, rel=0.05)
    assert set(blocks_of("init")) >= {
        "trunc_normal",
        "trunc_normal_005",
        "xavier",
        "lecun",
        "zeros",
        "prior",
        "torch",
        "open_gate",
    }


@pytest.mark.parametrize(
    "slot",
    [
        "rbf_kan(base='relu(inplace=True)')",
        "mlp(act='relu(inplace=True)')",
        "moe(num_experts=2, act='silu(inplace=True)')",
    ],
)
def test_an_activation_within_a_block_never_writes_into_its_input(slot):
    torch.manual_seed(0)
    block, x = zoo.create_block("channel_mixer", slot, dim=8), torch.randn(4, 8)
    torch.manual_seed(0)
    plain = zoo.create_block("channel_mixer", slot.replace("(inplace=True)", ""), dim=8)
    before, outputs = x.clone(), [first_of(model(x)) for model in (block, plain)]
    assert torch.equal(x, before) and torch.equal(*outputs)
    first_of(block(x.requires_grad_())).sum().backward()
    assert x.grad.isfinite().all()
    assert zoo.create_block("act", "relu(inplace=True)").inplace  # alone it is what was asked for


def first_of(outputs):
    return outputs[0] if isinstance(outputs, tuple) else outputs


def test_low_precision_weights_have_no_outliers():
    layer = Linear(400, 200, init="trunc_normal", dtype=torch.bfloat16)
    assert layer.weight.float().std().item() == pytest.approx(0.02, rel=0.05) and layer.weight.abs().max() < 0.12


def test_packed_projections_are_initialised_matrix_by_matrix():
    """Xavier's bound of a fused query-key-value weight is that of each of the three."""
    layer = zoo.create_block("token_mixer", "attention(init='xavier')", dim=128)
    bound = (6 / (128 + 128)) ** 0.5
    assert 0.95 * bound < layer.qkv.weight.abs().max() <= bound


@pytest.mark.parametrize(
    "name, head_std, block_std",
    [
        ("mixer_s16_224", 0.0, 512**-0.5),
        ("resmlp_12_224", 0.02, 0.02),
        ("deit_tiny_patch16_224", 0.02, 0.02),
        ("gmlp_ti16_224", 0.0, None),
        ("vit_tiny_patch16_224", 0.0, (2 / (192 + 768)) ** 0.5),
    ],
)
def test_models_start_as_published(name, head_std, block_std):
    model = zoo.create_model(name, depth=1)
    assert model.head.weight.std().item() == pytest.approx(head_std, rel=0.05)
    if block_std is not None:
        assert model.blocks[0].channel_mixer.fc1.weight.std().item() == pytest.approx(block_std, rel=0.05)
    else:
        gate = model.blocks[0].token_mixer.gate
        assert torch.equal(gate.bias, torch.ones(196)) and gate.weight.abs().max() < 1e-5
