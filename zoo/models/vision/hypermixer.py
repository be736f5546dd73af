"""HyperMixer: MLP-Mixer whose perceptron over the patches is made of the patches themselves, for any number of them.

Paper: Mai et al., "HyperMixer: An MLP-based Low Cost Alternative to Transformers", arXiv 2203.03691.
Code:  idiap/hypermixing, hypermixing/hypermixing.py (MIT): the layer alone, for texts and speech.
Weights: none released.

The authors have no models of images: these sizes are zoo's own, those of ViT, with a head for every 64 channels.
"""

from zoo.family import IMAGENET, Family
from zoo.skeletons.isotropic import Isotropic

FAMILY = Family(
    model=Isotropic,
    defaults=dict(channel_mixer="mlp(ratio=4)", norm="layernorm(eps=1e-6)", depth=12),
    variants={
        "hypermixer_ti16_224": dict(dim=192, token_mixer="hypermixing(heads=3)"),
        "hypermixer_s16_224": dict(dim=384, token_mixer="hypermixing(heads=6)"),
        "hypermixer_b16_224": dict(dim=768, token_mixer="hypermixing(heads=12)"),
        "hypermixer_digits": dict(
            img_size=8,
            in_chans=1,
            num_classes=10,
            patch_size=2,
            dim=32,
            depth=4,
            token_mixer="hypermixing(heads=2, ratio=2)",
        ),
        "hypermixer_test": dict(
            img_size=32, patch_size=8, dim=16, depth=3, num_classes=10, token_mixer="hypermixing(heads=2)"
        ),
    },
    cfg=IMAGENET,
)
