"""ResMLP: one matrix over the patches, a perceptron over the channels, an affine map where others have a norm.

Paper: Touvron et al., "ResMLP: Feedforward networks for image classification with data-efficient training", arXiv
    2105.03404.
Code:  facebookresearch/deit, resmlp_models.py (Apache-2.0).
Weights: Facebook AI (Apache-2.0), on the Hub by timm.
Layer scale starts at 0.1 for 12 blocks, as in the authors' code; timm starts it at 1e-4.
"""

from zoo.family import Family, Published, on_timm_hub
from zoo.models.digits import PATCHES
from zoo.skeletons.isotropic import Isotropic
from zoo.weights import rename, reshape
from zoo.weights.layouts import BLOCKS, below

FAMILY = Family(
    model=Isotropic,
    defaults=dict(
        patch_size=16,
        dim=384,
        token_mixer="resmlp_linear",
        channel_mixer="mlp(ratio=4)",
        norm="affine",
        init="trunc_normal",
        drop_path_rule="constant",
    ),
    variants={
        "resmlp_12_224": dict(depth=12, layer_scale=0.1),
        "resmlp_24_224": dict(depth=24, layer_scale=1e-5),
        "resmlp_36_224": dict(depth=36, layer_scale=1e-6),
        "resmlp_big_24_224": dict(patch_size=8, dim=768, depth=24, layer_scale=1e-6),
        "resmlp_digits": dict(PATCHES, dim=64, depth=4, init="lecun", layer_scale=1.0),
        "resmlp_test": dict(img_size=32, patch_size=8, dim=32, depth=3, layer_scale=0.1, num_classes=10),
    },
    published=on_timm_hub(
        {
            "resmlp_12_224.fb_in1k": Published(15.35, 3.01, top1=76.660),
            "resmlp_12_224.fb_distilled_in1k": Published(15.35, 3.01, top1=77.948),
            "resmlp_12_224.fb_dino": Published(15.35, 3.01),
            "resmlp_24_224.fb_in1k": Published(30.02, 5.96, top1=79.380),
            "resmlp_24_224.fb_distilled_in1k": Published(30.02, 5.96, top1=80.766),
            "resmlp_24_224.fb_dino": Published(30.02, 5.96),
            "resmlp_36_224.fb_in1k": Published(44.69, 8.91, top1=79.772),
            "resmlp_36_224.fb_distilled_in1k": Published(44.69, 8.91, top1=81.150),
            "resmlp_big_24_224.fb_in1k": Published(129.14, 100.23, top1=81.034),
            "resmlp_big_24_224.fb_distilled_in1k": Published(129.14, 100.23, top1=83.594),
            "resmlp_big_24_224.fb_in22k_ft_in1k": Published(129.14, 100.23, top1=84.414),
        }
    ),
    # Both layouts are read: the authors' (patch_embed, attn, mlp, gamma_1) and timm's (stem, linear_tokens,
    # mlp_channels, ls1).
    rules=[
        rename(r"^patch_embed\.", "stem."),
        *below(BLOCKS, {r"(?:attn|linear_tokens)\.": "token_mixer.proj.", r"(?:mlp|mlp_channels)\.": "channel_mixer."}),
        *below(BLOCKS, {r"(?:gamma_|ls)([12])$": r"scale\2.gamma"}),
        rename(r"\.(alpha|beta)$", r".\1", reshape),
    ],
)
