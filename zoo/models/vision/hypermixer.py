"""HyperMixer: MLP-Mixer whose perceptron over the patches is made of the patches themselves, for any number of them.

Paper: Mai et al., "HyperMixer: An MLP-based Low Cost Alternative to Transformers", arXiv 2203.03691.
Code:  idiap/hypermixing, hypermixing/hypermixing.py (MIT): the layer alone, for texts and speech.
Weights: none released.

The authors have no models of images: these are zoo's own, of ViT's sizes, with a head for every 64 channels. The
layer's sinusoids alone, which number the patches row by row, say too little: there are learnt positions too. Since each
mixer ends in a norm, its branch would begin as large as the stream: hence the layer scale.
"""

from zoo.family import IMAGENET, Facts, Family
from zoo.models.digits import IMAGES
from zoo.skeletons.isotropic import Isotropic

FAMILY = Family(
    model=Isotropic,
    facts=Facts(
        use="Research on mixing whose cost grows with the number of patches alone, for any number of them.",
        not_for=(
            "Use without training: no weights are released. Checking figures of a paper: the authors have no models "
            "of images, and the sizes are zoo's own."
        ),
        data="No weights are released.",
        code_licence="MIT (the layer; no code for images).",
    ),
    defaults=dict(channel_mixer="mlp(ratio=4)", norm="layernorm(eps=1e-6)", depth=12, pos_embed=True, layer_scale=0.1),
    variants={
        "hypermixer_ti16_224": dict(dim=192, token_mixer="hypermixing(heads=3)"),
        "hypermixer_s16_224": dict(dim=384, token_mixer="hypermixing(heads=6)"),
        "hypermixer_b16_224": dict(dim=768, token_mixer="hypermixing(heads=12)"),
        "hypermixer_digits": dict(
            IMAGES,
            stem="conv(kernel_size=3, stride=2, padding=1)",
            dim=48,
            depth=3,
            token_mixer="hypermixing(heads=2, ratio=2)",
            channel_mixer="mlp(ratio=2)",
            init="lecun",
        ),
        "hypermixer_test": dict(
            img_size=32,
            patch_size=8,
            dim=16,
            depth=3,
            num_classes=10,
            token_mixer="hypermixing(heads=2)",
            stem="patch(init='trunc_normal')",
        ),
    },
    cfg=IMAGENET,
)
