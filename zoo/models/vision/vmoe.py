"""V-MoE: ViT with mixtures of experts in place of some perceptrons; each token is worked on by two experts of eight.

Paper: Riquelme et al., "Scaling Vision with Sparse Mixture of Experts", arXiv 2106.05974.
Code:  google-research/vmoe, vmoe/nn/vit_moe.py and vmoe/configs/vmoe_paper (Apache-2.0).
Weights: Google (Apache-2.0), as JAX shards at gs://vmoe_checkpoints, which zoo does not fetch: `zoo convert` makes a
    folder of them that opens, and of their flat arrays in .npz or .safetensors; the keys may begin with params/.

The sizes are those of the code, in which S has 8 layers. Experts stand in every second block, or in the last two of
these. The 384 variants are what the released models became by fine-tuning: no layer before the classifier, more room.
The classifier's biases start at -log of the number of classes; the code has -10 for ImageNet-21k's 21843, not -9.99.
"""

from zoo.family import Counted, Facts, Published, released
from zoo.models.digits import PATCHES
from zoo.models.vision.vit import FAMILY as VIT
from zoo.weights import transpose
from zoo.weights.flax import BLOCKS, flax_vit, linear
from zoo.weights.layouts import below


def moe(
    factor: float = 1.05, eval_factor: float | None = None, drop: float = 0.0, *, num_experts: int = 8, **expert
) -> dict:
    """A mixture with room for `factor` times the even share of an expert, among the tokens of eight images."""
    router = dict(name="top_k", softmax="before", noise=1.0, losses=("importance", "load"), init="lecun")
    return dict(
        name="moe",
        num_experts=num_experts,
        top_k=2,
        group=8,
        router=router,
        dispatch=dict(name="capacity", factor=factor, eval_factor=eval_factor, multiple=4),
        experts=dict(name="mlp", same=True, drop=drop, **expert),
    )


def last2(**options) -> dict:
    """Mixtures in the last two of the blocks with odd indices."""
    return dict(channel_mixer={"name": "mlp", "at": {-3: moe(**options), -1: moe(**options)}})


def every2(**options) -> dict:
    """Mixtures in every second block."""
    return dict(channel_mixer=["mlp", moe(**options)])


S, B, L = dict(dim=512, depth=8), dict(dim=768, depth=12), dict(dim=1024, depth=24)
H = dict(dim=1280, depth=32, patch_size=14, token_mixer="attention(heads=16)")
SCRATCH = dict(head="tanh(init='prior')")  # on ImageNet-1K; the models for ImageNet-21k have a plain classifier
IN21K = dict(num_classes=21843)

FAMILY = VIT.derive(
    facts=Facts(
        use="Classifying natural images with much capacity at the cost of a small ViT; research on routing.",
        not_for=(
            "Answers that must not depend on the batch: the tokens of eight images share the room of the experts. "
            "Little memory, since all experts are held."
        ),
        data=(
            "S/32 with experts in the last two blocks: ImageNet-1K. B/16 with experts in every second block: "
            "ImageNet-21K, at 384 x 384 ImageNet-1K after that."
        ),
        code_licence="Apache-2.0.",
    ),
    defaults=dict(act="gelu(approximate='tanh')", head="linear(init='prior')"),
    variants={
        "vmoe_s32_last2_224": dict(S, **SCRATCH, **last2(eval_factor=4.0, drop=0.2), patch_size=32),
        "vmoe_s32_last2_384": dict(S, **last2(factor=1.5), patch_size=32, img_size=384),
        "vmoe_s32_every2_224": dict(S, **IN21K, **every2(), patch_size=32),
        "vmoe_b32_last2_224": dict(B, **IN21K, **last2(), patch_size=32),
        "vmoe_b32_every2_224": dict(B, **IN21K, **every2(), patch_size=32),
        "vmoe_b16_last2_224": dict(B, **IN21K, **last2()),
        "vmoe_b16_every2_224": dict(B, **IN21K, **every2()),
        "vmoe_b16_every2_384": dict(B, **every2(factor=1.5), img_size=384),
        "vmoe_l32_last2_224": dict(L, **IN21K, **last2(), patch_size=32),
        "vmoe_l32_every2_224": dict(L, **IN21K, **every2(), patch_size=32),
        "vmoe_l16_last2_224": dict(L, **IN21K, **last2()),
        "vmoe_l16_every2_224": dict(L, **IN21K, **every2()),
        "vmoe_h14_last2_224": dict(H, **IN21K, **last2()),
        "vmoe_h14_every2_224": dict(H, **IN21K, **every2()),
        "vmoe_digits": dict(
            PATCHES,
            dim=48,
            depth=4,
            token_mixer="attention(heads=4)",
            channel_mixer={
                "name": "mlp",
                "ratio": 2,
                "at": {-1: moe(num_experts=4, factor=1.5, eval_factor=4.0, ratio=2)},
            },
        ),
        "vmoe_test": dict(VIT.variants["vit_test"], **SCRATCH, **last2(eval_factor=4.0, drop=0.2), depth=4),
    },
    cfg=dict(mean=(0.5,) * 3, std=(0.5,) * 3, crop_pct=0.875, interpolation="bilinear", license="apache-2.0"),
    # The accuracies are means over three runs.
    published=released(
        "gs://vmoe_checkpoints/vmoe_{}",
        "vmoe/configs/vmoe_paper and README of google-research/vmoe",
        {
            "vmoe_s32_last2_224": Published(top1=73.1, weights="s32_last2_ilsvrc2012_randaug_light1"),
            "vmoe_s32_last2_384": Published(top1=75.9, weights="s32_last2_ilsvrc2012_randaug_light1_ft_ilsvrc2012"),
            "vmoe_b16_every2_224": Published(classes=21843, weights="b16_imagenet21k_randaug_strong"),
            "vmoe_b16_every2_384": Published(top1=85.6, weights="b16_imagenet21k_randaug_strong_ft_ilsvrc2012"),
        },
    ),
    # No sizes are published, and the authors' code was not run: all these are zoo's, with two experts a token and none
    # of the choices dropped.
    counted={
        name: Counted(params, macs, by_zoo=("params", "macs"))
        for name, params, macs in (
            ("vmoe_s32_last2_224", 56.999400, 1.567),
            ("vmoe_s32_last2_384", 56.785384, 4.658),
            ("vmoe_s32_every2_224", 96.833363, 1.787),
            ("vmoe_b32_last2_224", 170.378835, 4.898),
            ("vmoe_b32_every2_224", 302.631507, 5.843),
            ("vmoe_b16_last2_224", 168.722259, 19.441),
            ("vmoe_b16_every2_224", 300.974931, 23.164),
            ("vmoe_b16_every2_384", 285.238504, 71.841),
            ("vmoe_l32_last2_224", 445.428051, 16.239),
            ("vmoe_l32_every2_224", 1033.070931, 20.437),
            ("vmoe_l16_last2_224", 443.219283, 64.884),
            ("vmoe_l16_every2_224", 1030.862163, 81.426),
            ("vmoe_h14_last2_224", 842.356563, 174.064),
            ("vmoe_h14_every2_224", 2127.632723, 221.261),
        )
    },
    rules=[
        *below(BLOCKS, {"Moe/Router/dense/kernel$": "channel_mixer.router.gate.weight"}, transpose),
        *linear(BLOCKS, "Moe/Mlp/Dense_0/", "channel_mixer.experts.fc1."),
        *linear(BLOCKS, "Moe/Mlp/Dense_1/", "channel_mixer.experts.fc2."),
        *flax_vit(),
    ],
)
