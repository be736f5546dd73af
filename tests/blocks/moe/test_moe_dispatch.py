"""Capacity: which choices find room, against a plain spelling with loops and against official code."""

import dataclasses
import math

import pytest
import torch
from conftest import DATA
from safetensors.torch import load_file

from zoo.blocks.moe.dispatch import Capacity, Dropless
from zoo.blocks.moe.layer import MoE
from zoo.blocks.moe.routers.top_k import TopK
from zoo.blocks.moe.routing import Routing, count_choices, join

EXPERTS = 4


def random_routing(groups: int, tokens: int, choices: int, empty: float = 0.0, priority: bool = False) -> Routing:
    """Choices of unlike experts, the first ones liked more, some of them empty, with weights in falling order."""
    liking = torch.rand(groups * tokens, EXPERTS) - torch.arange(EXPERTS) / 5
    experts = liking.argsort(dim=1, descending=True)[:, :choices]
    none = (torch.rand(experts.shape) < empty).sort(dim=1).values
    experts = experts.masked_fill(none, EXPERTS)
    gates = torch.rand(experts.shape).sort(dim=1, descending=True).values
    return Routing(experts, gates, EXPERTS, groups, priority=torch.rand(len(experts)) if priority else None)


def spell(routing: Routing, room: int, by_gate: bool) -> list[list[int]]:
    """The choices that are left: all first ones in their order, then all second ones, and so on."""
    experts, each = routing.experts.tolist(), len(routing.experts) // routing.groups
    score = (routing.gates[:, 0] if routing.priority is None else routing.priority).tolist()
    left = [[EXPERTS] * len(row) for row in experts]
    for group in range(routing.groups):
        tokens, used = list(range(group * each, (group + 1) * each)), [0] * EXPERTS
        if by_gate:
            tokens.sort(key=lambda t: -score[t])
        for k in range(len(experts[0])):
            for t in tokens:
                e = experts[t][k]
                if e < EXPERTS and used[e] < room:
                    used[e], left[t][k] = used[e] + 1, e
    return left


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("priority", ["position", "gate"])
@pytest.mark.parametrize("groups, tokens, choices, factor", [(1, 1, 1, 0.1), (3, 7, 2, 0.8), (2, 30, 3, 1.0)])
def test_places(groups, tokens, choices, factor, priority, seed):
    torch.manual_seed(seed)
    routing = random_routing(groups, tokens, choices, empty=0.2 * (seed % 2), priority=seed > 1)
    dispatch = Capacity(factor=factor, priority=priority)
    kept = dispatch(routing)
    room = math.ceil(factor * tokens * choices / EXPERTS)
    assert kept.experts.tolist() == spell(routing, room, priority == "gate")
    assert kept.gates is routing.gates and kept.chosen is None or room >= tokens
    assert torch.equal(dispatch(routing).experts, kept.experts)


@pytest.mark.parametrize("priority", ["position", "gate"])
@pytest.mark.parametrize("top_k", [1, 2])
def test_official_places(top_k, priority):
    """Tutel's and V-MoE's own code kept these choices of the same noisy logits."""
    official = load_file(DATA / "moe_routing.safetensors")
    scores, experts = official["logits"] + official["noise"], 8
    cases = [
        (softmax, Capacity(factor=1.25, rule="tutel", priority=priority), f"tutel.{top_k}.{priority}")
        for softmax in ("before", "after")  # the weights after are not in the order of the probabilities
    ]
    for factor in (1.05, 4.0):
        name = f"vmoe.{top_k}.{priority}.{factor}"
        cases.append(("before", Capacity(factor=factor, multiple=4, priority=priority), name))
    for softmax, dispatch, name in cases:
        routing = dispatch(TopK(3, experts, top_k, softmax=softmax).choose(scores, scores))
        assert torch.equal(routing.experts < experts, official[name].flatten(0, 1)), name


def test_room():
    assert Capacity(factor=1.05, multiple=4).room(24, 2, 8) == 8  # ceil(6.3) is 7
    assert Capacity(factor=1.25, rule="tutel").room(25, 2, 8) == 10  # 2 * int(1.25 * 4)
    assert Capacity(factor=1.25).room(25, 2, 8) == 8
    dispatch = Capacity(factor=1.0, eval_factor=2.0)
    assert (dispatch.train().room(8, 1, 4), dispatch.eval().room(8, 1, 4)) == (2, 4)


def test_dropless_drops_nothing_and_enough_room_neither():
    routing = random_routing(2, 9, 2)
    assert Dropless()(routing) is routing and Capacity(factor=float(EXPERTS))(routing) is routing


def test_groups_do_not_share_places():
    routing = random_routing(3, 8, 2, priority=True)
    parts = [
        dataclasses.replace(
            routing,
            experts=routing.experts[i : i + 8],
            gates=routing.gates[i : i + 8],
            priority=routing.priority[i : i + 8],
            groups=1,
        )
        for i in (0, 8, 16)
    ]
    dispatch = Capacity(factor=0.7, priority="gate")
    assert torch.equal(dispatch(routing).experts, join([dispatch(part) for part in parts]).experts)
    assert torch.equal(dispatch(join(parts)).experts, dispatch(routing).experts)


def test_no_expert_gets_more_than_its_room():
    dispatch = Capacity(factor=0.5)
    kept = dispatch(random_routing(1, 40, 2))
    assert count_choices(kept).max() == dispatch.room(40, 2, EXPERTS) == 10


def test_the_layer_reports_what_was_dropped():
    x = torch.randn(2, 16, 6)
    dropping = MoE(6, num_experts=EXPERTS, dispatch="capacity(factor=0.25)")
    y, aux = dropping(x)
    assert aux["stat/dropped"].item() == pytest.approx(0.75) and y.isfinite().all()
    assert MoE(6, num_experts=EXPERTS)(x)[1]["stat/dropped"].item() == 0
    alone = MoE(6, num_experts=EXPERTS, dispatch="capacity(factor=1.0, priority='gate')", group=1).eval()
    assert torch.allclose(alone(x)[0][:1], alone(x[:1])[0], atol=1e-6)


@pytest.mark.parametrize("priority", ["position", "gate"])
def test_capacity_compiles_as_one_graph(priority):
    torch._dynamo.reset()
    dispatch, routing = Capacity(factor=0.8, priority=priority), random_routing(2, 9, 2)
    compiled = torch.compile(lambda e, g: dispatch(Routing(e, g, EXPERTS, 2)).experts, fullgraph=True, backend="eager")
    assert torch.equal(compiled(routing.experts, routing.gates), dispatch(routing).experts)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"factor": 0.0}, "factor is 0.0; it must be above 0"),
        ({"eval_factor": -1.0}, "eval_factor is -1.0; it must be above 0"),
        ({"rule": "floor"}, "rule is 'floor'; it must be one of 'ceil', 'tutel'"),
        ({"multiple": 0}, "multiple is 0; it must be from 1"),
        ({"priority": "random"}, "priority is 'random'; it must be one of 'position', 'gate'"),
    ],
)
def test_errors(options, message):
    with pytest.raises(ValueError, match=message):
        Capacity(**options)
