"""MetaFormer baselines: one skeleton, and identity, random mixing, pooling, convolution or attention as token mixer.

Paper: Yu et al., "MetaFormer Baselines for Vision", arXiv 2210.13452.
Code:  sail-sg/metaformer, metaformer_baselines.py (Apache-2.0).
Weights: Sea AI Lab (Apache-2.0); PoolFormerV2, ConvFormer and CAFormer on the Hub by timm.
"""

from zoo.family import IMAGENET, Counted, Family, Published, on_timm_hub, released
from zoo.models.digits import TWO_STAGES
from zoo.skeletons.hierarchical import Hierarchical
from zoo.weights import rename, reshape
from zoo.weights.layouts import STAGES, below, downsampling, stem

SCALE_ONLY = "layernorm(bias=False)"


WHOLE_MAP = dict(norm="groupnorm(bias=False, eps=1e-6)")
IDENTITY = dict(WHOLE_MAP, token_mixer="identity")
RANDOM = dict(WHOLE_MAP, token_mixer=["identity", "identity", "random", "random"])
POOL = dict(WHOLE_MAP, token_mixer="pool")
CONV = dict(norm=SCALE_ONLY, head="mlp", token_mixer="sep_conv")
ATTENTION = "attention(head_dim=32, qkv_bias=False, proj_bias=False)"
CONV_ATTENTION = dict(norm=SCALE_ONLY, head="mlp", token_mixer=["sep_conv", "sep_conv", ATTENTION, ATTENTION])

ONE_MIXER = {"identityformer": IDENTITY, "randformer": RANDOM, "poolformerv2": POOL}
SIZES = {
    "s12": dict(dims=(64, 128, 320, 512), depths=(2, 2, 6, 2)),
    "s24": dict(dims=(64, 128, 320, 512), depths=(4, 4, 12, 4)),
    "s36": dict(dims=(64, 128, 320, 512), depths=(6, 6, 18, 6)),
    "m36": dict(dims=(96, 192, 384, 768), depths=(6, 6, 18, 6)),
    "m48": dict(dims=(96, 192, 384, 768), depths=(8, 8, 24, 8)),
}
WITH_CONV = {"convformer": CONV, "caformer": CONV_ATTENTION}
CONV_SIZES = {
    "s18": dict(dims=(64, 128, 320, 512), depths=(3, 3, 9, 3)),
    "s36": dict(dims=(64, 128, 320, 512), depths=(3, 12, 18, 3)),
    "m36": dict(dims=(96, 192, 384, 576), depths=(3, 12, 18, 3)),
    "b36": dict(dims=(128, 256, 512, 768), depths=(3, 12, 18, 3)),
}
TEST = dict(img_size=64, dims=(8, 8, 16, 16), depths=(1, 1, 2, 1), num_classes=10)

SAIL = "https://huggingface.co/sail/dl/resolve/main"
README = "README of sail-sg/metaformer; accuracies of RandFormer from the paper"

FAMILY = Family(
    model=Hierarchical,
    defaults=dict(
        stem=f'conv(kernel_size=7, stride=4, padding=2, norm="{SCALE_ONLY}")',
        downsample=f'conv(kernel_size=3, padding=1, norm="{SCALE_ONLY}")',
        channel_mixer="mlp(ratio=4, bias=False)",
        act="star_relu",
        res_scale=(None, None, 1.0, 1.0),
        pool_first=True,
    ),
    variants={
        **{f"{name}_{size}": dict(ONE_MIXER[name], **SIZES[size]) for name in ONE_MIXER for size in SIZES},
        **{f"{name}_{size}": dict(WITH_CONV[name], **CONV_SIZES[size]) for name in WITH_CONV for size in CONV_SIZES},
        "metaformer_digits": dict(
            CONV_ATTENTION,
            **TWO_STAGES,
            token_mixer=["sep_conv", "attention(head_dim=16, qkv_bias=False, proj_bias=False)"],
            res_scale=1.0,
        ),
        "randformer_test": dict(RANDOM, **TEST),
        "caformer_test": dict(CONV_ATTENTION, **TEST),
    },
    cfg=dict(IMAGENET, crop_pct=1.0, license="apache-2.0"),
    # The README's accuracies of RandFormer are those of IdentityFormer once more. Its counts of RandFormer's parameters
    # name the matrices that stay random apart; here they are added.
    published={
        **released(
            f"{SAIL}/identityformer/{{}}.pth",
            README,
            {
                "identityformer_m36": Published(56.1, 8.8, top1=80.0),
                "identityformer_m48": Published(73.3, 11.5, top1=80.4),
                "identityformer_s12": Published(11.9, 1.8, top1=74.6),
                "identityformer_s24": Published(21.3, 3.4, top1=78.2),
                "identityformer_s36": Published(30.8, 5.0, top1=79.3),
            },
        ),
        **released(
            f"{SAIL}/randformer/{{}}.pth",
            README,
            {
                "randformer_m36": Published(56.8, 9.0, top1=81.2),
                "randformer_m48": Published(74.2, 11.9, top1=81.4),
                "randformer_s12": Published(12.1, 1.9, top1=76.6),
                "randformer_s24": Published(21.8, 3.5, top1=78.2),
                "randformer_s36": Published(31.5, 5.2, top1=79.5),
            },
        ),
        **on_timm_hub(
            {
                "caformer_b36.sail_in1k": Published(98.75, 23.22, top1=85.502),
                "caformer_b36.sail_in1k_384": Published(98.75, 72.33, top1=86.400),
                "caformer_b36.sail_in22k_ft_in1k": Published(98.75, 23.22, top1=87.450),
                "caformer_b36.sail_in22k_ft_in1k_384": Published(98.75, 72.33, top1=88.058),
                "caformer_b36.sail_in22k": Published(162.80, 23.22, classes=21841),
                "caformer_m36.sail_in1k": Published(56.20, 13.29, top1=85.242),
                "caformer_m36.sail_in1k_384": Published(56.20, 42.11, top1=86.164),
                "caformer_m36.sail_in22k_ft_in1k": Published(56.20, 13.29, top1=86.606),
                "caformer_m36.sail_in22k_ft_in1k_384": Published(56.20, 42.11, top1=87.470),
                "caformer_m36.sail_in22k": Published(104.24, 13.29, classes=21841),
                "caformer_s18.sail_in1k": Published(26.34, 4.13, top1=83.664),
                "caformer_s18.sail_in1k_384": Published(26.34, 13.42, top1=85.036),
                "caformer_s18.sail_in22k_ft_in1k": Published(26.34, 4.13, top1=84.092),
                "caformer_s18.sail_in22k_ft_in1k_384": Published(26.34, 13.42, top1=85.442),
                "caformer_s18.sail_in22k": Published(69.04, 4.13, classes=21841),
                "caformer_s36.sail_in1k": Published(39.30, 8.0, top1=84.528),
                "caformer_s36.sail_in1k_384": Published(39.30, 26.08, top1=85.762),
                "caformer_s36.sail_in22k_ft_in1k": Published(39.30, 8.0, top1=85.780),
                "caformer_s36.sail_in22k_ft_in1k_384": Published(39.30, 26.08, top1=86.860),
                "caformer_s36.sail_in22k": Published(82.00, 8.0, classes=21841),
                "convformer_b36.sail_in1k": Published(99.88, 22.69, top1=84.826),
                "convformer_b36.sail_in1k_384": Published(99.88, 66.67, top1=85.770),
                "convformer_b36.sail_in22k_ft_in1k": Published(99.88, 22.69, top1=86.992),
                "convformer_b36.sail_in22k_ft_in1k_384": Published(99.88, 66.67, top1=87.606),
                "convformer_b36.sail_in22k": Published(163.93, 22.69, classes=21841),
                "convformer_m36.sail_in1k": Published(57.05, 12.89, top1=84.486),
                "convformer_m36.sail_in1k_384": Published(57.05, 37.87, top1=85.580),
                "convformer_m36.sail_in22k_ft_in1k": Published(57.05, 12.89, top1=86.152),
                "convformer_m36.sail_in22k_ft_in1k_384": Published(57.05, 37.87, top1=86.868),
                "convformer_m36.sail_in22k": Published(105.09, 12.89, classes=21841),
                "convformer_s18.sail_in1k": Published(26.77, 3.96, top1=82.968),
                "convformer_s18.sail_in1k_384": Published(26.77, 11.63, top1=84.392),
                "convformer_s18.sail_in22k_ft_in1k": Published(26.77, 3.96, top1=83.768),
                "convformer_s18.sail_in22k_ft_in1k_384": Published(26.77, 11.63, top1=85.004),
                "convformer_s18.sail_in22k": Published(69.48, 3.96, classes=21841),
                "convformer_s36.sail_in1k": Published(40.01, 7.67, top1=84.068),
                "convformer_s36.sail_in1k_384": Published(40.01, 22.54, top1=85.380),
                "convformer_s36.sail_in22k_ft_in1k": Published(40.01, 7.67, top1=85.420),
                "convformer_s36.sail_in22k_ft_in1k_384": Published(40.01, 22.54, top1=86.374),
                "convformer_s36.sail_in22k": Published(82.72, 7.67, classes=21841),
                "poolformerv2_m36.sail_in1k": Published(56.08, 8.81, top1=82.214),
                "poolformerv2_m48.sail_in1k": Published(73.35, 11.59, top1=82.612),
                "poolformerv2_s12.sail_in1k": Published(11.89, 1.83, top1=78.008),
                "poolformerv2_s24.sail_in1k": Published(21.34, 3.42, top1=80.746),
                "poolformerv2_s36.sail_in1k": Published(30.79, 5.01, top1=81.576),
            }
        ),
    },
    counted={
        "identityformer_m36": Counted(56.077168, 8.76),
        "identityformer_m48": Counted(73.346056, 11.53),
        "identityformer_s12": Counted(11.891712, 1.81),
        "identityformer_s24": Counted(21.341464, 3.39),
        "identityformer_s36": Counted(30.791216, 4.97),
        "randformer_m36": Counted(56.783062, 9.04),
        "randformer_m48": Counted(74.287248, 11.90),
        "randformer_s12": Counted(12.127010, 1.89),
        "randformer_s24": Counted(21.812060, 3.55),
        "randformer_s36": Counted(31.497110, 5.20),
    },
    rules=[
        *stem({"conv": "proj", "(?:norm|post_norm)": "norm"}),
        *downsampling({"(?:norm|pre_norm)": "norm", "conv": "conv"}),
        *below(STAGES, {r"token_mixer\.act1\.": "token_mixer.act."}),
        *below(STAGES, {r"token_mixer\.": "token_mixer.", r"mlp\.": "channel_mixer."}, reshape),
        *below(STAGES, {r"res_scale(\d)\.scale$": r"res_scale\3.gamma", "norm": "norm"}),
        rename(r"^head\.norm\.", "norm.", when=r"^stem\.conv\."),
        rename(r"^head\.fc\.", "head."),
    ],
)
