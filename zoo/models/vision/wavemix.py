"""WaveMix: images mixed by a wavelet transform of several levels, and perceptrons on its bands.

Paper: Jeevan et al., "WaveMix: A Resource-efficient Neural Network for Image Analysis", arXiv 2205.14375.
Code:  pranavphoenix/WaveMix, wavemix/classification.py (MIT).
Weights: the authors (MIT), on the Hub as cloudwalker/wavemix.

A name says width, depth, levels of the transform and side of the patches; those without patches see every pixel, or
(s2) every fourth. Lite is one level. Weights of a segmenter (``.cityscapes``) have its backbone for ``num_classes=0``;
its head is `zoo.skeletons.dense.EnlargingHead`.
"""

import torch
from torch import Size, Tensor

from zoo.family import IMAGENET, Counted, Facts, Family, Published, released
from zoo.models.digits import IMAGES
from zoo.skeletons.isotropic import Isotropic
from zoo.weights import rename, reshape
from zoo.weights.layouts import below, within

PLAIN = "conv_patch(patch=1)"
CIFAR = dict(cfg=dict(mean=(0.4941, 0.4853, 0.4507), std=(0.2468, 0.2430, 0.2618)))  # as its tests have it
TINY = dict(cfg=dict(mean=(0.4825, 0.4499, 0.3984), std=(0.2764, 0.2691, 0.2825)))
AS_BYTES = dict(cfg=dict(mean=(0.0,) * 3, std=(1.0,) * 3))  # images from 0 to 1


def wave(dim: int, depth: int, levels: int = 1, drop: float = 0.5, **arguments) -> dict:
    return dict(dim=dim, depth=depth, token_mixer=f"wave(levels={levels}, drop={drop})", **arguments)


def by_band(weight: Tensor, shape: Size) -> Tensor:
    """The inputs of a level's first map: in the authors' layout the three bands of a channel lie side by side."""
    weight, band = weight.reshape(shape), shape[0] // 8  # the hidden layer has twice the channels, a band a quarter
    low, high, below = weight.split((band, 3 * band, shape[1] - 4 * band), dim=1)
    return torch.cat([low, high.unflatten(1, (band, 3)).transpose(1, 2).flatten(1, 2), below], 1)


MIXER = r"^layers\.(\d+)\.", r"blocks.\1.token_mixer."
LEVELS = [within(MIXER, rf"feedforward{level}\.", f"levels.{i}.") for i, level in enumerate(("1?", "2", "3", "4"))]

FAMILY = Family(
    model=Isotropic,
    facts=Facts(
        use="Classifying images with few parameters, small ones as of CIFAR too; telling what each pixel shows.",
        not_for="Low cost on large images: every block has the full width at every position.",
        data=(
            "in1k: ImageNet-1K. cityscapes: Cityscapes. galaxy10: Galaxy10 DECals. tiny_imagenet: Tiny ImageNet. "
            "places365: Places365. cifar10, cifar100: CIFAR-10 and CIFAR-100."
        ),
        code_licence="MIT.",
    ),
    defaults=dict(
        stem="conv_patch(patch=4)",
        channel_mixer="none",
        norm="none",
        init="torch",
        head="linear(init='torch')",
    ),
    variants={
        "wavemix_192_16_l3_p4": wave(192, 16, 3),
        "wavemix_256_16_l3_p4": wave(256, 16, 3),
        "wavemix_256_16_l4_s2": wave(256, 16, 4, img_size=256, stem="conv_patch(stride=2, patch=1)"),
        "wavemix_256_12_l2_p8": wave(256, 12, 2, stem="conv_patch(patch=8)"),
        "wavemix_lite_192_16_p4": wave(192, 16),
        "wavemix_lite_256_12": wave(256, 12, img_size=64, num_classes=200, stem=PLAIN),
        "wavemix_lite_320_8": wave(320, 8, img_size=32, num_classes=10, stem=PLAIN),
        "wavemix_lite_144_7": wave(144, 7, img_size=32, num_classes=10, stem=PLAIN),
        "wavemix_lite_256_8": wave(256, 8, img_size=32, num_classes=100, stem=PLAIN),
        "wavemix_lite_256_10": wave(256, 10, img_size=32, num_classes=100, stem=PLAIN),
        "wavemix_digits": wave(24, 2, 2, 0.1, **IMAGES, stem=PLAIN),
        "wavemix_test": wave(
            16,
            3,
            2,
            img_size=32,
            num_classes=10,
            init="trunc_normal",
            stem="conv_patch(patch=8, init='trunc_normal')",
            head="linear",
        ),
    },
    cfg=dict(IMAGENET, crop_pct=1.0, license="mit"),
    published=released(
        "hf-hub:cloudwalker/wavemix/Saved_Models_Weights/{}.pth",
        "names of the files in pranavphoenix/WaveMix, Saved_weights",
        {
            "wavemix_192_16_l3_p4.in1k": Published(top1=75.06, weights="ImageNet/wavemix_192_16_75.06"),
            "wavemix_192_16_l3_p4.cityscapes": Published(weights="cityscapes_83.04", classes=20),
            "wavemix_192_16_l3_p4.galaxy10": Published(
                weights="galaxy10/galaxy_95.42", classes=10, img_size=256, **AS_BYTES
            ),
            "wavemix_192_16_l3_p4.tiny_imagenet": Published(
                weights="tinyimagenet/tiny_78.76", classes=200, img_size=128, **TINY
            ),
            "wavemix_256_16_l3_p4.in1k": Published(top1=73.03, weights="ImageNet/ImageNet73.03"),
            "wavemix_256_16_l4_s2.in1k": Published(top1=70.42, weights="ImageNet/imagenet4level_70.42"),
            "wavemix_256_12_l2_p8.places365": Published(weights="Places365/places365_54.94", classes=365),
            "wavemix_lite_192_16_p4.in1k": Published(top1=71.18, weights="ImageNet/wavemixlite_71.18"),
            "wavemix_lite_192_16_p4.galaxy10": Published(
                weights="galaxy10/galaxy_90.23", classes=10, img_size=256, **AS_BYTES
            ),
            "wavemix_lite_256_12.tiny_imagenet": Published(
                weights="tinyimagenet/tinyimagenet_62.51", classes=200, **TINY
            ),
            "wavemix_lite_320_8.cifar10": Published(weights="cifar10/cifar10_95.37", classes=10, **CIFAR),
            "wavemix_lite_144_7.cifar10": Published(weights="cifar10/cifar10_94.58", classes=10, **CIFAR),
            "wavemix_lite_256_8.cifar100": Published(weights="cifar100/cifar100_77.82", classes=100),
            "wavemix_lite_256_10.cifar100": Published(weights="cifar100/cifar100_78.81", classes=100),
        },
    ),
    # When merged, without the norms of the blocks.
    counted={
        "wavemix_192_16_l3_p4.in1k": Counted(27.857608, 15.094, deploy_params=27.845320),
        "wavemix_256_16_l3_p4.in1k": Counted(49.416808, 26.805, deploy_params=49.400424),
        "wavemix_256_16_l4_s2.in1k": Counted(62.764776, 29.451, deploy_params=62.744296),
        "wavemix_256_12_l2_p8.places365": Counted(28.449261, 9.284, deploy_params=28.440045),
        "wavemix_lite_192_16_p4.in1k": Counted(12.494536, 12.782, deploy_params=12.488392),
        "wavemix_lite_256_12.tiny_imagenet": Counted(16.294600, 18.134, deploy_params=16.288456),
        "wavemix_lite_320_8.cifar10": Counted(17.073610, 4.881, deploy_params=17.068490),
        "wavemix_lite_144_7.cifar10": Counted(3.042550, 0.878, deploy_params=3.040534),
        "wavemix_lite_256_8.cifar100": Counted(10.954084, 3.124, deploy_params=10.949988),
        "wavemix_lite_256_10.cifar100": Counted(13.611492, 3.829, deploy_params=13.606372),
    },
    rules=[
        *below((r"^conv\.", "stem."), {r"0\.": "conv1.", r"1\.": "conv2.", r"2\.": "patch.", r"4\.": "norm."}),
        *below(MIXER, {r"reduction\.": "reduction."}, reshape),
        *(rule for level in LEVELS for rule in below(level, {r"0\.weight": "fc1.weight"}, by_band)),
        *(
            rule
            for level in LEVELS
            for rule in below(level, {r"0\.": "fc1.", r"3\.": "fc2.", r"4\.": "up.", r"5\.": "norm."}, reshape)
        ),
        rename(r"^(?:pool|head)\.2\.", "head."),
        rename(r"^pool\.", "head.pool."),
    ],
)
