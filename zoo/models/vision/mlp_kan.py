"""MLP-KAN: DeiT whose perceptrons are mixtures of four perceptrons and four Kolmogorov-Arnold networks.

Paper: He et al., "MLP-KAN: Unifying Deep Representation and Function Learning", arXiv 2410.03027.
Code:  DLYuanGod/MLP-KAN, models_kan.py and fasterkan.py (MIT).
Weights: none released.

The authors' models keep the perceptrons that the mixtures replace, unused; these leave them out, and the grids too,
which are not trained. As they are initialised they double a rounding error in every block: in fp32 the logits of a tiny
model lie 3e-2 (relative) from those in fp64, in the authors' code and in this one. In fp64 the two agree to 5e-11.
"""

import torch
from einops import rearrange
from torch import Size, Tensor

from zoo.family import Counted
from zoo.models.digits import PATCHES
from zoo.models.vision.deit import FAMILY as DEIT
from zoo.weights import drop
from zoo.weights.layouts import BLOCKS, below, within


def moe(num_experts: int = 8, hidden: int = 192) -> dict:
    """A mixture, its first half of perceptrons and its second of networks with half as many hidden features."""
    half = num_experts // 2
    experts = [dict(name="mlp", hidden=hidden)] * half + [dict(name="faster_kan", hidden=hidden // 2)] * half
    router = dict(name="top_k", softmax="after", losses=())
    return dict(name="moe", num_experts=num_experts, top_k=2, experts=experts, router=router)


def _by_function(x: Tensor, shape: Size) -> Tensor:
    """From the functions of an input side by side to one map for each function."""
    return rearrange(x, "dim (in_dim num) -> dim num in_dim", num=shape[1])


def _ones(x: Tensor, shape: Size) -> Tensor:
    """No edge is pruned."""
    return torch.ones(shape)


EXPERT = within(BLOCKS, r"kan\.experts\.(\d+)\.", r"channel_mixer.experts.mixers.\2.")

FAMILY = DEIT.derive(
    defaults=dict(
        token_mixer="attention(head_dim=64, qkv_bias=False)",
        channel_mixer=moe(),
        norm="layernorm(eps=1e-5)",
        final_norm="layernorm(eps=1e-6)",
        init="torch",
    ),
    variants={
        "mlp_kan_tiny_patch16_224": dict(dim=192),
        "mlp_kan_small_patch16_224": dict(dim=384),
        "mlp_kan_base_patch16_224": dict(dim=768),
        "mlp_kan_digits": dict(
            PATCHES,
            dim=32,
            depth=3,
            global_pool="avg",
            token_mixer="attention(heads=4, qkv_bias=False)",
            channel_mixer=moe(4, 64),
        ),
        "mlp_kan_test": dict(
            DEIT.variants["deit_test"],
            dim=64,
            global_pool="avg",
            token_mixer="attention(heads=4, qkv_bias=False)",
            channel_mixer=moe(4, 64),
        ),
    },
    # The parameters are those of the authors' models without what those do not use or train, which is 3,551,232 in
    # tiny, 14,179,584 in small and 56,669,952 in base; MACs are zoo's own, with equal shares for the experts.
    counted={
        "mlp_kan_tiny_patch16_224": Counted(19.919272, 1.437, by_zoo=("macs",)),
        "mlp_kan_small_patch16_224": Counted(43.358056, 3.569, by_zoo=("macs",)),
        "mlp_kan_base_patch16_224": Counted(100.852456, 9.926, by_zoo=("macs",)),
    },
    rules=[
        drop(r"^blocks\.\d+\.mlp\.", "the perceptrons of DeiT, which the authors' blocks keep and do not use"),
        *below(BLOCKS, {r"kan\.gate\.": "channel_mixer.router.gate."}),
        *below(EXPERT, {"fc": "fc", r"layers\.0\.layernorm\.": "norm1.", r"layers\.1\.layernorm\.": "norm."}),
        *below(EXPERT, {rf"layers\.{i}\.spline_linear\.": f"fc{i + 1}." for i in (0, 1)}, _by_function),
        # What is fixed stands where KANLinear keeps which edges are alive.
        *below(EXPERT, {rf"layers\.{i}\.rbf\.grid$": f"fc{i + 1}.alive" for i in (0, 1)}, _ones),
        *DEIT.rules,
    ],
)
