"""The two engines count the same, of zoo's families and of others' models; and torch's own counter agrees."""

import copy
import inspect
import random
import warnings

import pytest
import timm
import torch
import torchvision
from conftest import TINY_VARIANTS
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import zoo
from zoo.costs import count_costs, count_flops


def torchs(model: nn.Module, call: dict) -> dict[str, int]:
    """MACs of all samples by torch's counter, by operator."""
    with FlopCounterMode(display=False) as counter:
        copy.deepcopy(model)(**call)  # some keep what they compute
    return {str(operator): flops // 2 for operator, flops in counter.get_flop_counts()["Global"].items()}


def check(model: nn.Module, **inputs) -> None:
    """Both engines, and torch's counter, on tensors that may be on meta."""
    samples = len(next(iter(inputs.values())))
    report = count_costs(model, inputs=inputs)
    assert not report.unknown, "operators of which nothing is known"
    assert report.macs > 0 and 1 < report.backward_macs / report.macs < 2.5
    theirs = torchs(model, inputs)
    unseen = ("_fft", "grouped_mm", "evaluation")  # torch has no formula for these; attention is a name of several
    ours = sum(work.macs for name, work in report.forward.items() if not name.startswith(unseen))
    attention = sum(work.macs for name, work in report.forward.items() if "attention" in name)
    counts_attention = any("scaled_dot" in name or "bmm" in name for name in theirs)
    total = sum(theirs.values()) / samples
    assert total in (ours, ours - attention) if attention and not counts_attention else total == ours
    if len(inputs) == 1 and next(iter(inputs.values())).is_floating_point():
        traced = count_flops(model, inputs=next(iter(inputs.values())))
        assert traced.macs == report.macs and traced.params == report.params


@pytest.mark.parametrize("name", TINY_VARIANTS)
def test_of_every_family_both_count_the_same_in_every_module(name):
    model = zoo.create_model(name)
    traced, run = count_flops(model, engine="jit"), count_flops(model, engine="dispatch")
    assert run.by_module == traced.by_module and run.params_by_module == traced.params_by_module
    assert (run.macs, run.active_params) == (traced.macs, traced.active_params)
    costs = count_costs(model)
    assert costs.by_module == traced.by_module and not costs.unknown
    assert costs.backward_macs > costs.macs and costs.activation_bytes > 0 and costs.bytes > 4 * costs.params / 2


# --- Models of others -------------------------------------------------------------------------------------------------

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    MODULES = {}  # an architecture of each file of timm's, the first by name
    for _name in sorted(timm.list_models()):
        _module = timm.models.model_entrypoint(_name).__module__
        if not _module.startswith("zoo."):
            MODULES.setdefault(_module, _name)
TIMM = sorted(random.Random(14).sample(sorted(MODULES.values()), 60))
TORCHVISION = sorted(random.Random(15).sample(torchvision.models.list_models(module=torchvision.models), 15))
OFTEN = 3  # of either, so many are among the fast tests


def some(names: list[str]) -> list:
    return [
        n if i % (len(names) // OFTEN) == 0 else pytest.param(n, marks=pytest.mark.slow) for i, n in enumerate(names)
    ]


@pytest.mark.parametrize("name", some(TIMM))
def test_timms_architectures(name):
    model = timm.create_model(name).eval()
    parameter = next(iter(inspect.signature(model.forward).parameters))
    check(model.to("meta"), **{parameter: torch.empty(2, *model.pretrained_cfg["input_size"], device="meta")})


@pytest.mark.parametrize("name", some(TORCHVISION))
def test_torchvisions(name):
    check(
        torchvision.models.get_model(name, weights=None).eval().to("meta"), x=torch.empty(2, 3, 224, 224, device="meta")
    )


# --- transformers -----------------------------------------------------------------------------------------------------

SMALL = dict(hidden_size=32, num_hidden_layers=2, vocab_size=99)
HEADS = dict(**SMALL, intermediate_size=64, num_attention_heads=4)
LATENT = dict(kv_lora_rank=8, q_lora_rank=8, qk_rope_head_dim=4, qk_nope_head_dim=8, v_head_dim=8)
GROUPS = dict(n_routed_experts=8, n_group=2, topk_group=1, num_experts_per_tok=2, moe_intermediate_size=16)
TRANSFORMERS = {
    "Bert": HEADS,
    "Mixtral": dict(**HEADS, num_key_value_heads=2, num_local_experts=4, num_experts_per_tok=2),
    "Mamba": dict(**SMALL, state_size=8),
    "DeepseekV3": dict(**HEADS, **LATENT, **GROUPS, num_key_value_heads=4, first_k_dense_replace=1),
}


def formula(name: str, tokens: int) -> int:
    """MACs of a sequence by hand: maps, experts that are chosen and shared, both products of attention."""
    dim, hidden, scores = 32, 64, 2 * tokens * tokens
    if name == "Bert":
        return 2 * (tokens * (4 * dim * dim + 2 * dim * hidden) + scores * dim) + dim * dim  # and the pooler
    if name == "Mixtral":
        maps = 2 * dim * dim + 2 * dim * 16 + 4 * dim
        return 2 * (tokens * (maps + 2 * 3 * dim * hidden) + scores * dim)
    queries, keys = dim * 8 + 8 * 4 * 12, dim * (8 + 4) + 8 * 4 * (8 + 8)
    maps = queries + keys + 4 * 8 * dim
    attention = tokens * maps + tokens * tokens * 4 * (12 + 8)
    return 2 * attention + tokens * (3 * dim * hidden + 8 * dim + (2 + 1) * 3 * dim * 16)


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_transformers(name):
    transformers = pytest.importorskip("transformers")
    config = getattr(transformers, f"{name}Config")(**TRANSFORMERS[name])
    model = getattr(transformers, f"{name}Model")(config).eval()
    ids = torch.randint(0, 99, (2, 16))
    report = count_costs(model, inputs={"input_ids": ids})
    assert report.macs == zoo.count_flops(model, inputs=ids).macs and not report.unknown
    if name != "Mamba":
        assert report.macs == formula(name, 16)
    theirs = torchs(model, {"input_ids": ids})
    ours = report.forward
    products = sum(ours[n].macs for n in ("mm", "bmm", "addmm", "convolution") if n in ours)
    assert (
        products
        == sum(n for o, n in theirs.items() if o in ("aten.mm", "aten.bmm", "aten.addmm", "aten.convolution")) / 2
    )
