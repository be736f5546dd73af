"""ConvNeXt: the small-kernel convolutional baseline, 7x7 depthwise convolution, norm, perceptron in one branch.

Paper: Liu et al., "A ConvNet for the 2020s", arXiv 2201.03545.
Code:  facebookresearch/ConvNeXt, models/convnext.py (MIT).
Weights: Facebook AI, timm and LAION (Apache-2.0 or MIT by tag), on the Hub by timm.
"""

from zoo.family import Family, Published, on_timm_hub
from zoo.models.digits import TWO_STAGES
from zoo.skeletons.hierarchical import Hierarchical
from zoo.weights import reshape
from zoo.weights.layouts import STAGES, below, downsampling, stem, timm_head

FAMILY = Family(
    model=Hierarchical,
    defaults=dict(
        stem="patch(norm='layernorm', remainder='drop')",
        downsample="conv(kernel_size=2, padding=0, norm='layernorm')",
        token_mixer="depthwise_conv(kernel_size=7)",
        channel_mixer="mlp(ratio=4)",
        norm="layernorm",
        form="serial",
        layer_scale=1e-6,
        pool_first=True,
    ),
    variants={
        "convnext_tiny": dict(dims=(96, 192, 384, 768), depths=(3, 3, 9, 3)),
        "convnext_small": dict(dims=(96, 192, 384, 768), depths=(3, 3, 27, 3)),
        "convnext_base": dict(dims=(128, 256, 512, 1024), depths=(3, 3, 27, 3)),
        "convnext_digits": dict(
            TWO_STAGES,
            downsample="conv(kernel_size=3, padding=1)",
            token_mixer="depthwise_conv(kernel_size=5)",
            layer_scale=0.1,
        ),
        "convnext_test": dict(img_size=64, dims=(8, 8, 16, 16), depths=(1, 1, 2, 1), num_classes=10, layer_scale=0.1),
    },
    published=on_timm_hub(
        {
            "convnext_tiny.in12k_ft_in1k": Published(28.59, 4.47, top1=84.192),
            "convnext_tiny.in12k_ft_in1k_384": Published(28.59, 13.14, top1=85.154),
            "convnext_tiny.in12k": Published(36.91, 4.47, classes=11821),
            "convnext_tiny.fb_in22k_ft_in1k": Published(28.59, 4.47, top1=82.900),
            "convnext_tiny.fb_in1k": Published(28.59, 4.47, top1=82.066),
            "convnext_tiny.fb_in22k_ft_in1k_384": Published(28.59, 13.14, top1=84.098),
            "convnext_tiny.fb_in22k": Published(44.62, 4.47, classes=21841),
            "convnext_small.in12k_ft_in1k": Published(50.22, 8.71, top1=85.164),
            "convnext_small.in12k_ft_in1k_384": Published(50.22, 25.58, top1=86.186),
            "convnext_small.in12k": Published(58.55, 8.71, classes=11821),
            "convnext_small.fb_in22k_ft_in1k": Published(50.22, 8.71, top1=84.582),
            "convnext_small.fb_in1k": Published(50.22, 8.71, top1=83.144),
            "convnext_small.fb_in22k_ft_in1k_384": Published(50.22, 25.58, top1=85.752),
            "convnext_small.fb_in22k": Published(66.25, 8.71, classes=21841),
            "convnext_base.fb_in22k_ft_in1k": Published(88.59, 15.38, top1=85.814),
            "convnext_base.fb_in1k": Published(88.59, 15.38, top1=83.838),
            "convnext_base.fb_in22k_ft_in1k_384": Published(88.59, 45.21, top1=86.826),
            "convnext_base.fb_in22k": Published(109.95, 15.38, classes=21841),
            "convnext_base.clip_laion2b_augreg_ft_in12k_in1k": Published(88.59, 20.09, top1=86.378),
            "convnext_base.clip_laion2b_augreg_ft_in12k_in1k_384": Published(88.59, 45.21, top1=87.144),
            "convnext_base.clip_laion2b_augreg_ft_in1k": Published(88.59, 20.09, top1=86.184),
            "convnext_base.clip_laiona_augreg_ft_in1k_384": Published(88.59, 45.21, top1=86.490),
            "convnext_base.clip_laion2b_augreg_ft_in12k": Published(99.68, 20.09, classes=11821),
        }
    ),
    # Both layouts are read: the authors' (downsample_layers, dwconv, pwconv) and timm's (stem, downsample,
    # conv_dw, mlp).
    rules=[
        *stem({"0": "proj", "1": "norm"}),
        *downsampling({"0": "norm", "1": "conv"}),
        *below(STAGES, {r"gamma$": "scale2.gamma", r"(?:dwconv|conv_dw)\.": "token_mixer.conv.", r"norm\.": "norm2."}),
        *below(STAGES, {r"(?:pwconv|mlp\.fc)": "channel_mixer.fc"}, reshape),
        *timm_head(),
    ],
)
