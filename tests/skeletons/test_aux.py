"""Auxiliary outputs: one transport that keeps its gradients under everything that wraps a model."""

import copy

import pytest
import torch
from conftest import TEST_VARIANTS, images, randomised
from torch import nn

import zoo
from zoo.blocks.base import merge_aux
from zoo.slots.table import _BLOCKS, register
from zoo.tools.moe.balance import rebalance
from zoo.training.models.segmenter import Pyramid, Segmenter


@pytest.fixture(autouse=True)
def reporting_mixer():
    """A channel mixer with a router-like parameter that only the auxiliary loss and the output's scale depend on."""

    @register("channel_mixer", "reporting")
    class Reporting(nn.Module):
        has_aux = True

        def __init__(self, dim: int, *, device=None, dtype=None):
            super().__init__()
            self.router = nn.Linear(dim, 4, device=device, dtype=dtype)
            self.fc = nn.Linear(dim, dim, device=device, dtype=dtype)

        def forward(self, x):
            gates = self.router(x).softmax(-1)
            return self.fc(x), {"loss/balance": gates.square().mean(), "stat/load": gates.flatten(0, -2).mean(0)}

    yield
    del _BLOCKS["channel_mixer"]["reporting"]


def router_gradients(model, run=None) -> list[torch.Tensor]:
    model.zero_grad()
    torch.manual_seed(0)
    logits, aux = (model if run is None else run)(torch.randn(2, 3, 32, 32), return_aux=True)
    (logits.square().mean() + aux["loss/balance"]).backward()
    return [p.grad.clone() for n, p in model.named_parameters() if "router" in n]


@pytest.fixture(params=["mixer_test", "vit_test"])
def model(request):
    return zoo.create_model(request.param, channel_mixer=["mlp", "reporting", "reporting"]).train()


def test_asked_for_or_not(model):
    x = images(model)
    logits, aux = model(x, return_aux=True)
    assert torch.equal(model(x), logits)
    assert set(aux) == {"loss/balance", "stat/load"}
    assert aux["loss/balance"].shape == () and aux["loss/balance"].requires_grad
    assert len(aux["stat/load"]) == 2 and all(s.shape == (4,) and not s.requires_grad for s in aux["stat/load"])
    assert zoo.create_model("mixer_test")(torch.randn(1, 3, 32, 32), return_aux=True)[1] == {}
    assert model.forward_features(x).ndim == 3 and len(model.forward_intermediates(x, intermediates_only=True)) == 3


@pytest.mark.parametrize("reentrant", [False, True])
def test_both_kinds_of_activation_checkpointing_keep_the_gradients(model, reentrant):
    import timm.layers

    expected = router_gradients(model)
    before = timm.layers.use_reentrant_ckpt()
    timm.layers.set_reentrant_ckpt(reentrant)
    try:
        model.set_grad_checkpointing()
        found = router_gradients(model)
    finally:
        timm.layers.set_reentrant_ckpt(before)
    assert len(found) == 4 and all(torch.allclose(a, b, atol=1e-6) for a, b in zip(found, expected, strict=True))
    assert all(g.abs().sum() > 0 for g in found)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_compile_keeps_the_gradients(model, checkpointing):
    expected = router_gradients(model)
    model.set_grad_checkpointing(checkpointing)
    found = router_gradients(model, torch.compile(model, backend="aot_eager"))
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(found, expected, strict=True))


def test_a_deep_copy_reports_its_own(model):
    twin = copy.deepcopy(model)
    with torch.no_grad():
        twin.blocks[1].channel_mixer.router.weight.zero_()
        twin.blocks[1].channel_mixer.router.bias.zero_()
    x = images(model)
    assert torch.allclose(twin(x, return_aux=True)[1]["stat/load"][0], torch.full((4,), 0.25))
    assert not torch.allclose(model(x, return_aux=True)[1]["stat/load"][0], torch.full((4,), 0.25))


def test_autocast_keeps_the_gradients(model):
    x = images(model)
    with torch.autocast("cpu", torch.bfloat16):
        logits, aux = model(x, return_aux=True)
        loss = logits.float().square().mean() + aux["loss/balance"].float()
    loss.backward()
    assert all(p.grad.abs().sum() > 0 for n, p in model.named_parameters() if "router.weight" in n)


def test_token_mixers_report_through_the_class_tokens_adapter():
    @register("token_mixer", "reporting_pool")
    class ReportingPool(nn.Module):
        has_aux = True

        def __init__(self, dim, *, device=None, dtype=None):
            super().__init__()

        def forward(self, x):
            return x, {"stat/mean": x.mean()}

    try:
        model = zoo.create_model("vit_test", token_mixer="reporting_pool", channel_mixer="reporting")
        _, aux = model(images(model), return_aux=True)
        assert len(aux["stat/mean"]) == 3 and len(aux["stat/load"]) == 3
    finally:
        del _BLOCKS["token_mixer"]["reporting_pool"]


def test_a_key_must_say_what_it_is():
    with pytest.raises(ValueError, match="'balance' must be named loss/<name> or stat/<name>"):
        merge_aux([{"balance": torch.zeros(())}])


# --- Beside features --------------------------------------------------------------------------------------------------

MOE = {"name": "moe", "num_experts": 2, "top_k": 1, "router": {"name": "sigmoid", "losses": ["balance"], "rate": 0.5}}


def same(found: dict, expected: dict) -> bool:
    return found.keys() == expected.keys() and all(
        all(torch.equal(a, b) for a, b in zip(found[key], expected[key], strict=True))
        if isinstance(expected[key], tuple)
        else torch.equal(found[key], expected[key])
        for key in expected
    )


@pytest.mark.parametrize("slots", [{}, {"channel_mixer": MOE}], ids=["own", "moe"])
@pytest.mark.parametrize("name", TEST_VARIANTS)
def test_features_bring_what_logits_bring(name, slots):
    model = randomised(zoo.create_model(name, **slots))
    x = images(model)
    _, expected = model(x, return_aux=True)
    assert bool(expected) or not slots
    features, aux = model.forward_features(x, return_aux=True)
    assert same(aux, expected) and torch.equal(features, model.forward_features(x))
    for options in ({}, {"output_fmt": "NHWC"}, {"indices": [0, -1], "norm": True, "stop_early": True}):
        final, maps, aux = model.forward_intermediates(x, return_aux=True, **options)
        alone, again = model.forward_intermediates(x, return_aux=True, intermediates_only=True, **options)
        assert same(aux, expected) and same(again, expected) and torch.equal(final, features)
        plain = model.forward_intermediates(x, intermediates_only=True, **options)
        assert all(torch.equal(a, b) and torch.equal(a, c) for a, b, c in zip(maps, alone, plain, strict=True))
    givers = zoo.create_model(name, features_only=True, out_indices=(0, -1), **slots).eval()
    givers.model.load_state_dict(model.state_dict(), strict=False)
    maps, aux = givers(x, return_aux=True)
    assert same(aux, expected) and all(torch.equal(a, b) for a, b in zip(maps, givers(x), strict=True))


@pytest.mark.parametrize("name", TEST_VARIANTS)
def test_the_losses_of_features_reach_the_router(name):
    maps = zoo.create_model(name, features_only=True, channel_mixer=MOE)
    segmenter = Segmenter(name, Pyramid(num_classes=3, width=8), channel_mixer=MOE)
    for model in (maps.train(), segmenter.train()):
        _, aux = model(images(maps.model), return_aux=True)
        aux["loss/balance"].backward()
        assert all(p.grad.abs().sum() > 0 for n, p in model.named_parameters() if n.endswith("router.gate.weight"))


def test_levels_that_were_removed_report_nothing():
    model = zoo.create_model("swin_test", features_only=True, out_indices=(1,), channel_mixer=MOE).eval()
    whole = zoo.create_model("swin_test", channel_mixer=MOE).eval()
    x = images(whole)
    blocks = sum(len(stage.blocks) for stage in whole.stages[:2])
    assert len(whole(x, return_aux=True)[1]["stat/load"]) > blocks
    assert len(model(x, return_aux=True)[1]["stat/load"]) == blocks
    _, aux = whole.forward_intermediates(x, [1], stop_early=True, intermediates_only=True, return_aux=True)
    assert len(aux["stat/load"]) == blocks
    assert zoo.create_model("swin_test", features_only=True)(x, return_aux=True)[1] == {}


@pytest.mark.parametrize("name", ["swin_test", "vit_test"])
def test_a_segmenters_routers_balance(name):
    model = Segmenter(name, Pyramid(num_classes=3, width=8), channel_mixer=MOE)
    x = torch.randn(2, *model.backbone.model.input_size)
    routers = [m for n, m in model.named_modules() if n.endswith(".router")]
    for _ in range(2):
        aux = model(x, return_aux=True)[1]
        before = [router.bias.clone() for router in routers]
        rebalance(model, aux)
        assert len(aux["stat/load"]) == len(routers)
        for router, bias, load in zip(routers, before, aux["stat/load"], strict=True):
            assert torch.equal(router.bias - bias, 0.5 * (load.mean() - load).sign())


@pytest.mark.parametrize("checkpointing", [False, True])
def test_feature_maps_are_checkpointed_and_marked_like_their_model(checkpointing):
    model = zoo.create_model("vit_test", features_only=True, channel_mixer=["mlp", "reporting", "reporting"]).train()
    assert model.no_weight_decay() == {f"model.{name}" for name in model.model.no_weight_decay()} != set()
    model.set_grad_checkpointing(checkpointing)
    assert model.model.grad_checkpointing is checkpointing
    maps, aux = model(torch.randn(2, 3, 32, 32), return_aux=True)
    (sum(m.square().mean() for m in maps) + aux["loss/balance"]).backward()
    assert all(p.grad.abs().sum() > 0 for n, p in model.named_parameters() if "router.weight" in n)
