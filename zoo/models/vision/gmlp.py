"""gMLP: one gated unit a block, which mixes patches and channels at once.

Paper: Liu et al., "Pay Attention to MLPs", arXiv 2105.08050.
Code:  no official vision code; huggingface/pytorch-image-models, timm/models/mlp_mixer.py (Apache-2.0).
Weights: timm (Apache-2.0), for the small model alone.
"""

from zoo.family import Published, on_timm_hub
from zoo.models.digits import PATCHES
from zoo.models.vision.mixer import FAMILY as MIXER
from zoo.weights.layouts import BLOCKS, below

FAMILY = MIXER.derive(
    defaults=dict(
        patch_size=16,
        depth=30,
        token_mixer="spatial_gate(ratio=6)",
        channel_mixer="none",
        init="xavier",
    ),
    variants={
        "gmlp_ti16_224": dict(dim=128),
        "gmlp_s16_224": dict(dim=256),
        "gmlp_b16_224": dict(dim=512),
        "gmlp_digits": dict(PATCHES, dim=48, depth=4),
        "gmlp_test": dict(img_size=32, patch_size=8, dim=16, depth=3, num_classes=10),
    },
    published=on_timm_hub(
        {
            "gmlp_ti16_224": Published(5.87, 1.34),
            "gmlp_s16_224.ra3_in1k": Published(19.42, 4.42, top1=79.652),
            "gmlp_b16_224": Published(73.08, 15.78),
        }
    ),
    rules=below(
        BLOCKS,
        {
            r"norm\.": "norm1.",
            r"mlp_channels\.gate\.proj\.": "token_mixer.gate.",
            r"mlp_channels\.gate\.norm\.": "token_mixer.norm.",
            r"mlp_channels\.": "token_mixer.",
        },
    ),
)
