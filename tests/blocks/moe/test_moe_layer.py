"""The fast mixture of experts against a slow loop over tokens and experts: outputs, gradients, costs."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import zoo
from zoo.blocks.channel.glu import Glu
from zoo.blocks.channel.mlp import Mlp
from zoo.blocks.kernels import experts as kernel
from zoo.blocks.kernels import grouped, onednn
from zoo.blocks.moe.experts.grouped import GluExperts, MlpExperts
from zoo.blocks.moe.experts.mixers import MixerExperts
from zoo.blocks.moe.layer import MoE
from zoo.slots.table import blocks_of

ROUTERS = sorted(blocks_of("router"))
EXPERTS = [
    "mlp",
    "mlp(act='squared_relu', fc2_bias=False)",
    "glu",
    "glu(act='gelu', bias=False)",
    "modulated",
    ["mlp", "rbf_kan"],
]
CAPACITIES = ["dropless", "capacity(factor=0.6)", "capacity(factor=0.6, priority='gate')"]


def make(dim: int = 12, std: float = 0.4, **options) -> MoE:
    """A mixture with weights so large that differences show."""
    layer = MoE(dim, **options)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=std)
    return layer


def one_expert(experts: nn.Module, e: int):
    """What one expert makes of one token."""
    if isinstance(experts, MixerExperts):
        return experts.mixers[e]
    if isinstance(experts, (MlpExperts, GluExperts)):

        def perceptron(x):
            w1, w2 = experts.fc1.weight[e], experts.fc2.weight[e]
            x = w1 @ x if experts.fc1.bias is None else w1 @ x + experts.fc1.bias[e]
            x = experts.hidden(x)
            return w2 @ x if experts.fc2.bias is None else w2 @ x + experts.fc2.bias[e]

        return perceptron

    def modulated(z):
        scale, shift = (experts.modulation.weight[e] @ z + experts.modulation.bias[e]).chunk(2)
        return scale * z + shift

    return modulated


def slow(layer: MoE, x: torch.Tensor) -> torch.Tensor:
    """The sum over the choices, token by token."""
    _, kept = layer._route(x)
    tokens = x.reshape(-1, x.shape[-1])
    modulated = hasattr(layer.experts, "trunk")
    if modulated:
        gate, value = layer.experts.trunk(tokens).chunk(2, -1)
        tokens = layer.experts.act(gate) * value
    out = []
    for token, experts, gates in zip(tokens, kept.experts.tolist(), kept.gates, strict=True):
        y = torch.zeros_like(token)
        for e, gate in zip(experts, gates, strict=True):
            if e < layer.num_experts:
                y = y + gate.to(y.dtype) * one_expert(layer.experts, e)(token)
        out.append(y)
    y = torch.stack(out)
    y = (layer.experts.adaptor(y) if modulated else y).view(x.shape)
    return y if layer.shared is None else y + layer.shared(x)


def gradients(function, layer: MoE, x: torch.Tensor, weight: torch.Tensor) -> list[torch.Tensor]:
    tensors = [x, *layer.parameters()]
    found = torch.autograd.grad((function(x) * weight).sum(), tensors, allow_unused=True)
    return [torch.zeros_like(t) if g is None else g for t, g in zip(tensors, found, strict=True)]


def check(layer: MoE, x: torch.Tensor, tolerance: float = 1e-5) -> None:
    """Output in and without autograd, and every gradient, against the slow loop."""
    weight = torch.randn_like(x)
    x = x.requires_grad_()
    expected = slow(layer, x)
    with torch.no_grad():
        inference = layer(x)[0]
    pairs = [(layer(x)[0], expected), (inference, expected)]
    pairs += zip(
        gradients(lambda x: layer(x)[0], layer, x, weight),
        gradients(lambda x: slow(layer, x), layer, x, weight),
        strict=True,
    )
    for found, wanted in pairs:
        assert (found - wanted).abs().max() <= tolerance * max(1.0, wanted.abs().max().item())


@pytest.mark.parametrize("dispatch", CAPACITIES)
@pytest.mark.parametrize("router", ROUTERS)
def test_every_router_with_and_without_capacity(router, dispatch):
    layer = make(num_experts=4, top_k=2, experts="glu", router=router, dispatch=dispatch).eval()
    check(layer, torch.randn(3, 7, 12))


@pytest.mark.parametrize("dispatch", CAPACITIES[:2])
@pytest.mark.parametrize("experts", EXPERTS, ids=str)
def test_every_kind_of_expert(experts, dispatch):
    check(make(num_experts=4, experts=experts, dispatch=dispatch), torch.randn(3, 7, 12))


@pytest.mark.parametrize("seed", range(25))
def test_sizes(seed):
    """Sizes of all kinds: more experts than tokens, one expert, one choice, all choices, groups that leave a rest."""
    generator = torch.Generator().manual_seed(seed)
    draw = lambda low, high: int(torch.randint(low, high + 1, (), generator=generator))
    experts = draw(1, 9)
    layer = make(
        dim := draw(1, 9),
        num_experts=experts,
        top_k=draw(1, experts),
        experts=f"{['mlp', 'glu'][draw(0, 1)]}(hidden={draw(1, 9)}, bias={bool(draw(0, 1))})",
        dispatch=CAPACITIES[draw(0, 2)],
        group=[None, 1, 2][draw(0, 2)],
        shared=[None, "mlp"][draw(0, 1)],
    )
    check(layer, torch.randn(*[draw(1, 4) for _ in range(draw(0, 3))], dim))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("act", ["gelu", "silu", "relu"])
@pytest.mark.parametrize("experts", ["mlp", "glu"])
def test_large_sizes_give_the_same_by_either_library(experts, act, dtype, monkeypatch):
    onednn._available()  # asks its own question first
    monkeypatch.setattr(onednn, "LEAST_MACS", dict.fromkeys(onednn.LEAST_MACS, 1))  # on every machine
    used, found, plain, times = [], [], onednn.linear, onednn.linear_times
    monkeypatch.setattr(onednn, "linear", lambda *a: used.append(1) or plain(*a))
    monkeypatch.setattr(onednn, "linear_times", lambda *a: used.append(1) or times(*a))
    layer = make(96, 0.05, num_experts=2, experts=f"{experts}(hidden=256, act='{act}')").to(dtype)
    x = torch.randn(4, 160, 96, dtype=dtype, requires_grad=True)
    for by_onednn in (False, True):
        monkeypatch.setattr(kernel, "BY_ONEDNN", by_onednn)
        gradients = torch.autograd.grad(layer(x)[0].sum(), [x, *layer.experts.parameters()])
        with torch.no_grad():
            found.append([layer(x)[0], *gradients])
        assert len(used) == by_onednn * {"mlp": 2 * 6, "glu": 2 * 8}[experts]
    for a, b in zip(*found, strict=True):
        assert (a - b).float().norm() <= (1e-5 if dtype is torch.float32 else 0.02) * b.float().norm()


def test_experts_without_tokens_have_gradients_of_zero():
    for experts in ("mlp", "glu", ["mlp", "rbf_kan"], "modulated"):
        layer = make(num_experts=6, top_k=1, experts=experts)
        x = torch.randn(1, 12).expand(5, 12)  # all tokens choose alike
        layer(x)[0].square().sum().backward()
        grads = {n: p.grad for n, p in layer.named_parameters()}
        assert all(g is not None and torch.isfinite(g).all() for g in grads.values())
        if experts in ("mlp", "glu"):
            assert (grads["experts.fc1.weight"].flatten(1).abs().sum(1) > 0).sum() == 1


@pytest.mark.parametrize("name, dense", [("mlp", Mlp), ("glu", Glu)])
def test_one_expert_is_the_dense_layer(name, dense):
    layer, twin = MoE(64, num_experts=1, top_k=1, experts=name), dense(64)
    with torch.no_grad():
        for a, b in ((layer.experts.fc1, twin.fc1), (layer.experts.fc2, twin.fc2)):
            b.weight.copy_(a.weight[0])
            b.bias.copy_(a.bias[0])
        x = torch.randn(2, 100, 64)
        assert torch.equal(layer(x)[0], twin(x))
    x = torch.randn(2, 9, 64)
    assert torch.allclose(layer(x)[0], twin(x), atol=1e-6)


def test_equal_experts_are_the_dense_layer():
    layer = make(num_experts=4, top_k=3, experts="mlp(same=True)", std=0.0)
    x = torch.randn(2, 5, 12)
    expected = torch.stack([one_expert(layer.experts, 2)(token) for token in x.view(-1, 12)]).view(x.shape)
    assert torch.allclose(layer(x)[0], expected, atol=1e-6)


@pytest.mark.parametrize("experts", ["mlp", "glu", ["mlp", "glu"]], ids=str)
def test_bf16_within_its_precision(experts):
    layer = make(32, 0.1, num_experts=4, experts=experts)
    x, weight = torch.randn(4, 16, 32), torch.randn(4, 16, 32)
    half, x16 = copy.deepcopy(layer).bfloat16(), x.bfloat16()
    with torch.no_grad():  # the same choices: what is compared is the experts
        for parameter, rounded in zip(layer.parameters(), half.parameters(), strict=True):
            parameter.copy_(rounded)
    wide = x16.float().requires_grad_()
    narrow = x16.clone().requires_grad_()
    y, expected = half(narrow)[0], layer(wide)[0]
    assert y.dtype is torch.bfloat16
    assert (y.float() - expected).abs().max() < 0.02 * expected.abs().max()
    (y.float() * weight).sum().backward()
    (expected * weight).sum().backward()
    for found, wanted in [
        (narrow.grad, wide.grad),
        *((p.grad, q.grad) for p, q in zip(half.parameters(), layer.parameters(), strict=True)),
    ]:
        assert (found.float() - wanted).norm() < 0.02 * wanted.norm() + 1e-6


def test_autocast_computes_in_low_precision_and_routes_in_fp32():
    layer = make(32, 0.1, num_experts=4)
    x = torch.randn(2, 9, 32, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        y, aux = layer(x)
    assert y.dtype is torch.bfloat16 and aux["loss/balance"].dtype is torch.float32
    assert torch.equal(aux["stat/load"], layer(x)[1]["stat/load"])
    assert (y.float() - layer(x)[0]).abs().max() < 0.05 * y.abs().max()
    y.float().sum().backward()
    assert all(p.grad.dtype is torch.float32 for p in layer.parameters())


def test_a_sample_does_not_see_the_others():
    x = torch.randn(5, 7, 12)
    for options in (dict(), dict(group=1, router="expert_choice"), dict(group=1, dispatch="capacity(factor=0.5)")):
        layer = make(num_experts=4, **options).eval()
        alone = torch.cat([layer(sample[None])[0] for sample in x])
        assert torch.allclose(layer(x)[0], alone, atol=1e-5)
        assert torch.equal(layer(x)[0], layer(x)[0])
    layer = make(num_experts=4, dispatch="capacity(factor=0.5)").eval()
    assert not torch.allclose(layer(x)[0], torch.cat([layer(sample[None])[0] for sample in x]), atol=1e-3)


def test_statistics():
    layer = make(num_experts=4, top_k=1, dispatch="capacity(factor=0.5)")
    x = torch.randn(1, 12).expand(8, 12)  # all want the same expert, which has room for one
    y, aux = layer(x)
    assert sorted(aux["stat/load"].tolist()) == [0, 0, 0, 1]
    assert aux["stat/dropped"] == 7 / 8 and aux["stat/entropy"] == 0
    assert (y.abs().sum(-1) > 0).tolist() == [True] + [False] * 7


def test_no_batch_and_no_tokens():
    layer = make(num_experts=4)
    x = torch.randn(3, 12)
    assert torch.allclose(layer(x[0])[0], layer(x)[0][0], atol=1e-6)
    assert layer(torch.randn(0, 5, 12))[0].shape == (0, 5, 12)


# --- The grouped product ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bias", [False, True])
def test_the_grouped_product_and_its_gradients(bias):
    ends = torch.tensor([2, 2, 7], dtype=torch.int32)
    x, weight = (torch.randn(*s, dtype=torch.float64, requires_grad=True) for s in ((9, 3), (3, 5, 3)))
    b = torch.randn(3, 5, dtype=torch.float64, requires_grad=True) if bias else None
    y = grouped.linear(x, weight, b, ends)
    parts = [F.linear(x[s:t], weight[e], None if b is None else b[e]) for e, s, t in ((0, 0, 2), (2, 2, 7))]
    assert torch.allclose(y, torch.cat([*parts, torch.zeros(2, 5)]))
    assert torch.autograd.gradcheck(
        lambda *t: grouped.linear(*t, *(() if bias else (None,)), ends), (x, weight, b) if bias else (x, weight)
    )


def test_torchs_grouped_product_gives_the_same_and_leaves_nothing_to_chance():
    """What a GPU runs: torch has the same operator for the CPU."""
    ends = torch.tensor([2, 2, 7], dtype=torch.int32)
    tensors = [torch.randn(*s).bfloat16().requires_grad_() for s in ((9, 16), (3, 8, 16), (3, 8))]
    assert grouped._fits(*tensors[:2])
    weight, found = torch.randn(9, 8), []
    for function in (grouped._on_gpu, grouped._linear):
        y = function(*tensors, ends)
        found.append([y, *torch.autograd.grad((y.float() * weight).sum(), tensors)])
    for a, b in zip(*found, strict=True):
        assert torch.allclose(a.float(), b.float(), atol=0.05, rtol=0.02)
    assert all(not t[7:].any() for t in (found[0][0], found[0][1]))


def test_the_grouped_product_is_one_node_to_a_compiler():
    torch.library.opcheck(
        grouped._linear,
        (
            torch.randn(5, 3, requires_grad=True),
            torch.randn(2, 4, 3),
            torch.randn(2, 4),
            torch.tensor([1, 5], dtype=torch.int32),
        ),
    )


@pytest.mark.parametrize("dispatch", CAPACITIES)
@pytest.mark.parametrize("experts", ["mlp", "glu"])
def test_compiled_and_in_single_steps_it_is_the_same(experts, dispatch):
    torch.compiler.reset()
    layer = make(num_experts=4, experts=experts, dispatch=dispatch)
    x = torch.randn(3, 7, 12)
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    weight = torch.randn_like(x)
    for function in (compiled, torch.export.export(layer, (x,)).module()):
        assert torch.allclose(function(x)[0], layer(x)[0], atol=1e-5)
    found = gradients(lambda x: compiled(x)[0], layer, x.requires_grad_(), weight)
    for a, b in zip(found, gradients(lambda x: layer(x)[0], layer, x, weight), strict=True):
        assert torch.allclose(a, b, atol=1e-4)


@pytest.mark.parametrize("act", ["gelu", "silu", "relu"])
def test_what_the_fused_form_knows_is_used(act, monkeypatch):
    used = []
    monkeypatch.setattr(kernel, "perceptrons", lambda *a, real=kernel.perceptrons: used.append(1) or real(*a))
    layer = make(num_experts=4, experts=f"mlp(act='{act}')")
    layer(torch.randn(5, 12))
    assert used
    hook = layer.experts.fc1.register_forward_hook(lambda *_: None)
    layer(torch.randn(5, 12))
    assert len(used) == 1
    hook.remove()
    make(num_experts=4, experts="mlp(drop=0.5)")(torch.randn(5, 12))
    assert len(used) == 1


# --- Costs ------------------------------------------------------------------------------------------------------------


def test_costs_by_hand():
    """Router and the chosen experts; of the parameters all, and those of the chosen."""
    dim, hidden, tokens, experts, k = 16, 40, 9, 8, 2
    x = torch.randn(1, tokens, dim)
    for name, maps, width in (("mlp", 2, hidden), ("glu", 3, 2 * hidden)):
        layer = MoE(dim, num_experts=experts, top_k=k, experts=f"{name}(hidden={hidden})", shared="mlp(hidden=5)")
        report = zoo.count_flops(layer, inputs=x)
        router, shared, expert = dim * experts, 2 * dim * 5, maps * dim * hidden
        assert report.macs == report.active_macs == tokens * (router + shared + k * expert)
        weights = expert + width + dim
        assert report.params == router + shared + 5 + dim + experts * weights
        assert report.active_params == router + shared + 5 + dim + k * weights


def test_costs_of_a_sparse_model_by_hand():
    dim, tokens, experts = 32, 17, 4
    dense = zoo.count_flops(zoo.create_model("vit_test"))
    sparse = zoo.create_model(
        "vit_test", channel_mixer={"name": "mlp", "at": {1: f"moe(num_experts={experts}, top_k=1)"}}
    )
    report = zoo.count_flops(sparse)
    assert report.macs == report.active_macs == dense.macs + tokens * dim * experts
    mlp = 2 * dim * 4 * dim + 5 * dim
    assert report.params == dense.params + (experts - 1) * mlp + dim * experts
    assert report.active_params == dense.params + dim * experts
    chosen = zoo.create_model("vit_test", channel_mixer="moe(num_experts=4, router='expert_choice')")
    assert (
        zoo.count_flops(chosen).by_operator["linear"]
        == zoo.count_flops(zoo.create_model("vit_test", channel_mixer="moe(num_experts=4)")).by_operator["linear"]
        + 3 * (4 * -(-2 * tokens // 4) - 2 * tokens) * 2 * dim * 4 * dim
    )  # rounded up to whole tokens


# --- Errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(num_experts=0), "num_experts is 0; it must be from 1"),
        (dict(num_experts=2, top_k=3), "top_k is 3 of 2 experts"),
        (dict(experts="mlq"), "experts 'mlq' is unknown; did you mean"),
        (dict(experts="mlp(hiden=3)"), "has no option 'hiden'; did you mean 'hidden'"),
        (dict(router="topk"), "router 'topk' is unknown; did you mean 'top_k'"),
        (dict(router="none"), "router 'none' is unknown"),
        (dict(dispatch="capacity(factor=0)"), "factor is 0; it must be above 0"),
        (dict(experts=[]), "experts is .*, 0 entries; it must have from 1"),
        (dict(experts=["mlp"] * 9), "list of 9 for 8 experts"),
        (dict(experts=["none"]), "experts: none cannot be an expert"),
        (dict(experts=["moe"]), "MoE cannot be an expert"),
        (dict(shared="moe"), "MoE cannot be shared by a mixture"),
        (dict(experts="grn_mlp"), "experts: GrnMlp looks at all positions"),
        (dict(group=0), "group is 0; it must be from 1"),
    ],
)
def test_errors(options, message):
    with pytest.raises(ValueError, match=message):
        MoE(8, **options)
