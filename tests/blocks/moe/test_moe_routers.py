"""Routers: each against a plain spelling with loops, against official code, and what all of them promise."""

import math

import pytest
import torch
from conftest import DATA
from safetensors.torch import load_file
from torch import distributed, nn
from torch.nn import functional as F

import zoo
from zoo.blocks.base import parameters_without_decay
from zoo.blocks.linear import initialise
from zoo.blocks.moe import losses
from zoo.blocks.moe.routers.base import Router
from zoo.blocks.moe.routers.cosine import Cosine
from zoo.blocks.moe.routers.expert_choice import ExpertChoice
from zoo.blocks.moe.routers.gumbel import Gumbel
from zoo.blocks.moe.routers.importance import Importance
from zoo.blocks.moe.routers.relu import ReLU
from zoo.blocks.moe.routers.remap import Remap
from zoo.blocks.moe.routers.sigmoid import Sigmoid
from zoo.blocks.moe.routers.task import Task
from zoo.blocks.moe.routers.top_k import TopK
from zoo.slots import build_block
from zoo.slots.table import blocks_of
from zoo.tools.moe.balance import rebalance
from zoo.training import Trainer, load_recipe

DIM, EXPERTS, CHOICES = 6, 5, 2
SLOTS = [
    "top_k",
    "top_k(softmax='before', noise=1.0, losses=('importance', 'load', 'load_importance'))",
    "cosine(width=4)",
    "expert_choice(noise=1.0)",
    "sigmoid",
    "gumbel(samples=3)",
    "relu",
    "importance(share=0.4)",
    "task(tasks=3)",
    "task(tasks=3, design='embedding', width=4)",
]
COMPETING = ("expert_choice", "importance")  # tokens of a group compete


def make(slot: str, top_k: int = CHOICES, std: float = 0.5, **kwargs) -> Router:
    """A router in eval mode whose weights are large enough to differ between tokens."""
    router = build_block("router", slot, DIM, EXPERTS, top_k, **kwargs)
    with torch.no_grad():
        for parameter in router.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=std)
    return router.eval()


def weights(routing, groups: int) -> torch.Tensor:
    """The weight of each expert for each token, zero where it was not chosen: ``(G, S, E)``."""
    full = routing.gates.new_zeros(len(routing.gates), routing.num_experts + 1)
    return full.scatter(1, routing.experts, routing.gates)[:, :-1].unflatten(0, (groups, -1))


@pytest.fixture(scope="module")
def official() -> dict[str, torch.Tensor]:
    """What Tutel and google-research/vmoe make of the same logits and noise."""
    return load_file(DATA / "moe_routing.safetensors")


def test_the_routers_below_are_zoos():
    own = {name for name, cls in blocks_of("router").items() if cls.__module__.startswith("zoo.")}
    assert {slot.partition("(")[0] for slot in SLOTS} | {"remap"} <= own


# --- Against a plain spelling -----------------------------------------------------------------------------------------


def softmax(row):
    exps = [math.exp(x) for x in row]
    return [x / sum(exps) for x in exps]


def highest(row, count):
    return sorted(range(len(row)), key=lambda i: -row[i])[:count]


def spell_top_k(row, router):
    chosen = highest(row, router.top_k)
    probs = softmax(row)
    total = sum(probs[e] for e in chosen) if router.softmax == "after" else 1
    return {e: probs[e] / total for e in chosen}


def spell_sigmoid(row, router):
    scores = [1 / (1 + math.exp(-x)) for x in row]
    chosen = highest([s + b for s, b in zip(scores, router.bias.tolist(), strict=True)], router.top_k)
    total = sum(scores[e] for e in chosen) if router.normalize else 1
    return {e: router.scale * scores[e] / total for e in chosen}


def spell_gumbel(row, router):
    draws = [
        softmax([(x + d) / router.temperature for x, d in zip(row, draw, strict=True)])
        for draw in router.draws.tolist()
    ]
    mean = [sum(column) / len(draws) for column in zip(*draws, strict=True)]
    chosen = highest(mean, router.top_k)
    total = sum(mean[e] for e in chosen) if router.top_k > 1 else 1
    return {e: mean[e] / total for e in chosen}


def spell_relu(row, router):
    scores = [max(x, 0) for x in row]
    rms = math.sqrt(sum(s * s for s in scores) / len(scores) + router.eps)
    return {e: scores[e] / rms * router.weight[e].item() for e in range(len(row)) if scores[e] > 0}


@pytest.mark.parametrize("top_k", [1, 2, EXPERTS])
@pytest.mark.parametrize(
    "slot, spell",
    [
        ("top_k", spell_top_k),
        ("top_k(softmax='before')", spell_top_k),
        ("sigmoid", spell_sigmoid),
        ("sigmoid(normalize=False, scale=2.5)", spell_sigmoid),
        ("gumbel", spell_gumbel),
        ("gumbel(temperature=0.3, samples=2)", spell_gumbel),
        ("relu", spell_relu),
        ("task(tasks=3)", spell_top_k),
    ],
)
def test_each_token_by_itself(slot, spell, top_k):
    router, logits = make(slot, top_k), torch.randn(2, 7, EXPERTS)
    if isinstance(router, Sigmoid):
        router.bias.copy_(torch.randn(EXPERTS) / 2)
    routing = router.route(logits)
    for logit, experts, gates in zip(
        logits.flatten(0, 1).tolist(), routing.experts.tolist(), routing.gates.tolist(), strict=True
    ):
        found = {e: g for e, g in zip(experts, gates, strict=True) if e < EXPERTS}
        expected = spell(logit, router)
        assert found.keys() == expected.keys()
        assert all(found[e] == pytest.approx(expected[e], abs=1e-5) for e in found)


@pytest.mark.parametrize("options", [{}, {"capacity_factor": 1.3}, {"multiple": 4}, {"capacity_factor": 9.0}])
def test_expert_choice(options):
    router, logits = ExpertChoice(DIM, EXPERTS, CHOICES, **options), torch.randn(2, 7, EXPERTS)
    room = {"capacity_factor=1.3": 4, "multiple=4": 4, "capacity_factor=9.0": 7, "": 3}
    room = room[",".join(f"{k}={v}" for k, v in options.items())]
    expected = torch.zeros(2, 7, EXPERTS)
    for group in range(2):
        probs = [softmax(row) for row in logits[group].tolist()]
        for e in range(EXPERTS):
            for token in highest([row[e] for row in probs], room):
                expected[group, token, e] = probs[token][e]
    routing = router.route(logits)
    assert torch.allclose(weights(routing, 2), expected, atol=1e-6)
    assert routing.chosen == 2 * EXPERTS * room == (routing.experts < EXPERTS).sum()


@pytest.mark.parametrize("importance", ["max", "sum"])
def test_importance(importance):
    router, logits = Importance(DIM, EXPERTS, CHOICES, share=0.4, importance=importance), torch.randn(2, 7, EXPERTS)
    routing = router.eval().route(logits)
    for group in range(2):
        probs = [softmax(row) for row in logits[group].tolist()]
        score = [sum(sorted(row)[-CHOICES:]) if importance == "sum" else max(row) for row in probs]
        placed = highest(score, 3)  # 0.4 of 7
        for token in range(7):
            found = routing.experts[group * 7 + token].tolist()
            assert found == (highest(probs[token], CHOICES) if token in placed else [EXPERTS] * CHOICES)


def test_cosine():
    router, x = make("cosine(width=4)"), torch.randn(1, 7, DIM)
    gate = router.gate
    for token, found in zip(x[0], router.logits(x)[0], strict=True):
        projected = gate.weight @ token + gate.bias
        for e in range(EXPERTS):
            cosine = F.cosine_similarity(projected, gate.similarity[:, e], dim=0)
            assert found[e].item() == pytest.approx((cosine * gate.temperature.exp()).item(), abs=1e-5)
    assert {"gate.weight", "gate.bias", "gate.similarity", "gate.temperature"} == parameters_without_decay(router)


def test_task_gates():
    x = torch.randn(1, 7, DIM)
    multi, embedding = make("task(tasks=3)"), make("task(tasks=3, design='embedding', width=4)")
    for task in range(3):
        assert torch.allclose(multi.logits(x, task=task), x @ multi.gate.weight[task].T, atol=1e-6)
        beside = torch.cat([x, embedding.embedding.weight[task].expand(1, 7, -1)], -1)
        assert torch.allclose(embedding.logits(x, task=task), beside @ embedding.gate.weight.T, atol=1e-6)
    for parameter in torch.autograd.grad(multi.logits(x, task=2).sum(), list(multi.parameters())):
        assert not parameter[:2].any() and parameter[2].any()  # only the asked task's gate is in use


@pytest.mark.parametrize("slot", ["top_k", "cosine(width=4)"])
def test_a_gate_that_somebody_watches_takes_the_tokens_of_autocast(slot):
    """These are of 16 bits where the layer before was a product, and autocast is off in a router."""
    router, x = make(slot), torch.randn(2, 7, DIM, dtype=torch.bfloat16)
    with torch.autocast("cpu"):
        expected = router(x)
        router.gate.register_forward_hook(lambda *_: None)
        found = router(x)
    assert torch.equal(found.experts, expected.experts) and torch.equal(found.gates, expected.gates)


def test_gumbel_draws_in_training_and_settles_in_evaluation():
    router, row = Gumbel(DIM, EXPERTS, EXPERTS, samples=2000), torch.randn(1, 1, EXPERTS)
    drawn = weights(router.route(row.expand(1, 2000, -1)), 1)[0]
    settled = weights(router.eval().route(row.expand(1, 3, -1)), 1)[0]
    assert drawn.std(0).min() > 0.05 and torch.equal(settled[0], settled[2])
    assert torch.allclose(drawn.mean(0), settled[0], atol=0.03)
    assert torch.equal(router.draws, Gumbel(3, EXPERTS, 1, samples=2000).draws)


# --- Against official code --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("top_k", [1, 2])
@pytest.mark.parametrize("softmax, stored", [("before", "plain"), ("after", "normalized")])
def test_tutel(official, top_k, softmax, stored):
    if top_k == 1 and softmax == "after":
        softmax = "before"  # Tutel normalises two weights and more
    names = ("load_importance", "balance")
    router = TopK(DIM, 8, top_k, softmax=softmax, noise=1.0, losses=names)
    scores = official["logits"] + official["noise"]
    routing = router.choose(official["logits"], scores)
    assert torch.equal(routing.experts, official[f"tutel.{top_k}.experts"].long().flatten(0, 1))
    assert torch.allclose(routing.gates, official[f"tutel.{top_k}.{stored}"].flatten(0, 1), atol=1e-6)
    expected = official[f"tutel.{top_k}.load_importance"].mean()
    assert routing.aux["loss/load_importance"].item() == pytest.approx(expected.item(), rel=1e-5)
    first = router.load(routing.experts[:, :1].unflatten(0, (2, -1)), scores)
    gshard = losses.switch_balance(scores.softmax(-1).mean(1), first)
    assert gshard.item() == pytest.approx(official["tutel.gshard"].mean().item(), rel=1e-5)


def test_tutel_cosine(official):
    router = Cosine(6, 4, 2, width=5)
    with torch.no_grad():
        for name in ("weight", "bias", "similarity"):
            getattr(router.gate, name).copy_(official[f"cosine.{name}"])
        assert torch.allclose(router.logits(official["cosine.x"]), official["cosine.logits"], atol=1e-5)
        router.gate.temperature.fill_(6.0)  # above its limit
        assert torch.allclose(router.logits(official["cosine.x"]), official["cosine.hot"], atol=1e-4)


@pytest.mark.parametrize("top_k", [1, 2])
def test_vmoe(official, top_k):
    router = TopK(DIM, 8, top_k, softmax="before", noise=1.0, losses=("importance", "load"))
    routing = router.choose(official["logits"], official["logits"] + official["noise"])
    assert torch.equal(routing.experts, official[f"vmoe.{top_k}.experts"].long().flatten(0, 1))
    assert torch.allclose(routing.gates, official[f"vmoe.{top_k}.gates"].flatten(0, 1), atol=1e-6)
    for name, key in (("importance", "vmoe.importance"), ("load", f"vmoe.{top_k}.load")):
        assert routing.aux[f"loss/{name}"].item() == pytest.approx(official[key].mean().item(), rel=1e-4)


@pytest.mark.parametrize("factor", [1.05, 2.0])
def test_vmoe_expert_choice(official, factor):
    router = ExpertChoice(DIM, 8, 1, capacity_factor=factor, multiple=4)
    routing = router.choose(official["logits"], official["logits"] + official["noise"])
    assert torch.allclose(weights(routing, 2), official[f"vmoe.items.{factor}"], atol=1e-6)


def test_mixtral():
    mixtral = pytest.importorskip("transformers.models.mixtral.modeling_mixtral")
    config = mixtral.MixtralConfig(hidden_size=DIM, num_local_experts=8, num_experts_per_tok=2)
    theirs, ours, x = mixtral.MixtralTopKRouter(config), TopK(DIM, 8, 2, losses="balance"), torch.randn(1, 50, DIM)
    with torch.no_grad():
        theirs.weight.copy_(ours.gate.weight.normal_())
    logits, gates, experts = theirs(x)
    routing = ours(x)
    assert torch.equal(routing.experts, experts) and torch.allclose(routing.gates, gates, atol=1e-6)
    balance = mixtral.load_balancing_loss_func((logits,), 8, 2)  # their shares have the sum of the choices
    assert routing.aux["loss/balance"].item() == pytest.approx(balance.item() / 2, rel=1e-5)


def test_deepseek():
    deepseek = pytest.importorskip("transformers.models.deepseek_v3.modeling_deepseek_v3")
    config = deepseek.DeepseekV3Config(
        hidden_size=DIM, n_routed_experts=8, num_experts_per_tok=3, n_group=1, topk_group=1, routed_scaling_factor=2.5
    )
    theirs, ours, x = deepseek.DeepseekV3TopkRouter(config), Sigmoid(DIM, 8, 3, scale=2.5), torch.randn(1, 50, DIM)
    with torch.no_grad():
        theirs.weight.copy_(ours.gate.weight.normal_())
        theirs.e_score_correction_bias.copy_(ours.bias.normal_())
    _, gates, experts = theirs(x)
    expected = torch.zeros(1, 50, 8).scatter(-1, experts[None], gates[None])
    assert torch.allclose(weights(ours(x), 1), expected, atol=1e-6)


# --- What all promise -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("slot", SLOTS)
def test_a_routing_is_what_the_layer_expects(slot, training):
    router, x = make(slot).train(training), torch.randn(3, 11, DIM)
    routing = router(x)
    assert routing.experts.shape == routing.gates.shape and len(routing.experts) == 33
    assert (routing.groups, routing.num_experts) == (3, EXPERTS)
    wanted = routing.experts < EXPERTS
    assert routing.chosen is None or routing.chosen == wanted.sum()
    assert wanted.sum() <= router.active * 33 + 3 * EXPERTS  # a part of a token, rounded up, of each group and expert
    for experts in routing.experts.tolist():
        chosen = [e for e in experts if e < EXPERTS]
        assert len(set(chosen)) == len(chosen) and experts == chosen + [EXPERTS] * (len(experts) - len(chosen))
    assert routing.gates.isfinite().all() and routing.gates.requires_grad
    if not slot.startswith(("sigmoid", "relu")):  # ranked by more than the weight
        assert (routing.gates.diff(dim=1) <= 0).all()
    if router.sums_to_one:
        assert torch.allclose(routing.gates.sum(1), torch.ones(33))
    assert set(routing.aux) == {f"loss/{name}" for name in router.losses if training or name != "load"}


@pytest.mark.parametrize("slot", SLOTS)
def test_evaluation_is_deterministic_and_training_follows_the_seed(slot):
    router, x = make(slot), torch.randn(2, 11, DIM)
    for training in (False, True):
        router.train(training)
        torch.manual_seed(1)
        first = router(x)
        torch.manual_seed(1 if training else 2)
        second = router(x)
        assert torch.equal(first.experts, second.experts) and torch.equal(first.gates, second.gates)


@pytest.mark.parametrize("slot", SLOTS)
def test_groups_do_not_see_each_other(slot):
    router, x = make(slot), torch.randn(3, 11, DIM)
    parts = [router(x[i : i + 1]) for i in range(3)]
    assert torch.equal(router(x).experts, torch.cat([part.experts for part in parts]))
    assert torch.allclose(router(x).gates, torch.cat([part.gates for part in parts]), atol=1e-6)


@pytest.mark.parametrize("slot", [s for s in SLOTS if not s.startswith(COMPETING)])
def test_a_token_does_not_see_the_others(slot):
    router, x = make(slot), torch.randn(1, 11, DIM)
    other = torch.cat([x[:, :4], torch.randn(1, 7, DIM) * 3], 1)
    assert torch.equal(router(x).experts[:4], router(other).experts[:4])
    assert torch.allclose(router(x).gates[:4], router(other).gates[:4], atol=1e-6)


@pytest.mark.parametrize("slot", SLOTS)
def test_routing_is_in_fp32_in_any_precision(slot):
    router, x = make(slot), torch.randn(1, 40, DIM)
    expected = router(x.bfloat16().float())
    with torch.autocast("cpu", torch.bfloat16):
        found = router(x.bfloat16())
    assert found.gates.dtype is torch.float32 and torch.equal(found.experts, expected.experts)
    assert torch.allclose(found.gates, expected.gates)
    low = router.bfloat16()(x.bfloat16())
    assert low.gates.dtype is torch.float32 and (low.experts == expected.experts).float().mean() > 0.8
    assert router.double()(x.double()).gates.dtype is torch.float64


@pytest.mark.parametrize("slot", SLOTS)
def test_built_on_meta_it_is_the_same_router(slot):
    torch.manual_seed(3)
    router = build_block("router", slot, DIM, EXPERTS, CHOICES)
    with torch.device("meta"):
        build_block("router", slot, DIM, EXPERTS, CHOICES)
    empty = build_block("router", slot, DIM, EXPERTS, CHOICES, device="meta").to_empty(device="cpu")
    for tensor in (*empty.parameters(), *empty.buffers()):
        tensor.detach().fill_(7)
    torch.manual_seed(3)
    for module in empty.modules():
        initialise(module)
    for (name, expected), found in zip(
        (*router.named_parameters(), *router.named_buffers()), (*empty.parameters(), *empty.buffers()), strict=True
    ):
        assert torch.equal(found, expected), name


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("slot", SLOTS)
def test_a_router_compiles_as_one_graph(slot, training):
    router, x = make(slot).train(training), torch.randn(2, 9, DIM)
    torch._dynamo.reset()
    compiled = torch.compile(router, fullgraph=True, backend="aot_eager")
    found = compiled(x)
    (found.gates.sum() + sum(found.aux.values())).backward()
    assert router.gate.weight.grad.isfinite().all()
    if not training:
        expected = router(x)
        assert torch.equal(found.experts, expected.experts) and torch.allclose(found.gates, expected.gates)


@pytest.mark.parametrize("slot", SLOTS)
def test_every_router_in_a_model(slot, tmp_path):
    model = zoo.create_model("vit_test", channel_mixer=f'moe(num_experts={EXPERTS}, router="{slot}")')
    report = zoo.count_flops(model)
    assert 0 < report.active_params <= report.params and all(report.by_module[f"blocks.{i}"] for i in range(3))
    nn.init.normal_(model.head.weight)  # zeros would let no gradient through
    optimizer, x = torch.optim.SGD(model.parameters(), 0.1), torch.randn(3, *model.input_size)
    logits, aux = model.train()(x, return_aux=True)
    (logits.square().mean() + sum(v for k, v in aux.items() if k.startswith("loss/"))).backward()
    routers = [module for module in model.modules() if isinstance(module, Router)]
    assert len(routers) == 3 and all(router.gate.weight.grad.any() for router in routers)
    optimizer.step()
    rebalance(model, aux)
    zoo.save_pretrained(model, tmp_path)
    again = zoo.create_model(f"local-dir:{tmp_path}").eval()
    assert torch.equal(again(x), model.eval()(x))


# --- Losses -----------------------------------------------------------------------------------------------------------

LOGITS = torch.tensor([[[math.log(3), 0.0], [0.0, math.log(4)]]])  # probabilities 3/4, 1/4 and 1/5, 4/5


def test_losses_by_hand():
    router = TopK(3, 2, 1, losses=("balance", "importance", "z", "concentration"))
    aux = router.route(LOGITS).aux
    expected = {
        "balance": 2 * (0.5 * 0.475 + 0.5 * 0.525),
        "importance": 0.025**2 / 0.5**2,
        "z": (math.log(4) ** 2 + math.log(5) ** 2) / 2,
        "concentration": 2 * (0.475**2 + 0.525**2),
    }
    assert {k.removeprefix("loss/"): v.item() for k, v in aux.items()} == pytest.approx(expected, rel=1e-5)


def test_losses_of_the_load_by_hand():
    router = TopK(3, 2, 1, noise=0.5, losses=("load", "load_importance"))
    scores = LOGITS + torch.tensor([[[0.1, 0.3], [-0.2, 0.0]]])
    aux = router.choose(LOGITS, scores).aux
    chance = lambda distance: 0.5 * (1 + math.erf(distance / 0.25 / math.sqrt(2)))  # noise of 0.5 / 2 experts
    variation = lambda a, b, n: ((a - b) / 2) ** 2 * 2 / n / ((a + b) / 2) ** 2
    thresholds = (math.log(3) + 0.1, math.log(4))
    load = [sum(chance(LOGITS[0, t, e].item() - thresholds[t]) for t in (0, 1)) for e in (0, 1)]
    assert aux["loss/load"].item() == pytest.approx(variation(*load, 2), rel=1e-4)
    probs = [[0.75, 0.25], [0.2, 0.8]]
    mixed = [sum(chance(probs[t][e] - thresholds[t]) for t in (0, 1)) for e in (0, 1)]
    expected = (variation(*mixed, 1) + variation(0.475, 0.525, 1)) / 2
    assert aux["loss/load_importance"].item() == pytest.approx(expected, rel=1e-3)


def test_losses_of_other_scores_by_hand():
    relu = ReLU(3, 2, 1, losses=("l1", "balance"))
    aux = relu.route(torch.tensor([[[2.0, -1.0], [0.5, 1.5]]])).aux
    assert aux["loss/l1"].item() == pytest.approx(2 * (1.25 * 1 + 0.75 * 0.5))
    assert aux["loss/balance"].item() == pytest.approx(2 * (0.625 * 2 / 3 + 0.375 * 1 / 3))
    sigmoid = Sigmoid(3, 2, 1, losses="balance")
    sigmoid.bias.copy_(torch.tensor([9.0, 0.0]))  # all choose the first expert
    shares = [0.75 / 1.25, 0.5 / 1.3]
    assert sigmoid.route(LOGITS).aux["loss/balance"].item() == pytest.approx(2 * sum(shares) / 2)


def test_losses_are_means_over_groups():
    logits = torch.randn(3, 10, EXPERTS)
    router = TopK(DIM, EXPERTS, CHOICES, losses=("balance", "importance", "z", "concentration"))
    parts = [router.route(logits[i : i + 1]).aux for i in range(3)]
    for name, value in router.route(logits).aux.items():
        assert value.item() == pytest.approx(sum(part[name].item() for part in parts) / 3, rel=1e-5)


@pytest.mark.parametrize(
    "slot, name",
    [(s, n) for s in dict.fromkeys(s.partition("(")[0] for s in SLOTS) for n in blocks_of("router")[s].LOSSES],
)
def test_each_loss_reaches_the_gate(slot, name):
    noise = ", noise=1.0" if issubclass(blocks_of("router")[slot], TopK) else ""
    router = make(f"{slot}(losses='{name}'{noise})").train()
    router(torch.randn(2, 30, DIM)).aux[f"loss/{name}"].backward()
    gradients = [p.grad for p in router.gate.parameters() if p.grad is not None]
    assert gradients and all(g.isfinite().all() for g in gradients) and gradients[0].abs().max() > 1e-6


def test_balanced_routing_has_the_least_losses():
    logits = torch.eye(4).repeat(5, 1)[None] * 3  # each expert is wanted as much
    aux = TopK(3, 4, 1, losses=("balance", "importance", "concentration")).route(logits).aux
    expected = {"loss/balance": 1.0, "loss/importance": 0.0, "loss/concentration": 1.0}
    assert {k: v.item() for k, v in aux.items()} == pytest.approx(expected, abs=1e-5)


# --- Balance without a loss -------------------------------------------------------------------------------------------


def test_rebalance_moves_the_biases_towards_even_loads():
    model = nn.ModuleList([Sigmoid(DIM, 3, 1, rate=0.5), TopK(DIM, 2, 1), Sigmoid(DIM, 4, 1)])
    loads = torch.tensor([0.2, 0.5, 0.3]), torch.tensor([1.0, 0.0]), torch.tensor([0.25, 0.25, 0.5, 0.0])
    rebalance(model, {"stat/load": loads})
    assert model[0].bias.tolist() == [0.5, -0.5, 0.5]
    assert model[2].bias.tolist() == pytest.approx([0, 0, -0.001, 0.001])
    rebalance(model, {"stat/load": loads}, rate=1.0)
    assert model[0].bias.tolist() == [1.5, -1.5, 1.5]
    with pytest.raises(ValueError, match=r"layers with \[3, 2\] experts and the model has layers with \[3, 2, 4\]"):
        rebalance(model, {"stat/load": loads[:2]})
    rebalance(nn.ModuleList([TopK(DIM, 2, 1)]), {})  # nothing to do


def test_rebalance_sums_over_processes(monkeypatch):
    router = Sigmoid(DIM, 3, 1, rate=1.0)
    monkeypatch.setattr(distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(distributed, "all_reduce", lambda load: load.add_(torch.tensor([0.0, 0.0, 1.0])))
    rebalance(router, {"stat/load": torch.tensor([0.1, 0.7, 0.2])})
    assert router.bias.tolist() == [1.0, -1.0, -1.0]  # the loads of both are 0.1, 0.7, 1.2


def test_rebalance_knows_experts_that_were_split():
    router = Remap(DIM, 4, 1, router="sigmoid(rate=1.0)", split=(1,))
    rebalance(router, {"stat/load": torch.tensor([0.4, 0.2, 0.1, 0.3])})  # the last was split off expert 1
    assert router.router.bias.tolist() == [-1.0, -1.0, 1.0]


def test_biases_even_out_the_load():
    router, x = make("sigmoid", 1, std=2.0), torch.randn(1, 500, DIM) + 0.5
    load = lambda: router.load(router(x).experts[None], x)[0]
    uneven = load().max()
    for _ in range(400):
        rebalance(router, {"stat/load": load()}, rate=0.005)
    assert load().max() < 0.25 < 0.35 < uneven


def test_the_bias_stays_in_fp32_and_is_saved():
    router = Sigmoid(DIM, EXPERTS, CHOICES)
    router.bias += 0.1234567
    router = router.bfloat16()
    assert router.bias.dtype is torch.float32 and router.bias[0].item() == pytest.approx(0.1234567)
    assert "bias" in router.state_dict() and "bias" not in dict(router.named_parameters())
    assert router.to_empty(device="meta").bias.is_meta


def test_the_trainer_moves_the_biases(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(
        """\
task: {name: classify}
model:
  name: mixer_test
  kwargs: {img_size: 8, patch_size: 4, in_chans: 1, num_classes: 10, depth: 2, channel_mixer: "moe(router='sigmoid')"}
data: {name: digits}
train: {duration: 3st, batch_size: 64, eval_every: 3st, checkpoint_every: 3st, threads: 1}
optim: {name: adamw, lr: 1e-3, weight_decay: 0.05}
schedule: {name: cosine, warmup: 1st}
expect: {metric: test/top1, status: untested}
""",
        "utf-8",
    )
    trainer = Trainer(load_recipe(path), tmp_path / "run")
    trainer.run()
    for i in range(2):
        bias = load_file(tmp_path / "run/model/model.safetensors")[f"blocks.{i}.channel_mixer.router.bias"]
        steps = (bias / 0.001).round()
        assert torch.allclose(bias, steps * 0.001) and steps.any() and steps.abs().max() <= 3


# --- Errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "slot, message",
    [
        ("top_k(losses=('balanse',))", "did you mean 'balance'"),
        ("top_k(softmax='late')", "softmax is 'late'; it must be one of 'before', 'after'"),
        ("top_k(noise=-1.0)", "noise is -1.0; it must be from 0"),
        ("top_k(losses='load')", "set noise=1.0"),
        ("cosine(losses='load_importance')", "set noise=1.0"),
        ("cosine(width=0)", "width is 0; it must be from 1"),
        ("expert_choice(capacity_factor=0.0)", "capacity_factor is 0.0; it must be above 0"),
        ("expert_choice(multiple=0)", "multiple is 0; it must be from 1"),
        ("expert_choice(noise=-1.0)", "noise is -1.0; it must be from 0"),
        ("expert_choice(losses='balance')", "Losses: concentration, importance, z"),
        ("sigmoid(rate=-1.0)", "rate is -1.0; it must be from 0"),
        ("gumbel(temperature=0.0)", "temperature is 0.0; it must be above 0"),
        ("gumbel(samples=0)", "samples is 0; it must be from 1"),
        ("relu(eps=0.0)", "eps is 0.0; it must be above 0"),
        ("importance(share=1.5)", "above 0 and at most 1"),
        ("importance(importance='mean')", "importance is 'mean'; it must be one of 'max', 'sum'"),
        ("task(tasks=0)", "tasks is 0; it must be from 1"),
        ("task(design='single')", "design is 'single'; it must be one of 'multi', 'embedding'"),
    ],
)
def test_errors(slot, message):
    with pytest.raises(ValueError, match=message):
        make(slot)


@pytest.mark.parametrize("slot", SLOTS)
@pytest.mark.parametrize("top_k", [0, EXPERTS + 1])
def test_more_choices_than_experts(slot, top_k):
    with pytest.raises(ValueError, match=f"top_k is {top_k}.*must be (from 1|at most)"):
        make(slot, top_k)


def test_tasks_that_are_not_there():
    router = Task(DIM, 3, 1, tasks=2)
    for task in (2, -1, True, "depth"):
        with pytest.raises(ValueError, match=r"the task router of 3 experts has 2 tasks, numbered from 0"):
            router(torch.randn(1, 2, DIM), task=task)
