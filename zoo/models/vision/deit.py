"""DeiT: ViT's architecture, trained on ImageNet-1K alone.

Paper: Touvron et al., "Training data-efficient image transformers & distillation through attention", arXiv 2012.12877.
Code:  facebookresearch/deit, models.py (Apache-2.0).
Weights: Facebook AI (Apache-2.0), on the Hub by timm.
"""

from zoo.family import Published, on_timm_hub
from zoo.models.digits import PATCHES
from zoo.models.vision.vit import FAMILY as VIT

FAMILY = VIT.derive(
    defaults=dict(init="trunc_normal", stem="patch", head="linear", embed="class_and_position"),
    variants={
        "deit_tiny_patch16_224": dict(dim=192),
        "deit_small_patch16_224": dict(dim=384),
        "deit_base_patch16_224": dict(dim=768),
        "deit_digits": dict(PATCHES, dim=48, depth=5, token_mixer="attention(heads=4)", init="lecun"),
        "deit_test": VIT.variants["vit_test"],
    },
    published=on_timm_hub(
        {
            "deit_tiny_patch16_224.fb_in1k": Published(5.72, 1.26, top1=72.190),
            "deit_small_patch16_224.fb_in1k": Published(22.05, 4.61, top1=79.856),
            "deit_base_patch16_224.fb_in1k": Published(86.57, 17.58, top1=81.980),
        }
    ),
)
