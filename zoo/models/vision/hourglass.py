"""Hourglass MLP: the skip runs wide, the residual path through a bottleneck; and its rival, the usual wide hidden
layer.

Paper: "Rethinking the shape convention of an MLP", arXiv 2510.01796.
Code:  none released; what the abstract leaves open (norm, activation, sizes) is zoo's choice.
Weights: none released.

Both work on the flattened image. The Hourglass lifts it to a wider state, by a random projection that is never trained
nor stored, and each block goes wide - narrow - wide. The conventional MLP keeps the image's own width, and each block
goes narrow - wide - narrow. In each pair below the products of the blocks have equal numbers of weights.
Which of the two is better at denoising small digits, and when, was measured: benchmarks/RESULTS.md.
"""

from zoo.family import Family
from zoo.models.digits import IMAGES
from zoo.skeletons.isotropic import Isotropic

HOURGLASS = dict(stem="lift(kind='random', seed=0)", dim=3136, channel_mixer="hourglass(ratio=0.125)")
CONVENTIONAL = dict(stem="lift(kind='none')", dim=784, channel_mixer="mlp(ratio=2)")

FAMILY = Family(
    model=Isotropic,
    tasks=("classification", "image-to-image"),
    defaults=dict(
        img_size=28,
        in_chans=1,
        num_classes=10,
        token_mixer="none",
        norm="layernorm",
        global_pool="avg",
        init="xavier",
        head="linear(init='xavier')",
    ),
    variants={
        "hourglass_mlp_tiny": dict(HOURGLASS, depth=3),
        "hourglass_mlp_small": dict(HOURGLASS, depth=6),
        "hourglass_mlp_base": dict(HOURGLASS, depth=12),
        "conventional_mlp_tiny": dict(CONVENTIONAL, depth=3),
        "conventional_mlp_small": dict(CONVENTIONAL, depth=6),
        "conventional_mlp_base": dict(CONVENTIONAL, depth=12),
        "hourglass_digits": dict(HOURGLASS, **IMAGES, dim=256, depth=3),
        "hourglass_test": dict(HOURGLASS, img_size=8, dim=128, depth=3),
        "conventional_test": dict(CONVENTIONAL, img_size=8, dim=64, depth=3),
    },
    cfg=dict(mean=(0.0,), std=(1.0,), crop_pct=1.0),
)
