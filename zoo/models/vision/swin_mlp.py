"""Swin-MLP: Swin's windows with a grouped linear map over the positions in place of attention.

Paper: Liu et al., "Swin Transformer", arXiv 2103.14030.
Code:  microsoft/Swin-Transformer, models/swin_mlp.py (MIT).
Weights: Microsoft (MIT).
"""

from dataclasses import replace

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from zoo.family import Counted, Published, from_source
from zoo.models.vision import swin
from zoo.models.vision.swin import BASE, TINY, windows
from zoo.models.vision.swin import MODEL as MODEL
from zoo.weights import rename

DEFAULTS = swin.DEFAULTS


def mlps(size: int, head_dim: int) -> list[list[dict]]:
    """Windows of one size in all stages, with heads of one width."""
    return windows(size, kind="window_mlp", head_dim=head_dim)


VARIANTS = {
    "swin_mlp_tiny_c6_patch4_window8_256": dict(TINY, img_size=256, token_mixer=mlps(8, 6)),
    "swin_mlp_tiny_c12_patch4_window8_256": dict(TINY, img_size=256, token_mixer=mlps(8, 12)),
    "swin_mlp_tiny_c24_patch4_window8_256": dict(TINY, img_size=256, token_mixer=mlps(8, 24)),
    "swin_mlp_base_patch4_window7_224": dict(BASE, token_mixer=mlps(7, 32)),
    "swin_mlp_test": dict(
        img_size=64, dims=(8, 8, 16, 16), depths=(2, 1, 2, 1), num_classes=10, token_mixer=mlps(4, 4)
    ),
}

CFG = dict(mean=IMAGENET_DEFAULT_MEAN, std=IMAGENET_DEFAULT_STD, interpolation="bicubic", crop_pct=0.9, license="mit")

PUBLISHED = from_source(
    "MODELHUB.md of microsoft/Swin-Transformer",
    {
        name: replace(row, weights=f"https://github.com/SwinTransformer/storage/releases/download/v1.0.5/{name}.pth")
        for name, row in {
            "swin_mlp_tiny_c24_patch4_window8_256": Published(20, 4.0, top1=79.4),
            "swin_mlp_tiny_c12_patch4_window8_256": Published(21, 4.0, top1=79.6),
            "swin_mlp_tiny_c6_patch4_window8_256": Published(23, 4.0, top1=79.7),
            "swin_mlp_base_patch4_window7_224": Published(61, 10.4, top1=81.3),
        }.items()
    },
)

COUNTED = {
    "swin_mlp_tiny_c24_patch4_window8_256": Counted(20.386632, 4.05),
    "swin_mlp_tiny_c12_patch4_window8_256": Counted(21.152072, 4.05),
    "swin_mlp_tiny_c6_patch4_window8_256": Counted(22.682952, 4.05),
    "swin_mlp_base_patch4_window7_224": Counted(60.659416, 10.45),
}

RULES = [
    rename(r"^layers\.(\d+)\.blocks\.(\d+)\.spatial_mlp\.", r"stages.\1.blocks.\2.token_mixer.spatial_mlp."),
    *swin.RULES,
]
