"""KAT: ViT with learnt rational functions in place of the fixed activations of its perceptrons.

Paper: Yang and Wang, "Kolmogorov-Arnold Transformer", arXiv 2409.10594.
Code:  Adamdad/kat, katransformer.py; Adamdad/rational_kat_cu (MIT).
Weights: the authors (MIT), on the Hub; those tagged vitft were trained from a ViT's weights (see `from_vit`).

The authors' code overwrites its variance-preserving initialisation of the perceptrons, and so do these models; the
block `gr_kan` has it by default. Their models named gelu start from coefficients that are no GELU with the released
kernel (off by 1.5 within [-3, 3]); these start from coefficients that are.
"""

from dataclasses import replace

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from zoo.family import Counted, Published
from zoo.models.vision import deit
from zoo.models.vision.vit import MODEL as MODEL
from zoo.weights import rename

DEFAULTS = {
    **deit.DEFAULTS,
    **dict(
        token_mixer="attention(head_dim=64, init='mimetic')",
        channel_mixer="gr_kan(ratio=4, weights='trunc_normal')",
        token_std=1e-6,
    ),
}

GELU = dict(channel_mixer="gr_kan(ratio=4, rational='gelu', weights='trunc_normal')")
WIDTHS = {"tiny": 192, "small": 384, "base": 768}

VARIANTS = {
    f"kat_{size}{name}_patch16_224": dict(start, dim=width)
    for size, width in WIDTHS.items()
    for name, start in {"": {}, "_swish": {}, "_gelu": GELU}.items()
}
VARIANTS["kat_test"] = dict(
    img_size=32,
    patch_size=8,
    dim=32,
    depth=3,
    num_classes=10,
    token_mixer="attention(heads=4, init='mimetic')",
)

CFG = dict(mean=IMAGENET_DEFAULT_MEAN, std=IMAGENET_DEFAULT_STD, interpolation="bicubic", crop_pct=0.875, license="mit")

HUB = "https://huggingface.co/adamdad/kat_pretained/resolve/main/"  # spelt so


def _rows(*rows: tuple[str, str, Published]) -> dict[str, Published]:
    """Rows of (name, file, figures) with the place of their weights, and where the figures stand."""
    source = "README of Adamdad/kat"
    return {name: replace(row, weights=f"{HUB}{file}.pth", source=source) for name, file, row in rows}


PUBLISHED = _rows(
    (
        "kat_tiny_patch16_224.in1k",
        "kat_tiny_patch16_224_1f3ad3b2e69821f3d412f2924cf159a0e266f142d739cb68f68f796f5a0fe289",
        Published(5.7, top1=74.6),
    ),
    (
        "kat_tiny_patch16_224.vitft",
        "kat_tiny_patch16_224-finetune_64f124d003803e4a7e1aba1ba23500ace359b544e8a5f0110993f25052e402fb",
        Published(5.7, top1=75.7),
    ),
    (
        "kat_small_patch16_224.in1k",
        "kat_small_patch16_224_32487885cf13d2c14e461c9016fac8ad43f7c769171f132530941e930aeb5fe2",
        Published(22.1, top1=81.2),
    ),
    (
        "kat_small_patch16_224.vitft",
        "kat_small_patch_224-finetune_3ae087a4c28e2993468eb377d5151350c52c80b2a70cc48ceec63d1328ba58e0",
        Published(22.1, top1=82.0),
    ),
    (
        "kat_base_patch16_224.in1k",
        "kat_base_patch16_224_abff874d925d756d15cde97303f772a3460ddbd44b9c53fb9ce5cf15be230fb6",
        Published(86.6, top1=82.3),
    ),
    (
        "kat_base_patch16_224.vitft",
        "kat_base_patch16_224-finetune_440bf1ead9dd8ecab642078cfb60ae542f1fa33ca65517260501e02c011e38f2",
        Published(86.6, top1=82.8),
    ),
)

# MACs are published of none; ViT's, and 9 for each rational, are what they come to. Of the variants that start from
# another function no weights are released; their sizes are the same.
COUNTED = {
    f"kat_{size}{name}_patch16_224": Counted(params, macs, by_zoo=("macs",))
    for size, params, macs in (("tiny", 5.718328, 1.274), ("small", 22.051576, 4.640), ("base", 86.568568, 17.646))
    for name in ("", "_swish", "_gelu")
}

RULES = [
    rename(r"^(cls_token|pos_embed)$", r"tokens.\1"),
    rename(r"^patch_embed\.", "stem."),
    rename(r"^(blocks\.\d+)\.attn\.", r"\1.token_mixer."),
    rename(r"^(blocks\.\d+)\.mlp\.(act\d)\.weight_", r"\1.channel_mixer.\2."),
    rename(r"^(blocks\.\d+)\.mlp\.", r"\1.channel_mixer."),
]
