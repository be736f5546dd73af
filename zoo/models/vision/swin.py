"""Swin Transformer: attention within windows, shifted in every second block; and S3, whose window sizes were searched.

Paper: Liu et al., "Swin Transformer: Hierarchical Vision Transformer using Shifted Windows", arXiv 2103.14030; Chen et
    al., "Searching the Search Space of Vision Transformer", arXiv 2111.14725 (S3).
Code:  microsoft/Swin-Transformer, models/swin_transformer.py; microsoft/Cream, AutoFormerV2 (MIT).
Weights: Microsoft (MIT), on the Hub by timm.
"""

from zoo.family import Family, Published, on_timm_hub
from zoo.models.digits import TWO_STAGES
from zoo.skeletons.hierarchical import Hierarchical
from zoo.weights import drop, rename
from zoo.weights.layouts import LAYERS, below

NORM = "layernorm(eps=1e-5)"
AUTHORS = r"^layers\.0\.downsample\."  # has their layout alone
TINY = dict(dims=(96, 192, 384, 768), depths=(2, 2, 6, 2))
SMALL = dict(dims=(96, 192, 384, 768), depths=(2, 2, 18, 2))
BASE = dict(dims=(128, 256, 512, 1024), depths=(2, 2, 18, 2))
LARGE = dict(dims=(192, 384, 768, 1536), depths=(2, 2, 18, 2))


def windows(*sizes: int, kind: str = "window", **options) -> list[list[dict]]:
    """Token mixers of windows of these sizes, one a stage or one for all: straight and shifted ones in turn."""
    return [[{"name": name, "window_size": size, **options} for name in (kind, f"shifted_{kind}")] for size in sizes]


FAMILY = Family(
    model=Hierarchical,
    defaults=dict(
        stem=f"patch(norm='{NORM}', remainder='pad')",
        downsample=f"merge(norm='{NORM}')",
        channel_mixer="mlp(ratio=4)",
        norm=NORM,
        final_norm=NORM,
    ),
    variants={
        "swin_tiny_patch4_window7_224": dict(TINY, token_mixer=windows(7)),
        "swin_small_patch4_window7_224": dict(SMALL, token_mixer=windows(7)),
        "swin_base_patch4_window7_224": dict(BASE, token_mixer=windows(7)),
        "swin_base_patch4_window12_384": dict(BASE, token_mixer=windows(12), img_size=384),
        "swin_large_patch4_window7_224": dict(LARGE, token_mixer=windows(7)),
        "swin_large_patch4_window12_384": dict(LARGE, token_mixer=windows(12), img_size=384),
        "swin_s3_tiny_224": dict(TINY, token_mixer=windows(7, 7, 14, 7)),
        "swin_s3_small_224": dict(SMALL, token_mixer=windows(14, 14, 14, 7)),
        "swin_s3_base_224": dict(TINY, depths=(2, 2, 30, 2), token_mixer=windows(7, 7, 14, 7)),
        "swin_digits": dict(
            TWO_STAGES, init="lecun", token_mixer=[*windows(4, head_dim=8), "window(window_size=4, head_dim=8)"]
        ),
        "swin_test": dict(
            img_size=64, dims=(8, 8, 16, 16), depths=(2, 1, 2, 1), num_classes=10, token_mixer=windows(4, head_dim=4)
        ),
    },
    published=on_timm_hub(
        {
            "swin_base_patch4_window7_224.ms_in22k_ft_in1k": Published(87.77, 15.47, top1=85.276),
            "swin_base_patch4_window7_224.ms_in1k": Published(87.77, 15.47, top1=83.604),
            "swin_base_patch4_window7_224.ms_in22k": Published(109.13, 15.47, classes=21841),
            "swin_base_patch4_window12_384.ms_in22k_ft_in1k": Published(87.90, 47.19, top1=86.442),
            "swin_base_patch4_window12_384.ms_in1k": Published(87.90, 47.19, top1=84.478),
            "swin_base_patch4_window12_384.ms_in22k": Published(109.27, 47.19, classes=21841),
            "swin_large_patch4_window7_224.ms_in22k_ft_in1k": Published(196.53, 34.53, top1=86.320),
            "swin_large_patch4_window7_224.ms_in22k": Published(228.57, 34.53, classes=21841),
            "swin_large_patch4_window12_384.ms_in22k_ft_in1k": Published(196.74, 104.08, top1=87.142),
            "swin_large_patch4_window12_384.ms_in22k": Published(228.77, 104.08, classes=21841),
            "swin_small_patch4_window7_224.ms_in22k_ft_in1k": Published(49.61, 8.77, top1=83.330),
            "swin_small_patch4_window7_224.ms_in1k": Published(49.61, 8.77, top1=83.228),
            "swin_small_patch4_window7_224.ms_in22k": Published(65.63, 8.77, classes=21841),
            "swin_tiny_patch4_window7_224.ms_in1k": Published(28.29, 4.51, top1=81.388),
            "swin_tiny_patch4_window7_224.ms_in22k_ft_in1k": Published(28.29, 4.51, top1=80.966),
            "swin_tiny_patch4_window7_224.ms_in22k": Published(44.32, 4.51, classes=21841),
            "swin_s3_base_224.ms_in1k": Published(71.13, 13.69, top1=83.920),
            "swin_s3_small_224.ms_in1k": Published(49.74, 9.43, top1=83.778),
            "swin_s3_tiny_224.ms_in1k": Published(28.33, 4.64, top1=82.128),
        }
    ),
    # Both layouts are read. In the authors' a stage ends with the downsampling, in timm's and here it begins with it.
    rules=[
        drop(r"\.(relative_position_index|relative_coords_table|attn_mask)$", "tables that the model makes itself"),
        rename(r"^patch_embed\.", "stem."),
        *(rename(rf"^layers\.{i}\.downsample\.", f"stages.{i + 1}.downsample.", when=AUTHORS) for i in range(3)),
        rename(r"^layers\.(\d+)\.downsample\.", r"stages.\1.downsample."),
        *below(LAYERS, {r"attn\.": "token_mixer.", r"mlp\.": "channel_mixer.", "norm": "norm"}),
        rename(r"^head\.fc\.", "head."),
    ],
)
