"""SwinV2-MoE: Swin's blocks with SwinV2's position bias, and mixtures of experts in every second block of its depths.

Paper: Liu et al., "Swin Transformer V2: Scaling Up Capacity and Resolution", arXiv 2111.09883; Hwang et al., "Tutel:
    Adaptive Mixture-of-Experts at Scale", arXiv 2206.03382.
Code:  microsoft/Swin-Transformer, models/swin_transformer_moe.py, configs/swinmoe; microsoft/Tutel (MIT).
Weights: Microsoft (MIT), of the small models with up to 32 experts, as archives with a file a process, which zoo does
    not fetch: `zoo convert` makes a folder of them that opens, of the files of all processes or of the one file that
    tutel/checkpoint/gather.py joins them into.

Whatever the name, the blocks are those of Swin: norms before the mixers, scaled dot products. Of SwinV2 there is only
the network for the position bias, and that without its bounds. The second maps of the perceptrons have no bias; where
the authors' code keeps one for the experts, it is zero and not trained, and it is no parameter here.
"""

from zoo.family import IMAGENET, Counted, Facts, Published, released
from zoo.models.digits import TWO_STAGES
from zoo.models.vision.swin import BASE, NORM, SMALL, windows
from zoo.models.vision.swin import FAMILY as SWIN
from zoo.weights import drop, transpose
from zoo.weights.layouts import LAYERS, below, within

DENSE = "mlp(fc2_bias=False)"


def mixture(num_experts: int, top_k: int = 1, router: str = "top_k", **expert) -> dict:
    """A mixture of perceptrons with these options."""
    return dict(
        name="moe",
        num_experts=num_experts,
        top_k=top_k,
        router=dict(name=router, softmax="before", noise=1.0, losses=("load_importance",)),
        dispatch=dict(name="capacity", factor=1.25, rule="tutel", priority="gate"),
        experts=dict(name="mlp", fc2_bias=False, **expert),
    )


def moe(num_experts: int, **options) -> dict:
    """Mixtures in every second block of the third stage and in the last block of the fourth; all drawn narrowly."""
    sparse, init = mixture(num_experts, hidden_drop=0.1, **options), "trunc_normal_005"
    return dict(
        channel_mixer=[DENSE, DENSE, [DENSE, sparse], [DENSE, sparse]], init=init, head=f"linear(init='{init}')"
    )


def _name(size: str, experts: str) -> str:
    return f"swin_moe_{size}_patch4_window12_192_{experts}"


RELEASED = (
    *("densebaseline_22k", "8expert_32gpu_22k", "16expert_32gpu_22k", "32expert_32gpu_22k"),
    "cosine_router_32expert_32gpu_22k",
)
TEST = windows(4, continuous=True, head_dim=4)
EXPERTS = within(LAYERS, r"mlp\._moe_layer\.experts\.batched_", "channel_mixer.experts.")
GATE = within(LAYERS, r"mlp\._moe_layer\.gates\.0\.", "channel_mixer.router.gate.")

FAMILY = SWIN.derive(
    facts=Facts(
        use="A start for fine-tuning with much capacity at the cost of a small Swin; research on routing.",
        not_for=(
            "Labels of ImageNet-1K as they are: the classifier knows the 21,841 classes of ImageNet-22K. Little "
            "memory, since all experts are held."
        ),
        data="ImageNet-22K.",
        code_licence="MIT (microsoft/Swin-Transformer, microsoft/Tutel).",
    ),
    defaults=dict(
        img_size=192,
        stem=f"patch(norm='{NORM}', remainder='pad', init='torch')",
        token_mixer=windows(12, continuous=True),
        channel_mixer="mlp(fc2_bias=False)",
        num_classes=21841,
    ),
    variants={
        _name("small", "densebaseline_22k"): dict(SMALL),
        _name("small", "8expert_32gpu_22k"): dict(SMALL, **moe(8)),
        _name("small", "16expert_32gpu_22k"): dict(SMALL, **moe(16)),
        _name("small", "32expert_32gpu_22k"): dict(SMALL, **moe(32)),
        _name("small", "cosine_router_32expert_32gpu_22k"): dict(SMALL, **moe(32, router="cosine")),
        _name("small", "64expert_64gpu_22k"): dict(SMALL, **moe(64)),
        _name("small", "128expert"): dict(SMALL, **moe(128)),
        _name("base", "densebaseline_22k"): dict(BASE),
        _name("base", "8expert_32gpu_22k"): dict(BASE, **moe(8)),
        _name("base", "16expert_32gpu_22k"): dict(BASE, **moe(16)),
        _name("base", "32expert_32gpu_22k"): dict(BASE, **moe(32)),
        _name("base", "cosine_router_32expert_32gpu_22k"): dict(BASE, **moe(32, router="cosine")),
        _name("base", "32expert_k2"): dict(BASE, **moe(32, top_k=2)),
        "swin_moe_digits": dict(
            TWO_STAGES,
            init="lecun",
            head="linear",
            token_mixer=TEST,
            channel_mixer=[DENSE, [DENSE, mixture(4, ratio=2)]],
        ),
        "swin_moe_test": dict(SWIN.variants["swin_test"], **moe(4), depths=(2, 1, 2, 2), token_mixer=TEST),
    },
    cfg=dict(IMAGENET, crop_pct=0.875, license="mit"),
    published=released(
        "https://github.com/SwinTransformer/storage/releases/download/v2.0.2/{}.zip",
        "MODELHUB.md of microsoft/Swin-Transformer",
        {_name("small", experts): Published(classes=21841) for experts in RELEASED},
    ),
    # Nothing is published of these weights on ImageNet-1K: the authors' accuracies are on ImageNet-22K, and of models
    # that were fine-tuned. Their models have parameters besides: the experts' second biases, zero and not trained,
    # 4,224 numbers for each expert in the small ones and 5,632 in the base ones. MACs are zoo's own, for the work that
    # is done: the authors' formula multiplies that of a mixture by the capacity factor.
    counted={
        _name(size, experts): Counted(params, macs, by_zoo=("macs",))
        for size, experts, params, macs in (
            ("small", "densebaseline_22k", 65.757553, 6.830),
            ("small", "8expert_32gpu_22k", 173.257585, 6.835),
            ("small", "16expert_32gpu_22k", 296.109937, 6.839),
            ("small", "32expert_32gpu_22k", 541.814641, 6.847),
            ("small", "cosine_router_32expert_32gpu_22k", 542.845307, 6.976),
            ("small", "64expert_64gpu_22k", 1033.224049, 6.864),
            ("small", "128expert", 2016.042865, 6.898),
            ("base", "densebaseline_22k", 109.284049, 11.878),
            ("base", "8expert_32gpu_22k", 300.327633, 11.883),
            ("base", "16expert_32gpu_22k", 518.656721, 11.889),
            ("base", "32expert_32gpu_22k", 955.314897, 11.900),
            ("base", "cosine_router_32expert_32gpu_22k", 956.660955, 12.068),
            ("base", "32expert_k2", 955.314897, 14.920),
        )
    },
    rules=[
        drop(r"\._num_global_experts$", "a number that the experts' sizes say"),
        drop(EXPERTS[0] + "fc2_bias$", "zero, and not trained", zero=True),
        *below(EXPERTS, {"fc1_w$": "fc1.weight", "fc1_bias$": "fc1.bias"}),
        *below(EXPERTS, {"fc2_w$": "fc2.weight"}, transpose),
        *below(GATE, {r"(?:wg|cosine_projector)\.": "", "sim_matrix$": "similarity", "temperature$": "temperature"}),
        *SWIN.rules,
    ],
)
