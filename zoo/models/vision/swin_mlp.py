"""Swin-MLP: Swin's windows with a grouped linear map over the positions in place of attention.

Paper: Liu et al., "Swin Transformer: Hierarchical Vision Transformer using Shifted Windows", arXiv 2103.14030.
Code:  microsoft/Swin-Transformer, models/swin_mlp.py (MIT).
Weights: Microsoft (MIT).
"""

from zoo.family import IMAGENET, Counted, Published, released
from zoo.models.digits import TWO_STAGES
from zoo.models.vision.swin import BASE, TINY, windows
from zoo.models.vision.swin import FAMILY as SWIN
from zoo.weights.layouts import LAYERS, below


def mlps(size: int, head_dim: int) -> list[list[dict]]:
    """Windows of one size in all stages, with heads of one width."""
    return windows(size, kind="window_mlp", head_dim=head_dim)


FAMILY = SWIN.derive(
    variants={
        "swin_mlp_tiny_c6_patch4_window8_256": dict(TINY, img_size=256, token_mixer=mlps(8, 6)),
        "swin_mlp_tiny_c12_patch4_window8_256": dict(TINY, img_size=256, token_mixer=mlps(8, 12)),
        "swin_mlp_tiny_c24_patch4_window8_256": dict(TINY, img_size=256, token_mixer=mlps(8, 24)),
        "swin_mlp_base_patch4_window7_224": dict(BASE, token_mixer=mlps(7, 32)),
        "swin_mlp_digits": dict(TWO_STAGES, token_mixer=mlps(4, 4)),
        "swin_mlp_test": dict(SWIN.variants["swin_test"], token_mixer=mlps(4, 4)),
    },
    cfg=dict(IMAGENET, crop_pct=0.9, license="mit"),
    published=released(
        "https://github.com/SwinTransformer/storage/releases/download/v1.0.5/{}.pth",
        "MODELHUB.md of microsoft/Swin-Transformer",
        {
            "swin_mlp_tiny_c24_patch4_window8_256": Published(20, 4.0, top1=79.4),
            "swin_mlp_tiny_c12_patch4_window8_256": Published(21, 4.0, top1=79.6),
            "swin_mlp_tiny_c6_patch4_window8_256": Published(23, 4.0, top1=79.7),
            "swin_mlp_base_patch4_window7_224": Published(61, 10.4, top1=81.3),
        },
    ),
    counted={
        "swin_mlp_tiny_c24_patch4_window8_256": Counted(20.386632, 4.05),
        "swin_mlp_tiny_c12_patch4_window8_256": Counted(21.152072, 4.05),
        "swin_mlp_tiny_c6_patch4_window8_256": Counted(22.682952, 4.05),
        "swin_mlp_base_patch4_window7_224": Counted(60.659416, 10.45),
    },
    rules=[*below(LAYERS, {r"spatial_mlp\.": "token_mixer.spatial_mlp."}), *SWIN.rules],
)
