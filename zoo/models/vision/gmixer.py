"""gMixer: MLP-Mixer with gated perceptrons over patches and channels, an experiment of timm's author.

Paper: none; Tolstikhin et al., "MLP-Mixer: An all-MLP Architecture for Vision", arXiv 2105.01601, with the gated
    units of Shazeer, "GLU Variants Improve Transformer", arXiv 2002.05202.
Code:  huggingface/pytorch-image-models, timm/models/mlp_mixer.py (Apache-2.0).
Weights: timm (Apache-2.0).
"""

from zoo.family import Published, on_timm_hub
from zoo.models.digits import PATCHES
from zoo.models.vision.mixer import FAMILY as MIXER

FAMILY = MIXER.derive(
    # The gated widths: half of timm's ratios 1.0 and 4.0, which count the hidden layer before the gate halves it.
    defaults=dict(
        patch_size=16,
        dim=384,
        act="silu",
        token_mixer="token_mlp(ratio=0.5, gated=True)",
        channel_mixer="glu(ratio=2, gate_last=True, open_gate=True)",
        init="xavier",
    ),
    variants={
        "gmixer_12_224": dict(depth=12),
        "gmixer_24_224": dict(depth=24),
        "gmixer_digits": dict(PATCHES, dim=64, depth=3),
        "gmixer_test": dict(img_size=32, patch_size=8, dim=32, depth=3, num_classes=10),
    },
    published=on_timm_hub(
        {
            "gmixer_12_224": Published(12.70, 2.67),
            "gmixer_24_224.ra3_in1k": Published(24.72, 5.28, top1=78.048),
        }
    ),
)
