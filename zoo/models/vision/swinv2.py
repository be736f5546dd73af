"""Swin Transformer V2: cosine attention, a continuous position bias, norms behind the mixers.

Paper: Liu et al., "Swin Transformer V2: Scaling Up Capacity and Resolution", arXiv 2111.09883.
Code:  microsoft/Swin-Transformer, models/swin_transformer_v2.py (MIT).
Weights: Microsoft (MIT), on the Hub by timm.
"""

from zoo.family import Published, on_timm_hub
from zoo.models.digits import TWO_STAGES
from zoo.models.vision.swin import BASE, LARGE, NORM, SMALL, TINY, windows
from zoo.models.vision.swin import FAMILY as SWIN


def cosine(size: int, pretrained: tuple[int, ...] = (0,)) -> list[list[dict]]:
    """Windows of one size in all stages; `pretrained` are the windows, one a stage, of earlier training."""
    return [cycle for old in pretrained for cycle in windows(size, cosine=True, pretrained_window=old)]


FAMILY = SWIN.derive(
    # Each branch ends in a norm whose weight starts at 0, so that each block starts as the identity.
    defaults=dict(
        downsample=f"merge(norm='{NORM}', norm_last=True)",
        form="post",
        norm="layernorm(eps=1e-5, gain=0)",
    ),
    variants={
        "swinv2_tiny_window8_256": dict(TINY, img_size=256, token_mixer=cosine(8)),
        "swinv2_tiny_window16_256": dict(TINY, img_size=256, token_mixer=cosine(16)),
        "swinv2_small_window8_256": dict(SMALL, img_size=256, token_mixer=cosine(8)),
        "swinv2_small_window16_256": dict(SMALL, img_size=256, token_mixer=cosine(16)),
        "swinv2_base_window8_256": dict(BASE, img_size=256, token_mixer=cosine(8)),
        "swinv2_base_window16_256": dict(BASE, img_size=256, token_mixer=cosine(16)),
        "swinv2_base_window12_192": dict(BASE, img_size=192, token_mixer=cosine(12)),
        "swinv2_base_window12to16_192to256": dict(BASE, img_size=256, token_mixer=cosine(16, (12, 12, 12, 6))),
        "swinv2_base_window12to24_192to384": dict(BASE, img_size=384, token_mixer=cosine(24, (12, 12, 12, 6))),
        "swinv2_large_window12_192": dict(LARGE, img_size=192, token_mixer=cosine(12)),
        "swinv2_large_window12to16_192to256": dict(LARGE, img_size=256, token_mixer=cosine(16, (12, 12, 12, 6))),
        "swinv2_large_window12to24_192to384": dict(LARGE, img_size=384, token_mixer=cosine(24, (12, 12, 12, 6))),
        "swinv2_digits": dict(TWO_STAGES, token_mixer=windows(4, cosine=True, head_dim=4)),
        "swinv2_test": dict(SWIN.variants["swin_test"], token_mixer=windows(4, cosine=True, head_dim=4)),
    },
    published=on_timm_hub(
        {
            "swinv2_base_window8_256.ms_in1k": Published(87.92, 20.37, top1=84.246),
            "swinv2_base_window12_192.ms_in22k": Published(109.28, 11.9, classes=21841),
            "swinv2_base_window12to16_192to256.ms_in22k_ft_in1k": Published(87.92, 22.02, top1=86.270),
            "swinv2_base_window12to24_192to384.ms_in22k_ft_in1k": Published(87.92, 55.25, top1=87.142),
            "swinv2_base_window16_256.ms_in1k": Published(87.92, 22.02, top1=84.608),
            "swinv2_large_window12_192.ms_in22k": Published(228.77, 26.17, classes=21841),
            "swinv2_large_window12to16_192to256.ms_in22k_ft_in1k": Published(196.74, 47.81, top1=86.934),
            "swinv2_large_window12to24_192to384.ms_in22k_ft_in1k": Published(196.74, 116.15, top1=87.474),
            "swinv2_small_window8_256.ms_in1k": Published(49.73, 11.58, top1=83.844),
            "swinv2_small_window16_256.ms_in1k": Published(49.73, 12.82, top1=84.216),
            "swinv2_tiny_window8_256.ms_in1k": Published(28.35, 5.96, top1=81.824),
            "swinv2_tiny_window16_256.ms_in1k": Published(28.35, 6.68, top1=82.828),
        }
    ),
)
