"""KAT: ViT with learnt rational functions in place of the fixed activations of its perceptrons.

Paper: Yang and Wang, "Kolmogorov-Arnold Transformer", arXiv 2409.10594.
Code:  Adamdad/kat, katransformer.py; Adamdad/rational_kat_cu (MIT).
Weights: the authors (MIT), on the Hub; those tagged vitft were trained from a ViT's weights (see `kat_from_vit`).

The authors' code overwrites its variance-preserving initialisation of the perceptrons, and so do these models; the
block `gr_kan` has it by default. Their models named gelu start from coefficients that are no GELU with the released
kernel (off by 1.5 within [-3, 3]); these start from coefficients that are.
"""

from zoo.family import IMAGENET, Counted, Published, released
from zoo.models.digits import PATCHES
from zoo.models.vision.deit import FAMILY as DEIT
from zoo.weights.layouts import BLOCKS, below

STARTS = {"": {}, "_swish": {}, "_gelu": dict(channel_mixer="gr_kan(ratio=4, rational='gelu', weights='trunc_normal')")}

FAMILY = DEIT.derive(
    defaults=dict(
        token_mixer="attention(head_dim=64, init='mimetic')",
        channel_mixer="gr_kan(ratio=4, weights='trunc_normal')",
        embed="class_and_position(token_std=1e-6)",
    ),
    variants={
        **{f"kat_tiny{start}_patch16_224": dict(options, dim=192) for start, options in STARTS.items()},
        **{f"kat_small{start}_patch16_224": dict(options, dim=384) for start, options in STARTS.items()},
        **{f"kat_base{start}_patch16_224": dict(options, dim=768) for start, options in STARTS.items()},
        "kat_digits": dict(PATCHES, dim=48, depth=4, token_mixer="attention(heads=4, init='mimetic')"),
        "kat_test": dict(DEIT.variants["deit_test"], token_mixer="attention(heads=4, init='mimetic')"),
    },
    cfg=dict(IMAGENET, crop_pct=0.875, license="mit"),
    published=released(
        "https://huggingface.co/adamdad/kat_pretained/resolve/main/{}.pth",  # spelt so
        "README of Adamdad/kat",
        {
            "kat_tiny_patch16_224.in1k": Published(
                5.7,
                top1=74.6,
                weights="kat_tiny_patch16_224_1f3ad3b2e69821f3d412f2924cf159a0e266f142d739cb68f68f796f5a0fe289",
            ),
            "kat_tiny_patch16_224.vitft": Published(
                5.7,
                top1=75.7,
                weights="kat_tiny_patch16_224-finetune_64f124d003803e4a7e1aba1ba23500ace359b544e8a5f0110993f25052e402fb",
            ),
            "kat_small_patch16_224.in1k": Published(
                22.1,
                top1=81.2,
                weights="kat_small_patch16_224_32487885cf13d2c14e461c9016fac8ad43f7c769171f132530941e930aeb5fe2",
            ),
            "kat_small_patch16_224.vitft": Published(
                22.1,
                top1=82.0,
                weights="kat_small_patch_224-finetune_3ae087a4c28e2993468eb377d5151350c52c80b2a70cc48ceec63d1328ba58e0",
            ),
            "kat_base_patch16_224.in1k": Published(
                86.6,
                top1=82.3,
                weights="kat_base_patch16_224_abff874d925d756d15cde97303f772a3460ddbd44b9c53fb9ce5cf15be230fb6",
            ),
            "kat_base_patch16_224.vitft": Published(
                86.6,
                top1=82.8,
                weights="kat_base_patch16_224-finetune_440bf1ead9dd8ecab642078cfb60ae542f1fa33ca65517260501e02c011e38f2",
            ),
        },
    ),
    # MACs are published of none; ViT's, and 9 for each rational, are what they come to. Of the variants that start from
    # another function no weights are released; their sizes are the same.
    counted={
        f"kat_{size}{start}_patch16_224": Counted(params, macs, by_zoo=("macs",))
        for size, params, macs in (("tiny", 5.718328, 1.274), ("small", 22.051576, 4.640), ("base", 86.568568, 17.646))
        for start in STARTS
    },
    rules=[*below(BLOCKS, {r"mlp\.(act\d)\.weight_": r"channel_mixer.\2."}), *DEIT.rules],
)
