"""gMLP: one gated unit a block, which mixes patches and channels at once.

Paper: Liu et al., "Pay Attention to MLPs", arXiv 2105.08050.
Code:  no official vision code; huggingface/pytorch-image-models, timm/models/mlp_mixer.py (Apache-2.0).
Weights: timm (Apache-2.0), for the small model alone.
"""

from zoo.family import Published, on_timm_hub
from zoo.skeletons.isotropic import Isotropic
from zoo.weights import rename

MODEL = Isotropic

DEFAULTS = dict(
    patch_size=16,
    depth=30,
    token_mixer="spatial_gate(ratio=6)",
    channel_mixer="none",
    norm="layernorm(eps=1e-6)",
    init="xavier",
    stem_init="lecun",
    head_init="zeros",
    drop_path_rule="constant",
)

VARIANTS = {
    "gmlp_ti16_224": dict(dim=128),
    "gmlp_s16_224": dict(dim=256),
    "gmlp_b16_224": dict(dim=512),
    "gmlp_test": dict(img_size=32, patch_size=8, dim=16, depth=3, num_classes=10),
}

PUBLISHED = on_timm_hub(
    {
        "gmlp_ti16_224": Published(5.87, 1.34),
        "gmlp_s16_224.ra3_in1k": Published(19.42, 4.42, top1=79.652),
        "gmlp_b16_224": Published(73.08, 15.78),
    }
)

RULES = [
    rename(r"^(blocks\.\d+)\.norm\.", r"\1.norm1."),
    rename(r"^(blocks\.\d+)\.mlp_channels\.gate\.proj\.", r"\1.token_mixer.gate."),
    rename(r"^(blocks\.\d+)\.mlp_channels\.gate\.norm\.", r"\1.token_mixer.norm."),
    rename(r"^(blocks\.\d+)\.mlp_channels\.", r"\1.token_mixer."),
]
