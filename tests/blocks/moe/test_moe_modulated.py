"""Experts that modulate one shared block; `test_moe_layer.py` has their outputs and gradients."""

import torch

import zoo
from zoo.blocks.moe.experts.modulated import ModulatedExperts
from zoo.blocks.moe.layer import MoE
from zoo.blocks.moe.routing import Plan


def test_what_is_shared_runs_once_a_token_and_counts_as_active():
    dim, hidden, experts = 6, 10, 4
    layer = MoE(dim, num_experts=experts, top_k=2, experts=f"modulated(hidden={hidden})")
    shared = 2 * dim * (dim + 1) + hidden * (dim + 1) + dim * (hidden + 1)
    own = 2 * dim * (dim + 1)
    report = zoo.count_flops(layer, inputs=torch.empty(1, 9, dim, device="meta"))
    assert report.params == shared + experts * own + experts * dim
    assert report.active_params == shared + 2 * own + experts * dim
    assert report.macs == 9 * (2 * dim * dim + 2 * dim * hidden + 2 * 2 * dim * dim + experts * dim)


def test_an_expert_of_another_modulation_gives_another_output():
    experts, x = ModulatedExperts(6, 3), torch.randn(5, 6)
    torch.nn.init.normal_(experts.modulation.weight)
    plan = lambda ends: Plan(torch.arange(5), torch.ones(5), torch.tensor(ends, dtype=torch.int32))
    first, last = experts(x, plan([5, 5, 5])), experts(x, plan([0, 0, 5]))
    assert not torch.allclose(first, last)
    experts.keep([2, 0])
    assert experts.num_experts == 2
    assert torch.equal(experts(x, plan([5, 5])), last) and torch.equal(experts(x, plan([0, 5])), first)
