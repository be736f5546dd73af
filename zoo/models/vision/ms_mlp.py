"""MS-MLP: groups of channels, shifted by several distances, with kernels that grow with the distance.

Paper: Zheng et al., "Mixing and Shifting: Exploiting Global and Local Dependencies in Vision MLPs", arXiv 2202.06510.
Code:  JegZheng/MS-MLP, models/ms_mlp.py and configs (MIT).
Weights: the authors (MIT).
"""

from zoo.family import IMAGENET, Counted, Facts, Family, Published, released
from zoo.models.digits import TWO_STAGES
from zoo.skeletons.hierarchical import Hierarchical
from zoo.weights import rename
from zoo.weights.layouts import LAYERS, after, below

NORM = "layernorm(eps=1e-6)"
KERNELS = ((1, 1, 3, 5, 7), (1, 3, 3, 5, 7), (1, 5, 5, 5, 7), (1, 7, 7, 7, 7))  # of the configs, for each stage
MIXERS = [dict(name="mix_shift", kernels=kernels, init="torch") for kernels in KERNELS]

FAMILY = Family(
    model=Hierarchical,
    facts=Facts(
        use=(
            "Classifying natural images, and feature maps at four scales, with shifts and depthwise convolutions alone."
        ),
        not_for="Checking the published cost: the printed MACs are not those of the authors' code.",
        data="ImageNet-1K.",
        code_licence="MIT.",
    ),
    defaults=dict(
        stem=f"patch(norm='{NORM}', init='torch')",
        downsample=f"conv(kernel_size=2, padding=0, norm='{NORM}', norm_last=True, init='torch')",
        token_mixer=MIXERS,
        channel_mixer="mlp(ratio=4)",
        norm=NORM,
        final_norm=True,
        form="serial",
        layer_scale=1e-6,
        pool_first=True,
    ),
    variants={
        "ms_mlp_tiny": dict(dims=(96, 192, 384, 768), depths=(3, 3, 9, 3)),
        "ms_mlp_small": dict(dims=(96, 192, 384, 768), depths=(3, 3, 27, 3)),
        "ms_mlp_base": dict(dims=(128, 256, 512, 1024), depths=(3, 3, 27, 3)),
        "ms_mlp_digits": dict(TWO_STAGES, token_mixer=MIXERS[:2], layer_scale=0.1),
        "ms_mlp_test": dict(img_size=64, dims=(8, 8, 16, 16), depths=(1, 1, 2, 1), layer_scale=0.1, num_classes=10),
    },
    cfg=dict(IMAGENET, license="mit"),
    # The published FLOPs, 4.9, 9.0 and 16.1 billions, are not those of the authors' code, and are left out.
    published=released(
        "https://tsciencescu.blob.core.windows.net/projectshzheng/MSMLP/released_model/{0}/{0}_ckpt_epoch299.pth",
        "README of JegZheng/MS-MLP",
        {
            "ms_mlp_tiny.in1k": Published(28, None, 82.1, weights="msmlp_tiny_patch4"),
            "ms_mlp_small.in1k": Published(50, None, 83.4, weights="msmlp_small_patch4"),
            "ms_mlp_base.in1k": Published(88, None, 83.8, weights="msmlp_base_patch4"),
        },
    ),
    counted={
        "ms_mlp_tiny.in1k": Counted(28.656232, 4.451),
        "ms_mlp_small.in1k": Counted(50.303752, 8.687),
        "ms_mlp_base.in1k": Counted(88.696792, 15.361),
    },
    # In the authors' layout a stage ends with the downsampling, here it begins with it.
    rules=[
        rename(r"^patch_embed\.", "stem."),
        *after(r"^layers\.(\d+)\.downsample\.", {r"proj\.": "conv.", r"norm\.": "norm."}),
        *below(
            LAYERS,
            {
                r"dwconv_lr\.": "token_mixer.across.",
                r"dwconv_td\.": "token_mixer.down.",
                r"norm\.": "norm2.",
                r"pwconv(\d)\.": r"channel_mixer.fc\3.",
                "gamma$": "scale2.gamma",
            },
        ),
    ],
)
