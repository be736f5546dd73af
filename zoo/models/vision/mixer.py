"""MLP-Mixer: a perceptron over the patches and one over the channels, in turn.

Paper: Tolstikhin et al., "MLP-Mixer: An all-MLP Architecture for Vision", arXiv 2105.01601.
Code:  google-research/vision_transformer, vit_jax/models_mixer.py (Apache-2.0).
Weights: Google (Apache-2.0) and Alibaba-MIIL (Apache-2.0), as converted by timm. They are run with the exact GELU, as
    timm does; Google's Flax code has the tanh form: act="gelu(approximate='tanh')".
"""

from zoo.family import Family, Published, on_timm_hub
from zoo.models.digits import PATCHES
from zoo.skeletons.isotropic import Isotropic
from zoo.weights.layouts import BLOCKS, below

FAMILY = Family(
    model=Isotropic,
    defaults=dict(
        token_mixer="token_mlp(ratio=0.5)",
        channel_mixer="mlp(ratio=4)",
        norm="layernorm(eps=1e-6)",
        init="lecun",
        stem="patch(init='lecun')",
        head="linear(init='zeros')",
        drop_path_rule="constant",
    ),
    variants={
        "mixer_s32_224": dict(patch_size=32, dim=512, depth=8),
        "mixer_s16_224": dict(patch_size=16, dim=512, depth=8),
        "mixer_b32_224": dict(patch_size=32, dim=768, depth=12),
        "mixer_b16_224": dict(patch_size=16, dim=768, depth=12),
        "mixer_l32_224": dict(patch_size=32, dim=1024, depth=24),
        "mixer_l16_224": dict(patch_size=16, dim=1024, depth=24),
        "mixer_digits": dict(PATCHES, dim=64, depth=3),
        "mixer_test": dict(img_size=32, patch_size=8, dim=32, depth=3, num_classes=10),
    },
    published=on_timm_hub(
        {
            "mixer_s32_224": Published(19.10, 1.00),
            "mixer_s16_224": Published(18.53, 3.79),
            "mixer_b32_224": Published(60.29, 3.24),
            "mixer_b16_224.goog_in21k_ft_in1k": Published(59.88, 12.62, top1=76.616),
            "mixer_b16_224.goog_in21k": Published(75.908739, 12.62, classes=21843),
            "mixer_b16_224.miil_in21k_ft_in1k": Published(59.88, 12.62, top1=82.314),
            "mixer_b16_224.miil_in21k": Published(67.740421, 12.62, classes=11221),
            "mixer_l32_224": Published(206.94, 11.27),
            "mixer_l16_224.goog_in21k_ft_in1k": Published(208.20, 44.6, top1=72.084),
            "mixer_l16_224.goog_in21k": Published(229.560243, 44.6, classes=21843),
        }
    ),
    rules=below(BLOCKS, {r"mlp_tokens\.": "token_mixer.", r"mlp_channels\.": "channel_mixer."}),
)
