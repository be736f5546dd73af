"""Strip-MLP: maps over strips of rows and columns, cascaded, beside local strips.

Paper: Cao et al., "Strip-MLP: Efficient Token Interaction for Vision MLP", arXiv 2307.11458.
Code:  Med-Process/Strip_MLP, models/strip_mlp.py (its head says MIT; the repository has no licence file).
Weights: the authors, on Baidu alone, which zoo does not fetch: `zoo convert` reads what was downloaded.

A published block is two blocks here: the token mixer alone, then a depthwise convolution with the channels' perceptron.
"""

from zoo.family import IMAGENET, Counted, Facts, Family, Published, released
from zoo.models.digits import TWO_STAGES
from zoo.skeletons.hierarchical import Hierarchical
from zoo.weights import rename, reshape
from zoo.weights.layouts import halves


def blocks(share: int) -> list[list[str]]:
    """The token mixers of every stage; so many channels share a strip's map."""
    return [[f"strip_mlp(share={share})", "depthwise_conv(kernel_size=7, bias=False)"]]


FAMILY = Family(
    model=Hierarchical,
    facts=Facts(
        use="Classifying natural images, with maps over strips of rows and columns.",
        not_for=(
            "Other sizes of images without fine-tuning, since the maps over strips have one size. Whoever needs a "
            "clear licence: the repository has no licence file."
        ),
        data="ImageNet-1K.",
        code_licence="MIT, by the head of its file alone.",
    ),
    defaults=dict(
        stem="patch(bias=False)",
        downsample="conv(kernel_size=2, padding=0, bias=False)",
        shortcut="conv",
        channel_mixer=[["none", "grn_mlp(ratio=3)"]],
        norm="layernorm(eps=1e-5)",
        final_norm="batchnorm",
        form="serial",
        init="torch",
        head_init="torch",
        drop_path_rule="constant",
    ),
    variants={
        "strip_mlp_tiny_light": dict(token_mixer=blocks(2), dims=(80, 160, 320, 640), depths=(4, 4, 12, 4)),
        "strip_mlp_tiny": dict(token_mixer=blocks(2), dims=(80, 160, 320, 640), depths=(4, 4, 24, 4)),
        "strip_mlp_small": dict(token_mixer=blocks(4), dims=(96, 192, 384, 768), depths=(4, 4, 36, 4)),
        "strip_mlp_base": dict(token_mixer=blocks(4), dims=(112, 224, 448, 896), depths=(4, 4, 36, 4)),
        "strip_mlp_digits": dict(TWO_STAGES, token_mixer=blocks(4), depths=(4, 2), shortcut="none"),
        "strip_mlp_test": dict(
            token_mixer=blocks(4), img_size=64, dims=(8, 8, 16, 16), depths=(2, 2, 4, 2), num_classes=10
        ),
    },
    cfg=dict(IMAGENET, license="mit"),
    published=released(
        "https://pan.baidu.com/s/{}?pwd=1234",
        "README of Med-Process/Strip_MLP",
        {
            "strip_mlp_tiny_light": Published(18, 2.5, 81.2, weights="15SQy1MxY5RQlybNVpuFQcg"),
            "strip_mlp_tiny": Published(25, 3.7, 82.2, weights="1mUDavm3Y8pmW8p7QmypnNQ"),
            "strip_mlp_small": Published(43, 6.8, 83.3, weights="1uXoPzrhptbA8FBuQcaOrVg"),
            "strip_mlp_base": Published(57, 9.2, 83.6, weights="1t4iQuMqUR8yfAO0kRS1EFg"),
        },
    ),
    counted={
        "strip_mlp_tiny_light": Counted(18.243920, 2.531, deploy_params=18.232880, by_zoo=("deploy_params",)),
        "strip_mlp_tiny": Counted(24.903920, 3.665, deploy_params=24.887120, by_zoo=("deploy_params",)),
        "strip_mlp_small": Counted(42.568600, 6.828, deploy_params=42.541528, by_zoo=("deploy_params",)),
        "strip_mlp_base": Counted(57.216480, 9.214, deploy_params=57.184896, by_zoo=("deploy_params",)),
    },
    rules=[
        rename(r"^patch_embed\.", "stem.proj."),
        *(rename(rf"^merging{i}\.", f"stages.{i}.downsample.conv.") for i in (1, 2, 3)),
        rename(r"^conv_s1_28\.", "stages.2.shortcuts.0.conv."),
        rename(r"^conv_s1_14\.", "stages.3.shortcuts.0.conv."),
        rename(r"^conv_s2_14\.", "stages.3.shortcuts.1.conv."),
        *halves(
            r"^blocks(\d)\.(\d+)\.token_mixing\.",
            0,
            {
                r"dwsc\.conv_merge\.BN\.": "token_mixer.norm1.",
                r"dwsc\.conv_merge\.Conv\.": "token_mixer.conv.",
                r"smlp_block\.mlp\.0\.": "token_mixer.fc1.",
                r"smlp_block\.mlp\.1\.": "token_mixer.norm2.",
                r"smlp_block\.relate_pos_h\.embeddings_table": "token_mixer.strips.across_positions.pos_embed",
                r"smlp_block\.relate_pos_w\.embeddings_table": "token_mixer.strips.down_positions.pos_embed",
                r"smlp_block\.proj_h\.": "token_mixer.strips.across.",
                r"smlp_block\.proj_w\.": "token_mixer.strips.down.",
                r"smlp_block\.fuse_h\.": "token_mixer.strips.fc1.",
                r"smlp_block\.fuse_w\.": "token_mixer.strips.fc2.",
                r"smlp_block\.BN\.": "token_mixer.strips.norm.",
                r"smlp_block\.fc_w\.": "token_mixer.local.tall.",
                r"smlp_block\.fc_h\.": "token_mixer.local.wide.",
                r"smlp_block\.reweight\.": "token_mixer.local.",
                r"smlp_block\.fuse\.": "token_mixer.fc2.",
            },
            reshape,
            first=(1, 0),
        ),
        *halves(
            r"^blocks(\d)\.(\d+)\.channel_mixing\.",
            1,
            {
                r"conv_77\.": "token_mixer.conv.",
                r"layer_norm\.": "norm2.",
                r"(fc\d|grn)\.": r"channel_mixer.\3.",
            },
            reshape,
            first=(1, 0),
        ),
        rename(r"^norm\.(?!bn\.)", "norm.bn."),
    ],
)
