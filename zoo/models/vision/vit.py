"""ViT: self-attention over patches and a class token, with learnt positions; the attention baseline.

Paper: Dosovitskiy et al., "An Image is Worth 16x16 Words: Transformers for Image Recognition at Scale", arXiv
    2010.11929; weights: Steiner et al., "How to train your ViT? Data, Augmentation, and Regularization in Vision
    Transformers", arXiv 2106.10270.
Code:  google-research/vision_transformer, vit_jax/models_vit.py (Apache-2.0).
Weights: Google (Apache-2.0), on the Hub by timm, with the exact GELU. timm's further tags (dino, mae, sam, ...) load
    too; each has its own licence, which zoo.model_info names.
"""

from zoo.family import Family, Published, on_timm_hub
from zoo.models.digits import PATCHES
from zoo.skeletons.isotropic import Isotropic
from zoo.weights.layouts import timm_vit

FAMILY = Family(
    model=Isotropic,
    defaults=dict(
        patch_size=16,
        depth=12,
        token_mixer="attention(head_dim=64)",
        channel_mixer="mlp(ratio=4)",
        norm="layernorm(eps=1e-6)",
        global_pool="token",
        init="xavier",
        stem="patch(init='lecun')",
        embed="class_and_position(token_std=0)",
        head="linear(init='zeros')",
    ),
    variants={
        "vit_tiny_patch16_224": dict(dim=192),
        "vit_small_patch16_224": dict(dim=384),
        "vit_base_patch16_224": dict(dim=768),
        "vit_digits": dict(PATCHES, dim=48, depth=4, token_mixer="attention(heads=4)"),
        "vit_test": dict(img_size=32, patch_size=8, dim=32, depth=3, num_classes=10, token_mixer="attention(heads=4)"),
    },
    published=on_timm_hub(
        {
            "vit_tiny_patch16_224.augreg_in21k_ft_in1k": Published(5.72, 1.26, top1=75.452),
            "vit_tiny_patch16_224.augreg_in21k": Published(9.740115, 1.26, classes=21843),
            "vit_small_patch16_224.augreg_in21k_ft_in1k": Published(22.05, 4.61, top1=81.402),
            "vit_small_patch16_224.augreg_in1k": Published(22.05, 4.61, top1=78.842),
            "vit_small_patch16_224.augreg_in21k": Published(30.075219, 4.61, classes=21843),
            "vit_base_patch16_224.augreg2_in21k_ft_in1k": Published(86.57, 17.58, top1=85.108),
            "vit_base_patch16_224.augreg_in21k_ft_in1k": Published(86.57, 17.58, top1=84.534),
            "vit_base_patch16_224.orig_in21k_ft_in1k": Published(86.57, 17.58, top1=81.782),
            "vit_base_patch16_224.augreg_in1k": Published(86.57, 17.58, top1=79.154),
            "vit_base_patch16_224.augreg_in21k": Published(102.595923, 17.58, classes=21843),
            "vit_base_patch16_224.sam_in1k": Published(86.57, 17.58, top1=80.246),
        }
    ),
    rules=timm_vit(),
)
