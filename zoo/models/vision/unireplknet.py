"""UniRepLKNet: large-kernel depthwise convolutions with parallel dilated branches, which merge into one for inference.

Paper: Ding et al., "UniRepLKNet: A Universal Perception Large-Kernel ConvNet", arXiv 2311.15599.
Code:  AILab-CVC/UniRepLKNet, unireplknet.py (Apache-2.0).
Weights: the authors (Apache-2.0), on the Hub as DingXiaoH/UniRepLKNet, in the training form: with branches.
"""

from zoo.family import IMAGENET, Counted, Family, Published, released
from zoo.models.digits import TWO_STAGES
from zoo.skeletons.hierarchical import Hierarchical
from zoo.weights import reshape
from zoo.weights.layouts import below, downsampling, stem

SMALL, LARGE = "large_kernel(kernel_size=3)", "large_kernel(kernel_size=13)"
ALL_LARGE = dict(token_mixer=[SMALL, LARGE, LARGE, LARGE])
HALF_LARGE = dict(token_mixer=[SMALL, LARGE, [LARGE, SMALL], LARGE])
THIRD_LARGE = dict(token_mixer=[SMALL, LARGE, [LARGE, SMALL, SMALL], LARGE], depths=(3, 3, 27, 3))


AT_384 = dict(img_size=384, cfg=dict(crop_pct=1.0, crop_mode="squash"))  # the authors resize the whole image


# The authors' layout, in training or in merged form.
BLOCKS = r"^stages\.(\d+)\.(\d+)\.", r"stages.\1.blocks.\2."

FAMILY = Family(
    model=Hierarchical,
    defaults=dict(
        stem="double_conv",
        downsample="conv(kernel_size=3, padding=1, norm='layernorm', norm_last=True)",
        channel_mixer="grn_mlp(ratio=4, batchnorm=True)",
        norm="none",
        form="serial",
        layer_scale=1e-6,
        pool_first=True,
    ),
    variants={
        "unireplknet_a": dict(ALL_LARGE, dims=(40, 80, 160, 320), depths=(2, 2, 6, 2)),
        "unireplknet_f": dict(ALL_LARGE, dims=(48, 96, 192, 384), depths=(2, 2, 6, 2)),
        "unireplknet_p": dict(ALL_LARGE, dims=(64, 128, 256, 512), depths=(2, 2, 6, 2)),
        "unireplknet_n": dict(ALL_LARGE, dims=(80, 160, 320, 640), depths=(2, 2, 8, 2)),
        "unireplknet_t": dict(HALF_LARGE, dims=(80, 160, 320, 640), depths=(3, 3, 18, 3)),
        "unireplknet_s": dict(THIRD_LARGE, dims=(96, 192, 384, 768)),
        "unireplknet_b": dict(THIRD_LARGE, dims=(128, 256, 512, 1024)),
        "unireplknet_l": dict(THIRD_LARGE, dims=(192, 384, 768, 1536)),
        "unireplknet_xl": dict(THIRD_LARGE, dims=(256, 512, 1024, 2048)),
        "unireplknet_digits": dict(TWO_STAGES, token_mixer=[SMALL, "large_kernel(kernel_size=5)"], layer_scale=0.1),
        "unireplknet_test": dict(
            HALF_LARGE, img_size=64, dims=(8, 8, 16, 16), depths=(1, 1, 2, 1), layer_scale=0.1, num_classes=10
        ),
    },
    cfg=dict(IMAGENET, crop_pct=0.875, license="apache-2.0"),
    # Published are the sizes of the merged form. The README's FLOPs for the weights of ImageNet-22K are those at 384
    # again, its parameters those with 1000 classes; these are left out.
    published=released(
        "hf-hub:DingXiaoH/UniRepLKNet/unireplknet_{}.pth",
        "README of AILab-CVC/UniRepLKNet, names of the files",
        {
            "unireplknet_a.in1k": Published(None, 0.6, 77.03, deploy_params=4.4, weights="a_in1k_224_acc77.03"),
            "unireplknet_f.in1k": Published(None, 0.9, 78.58, deploy_params=6.2, weights="f_in1k_224_acc78.58"),
            "unireplknet_p.in1k": Published(None, 1.6, 80.23, deploy_params=10.7, weights="p_in1k_224_acc80.23"),
            "unireplknet_n.in1k": Published(None, 2.8, 81.64, deploy_params=18.3, weights="n_in1k_224_acc81.64"),
            "unireplknet_t.in1k": Published(None, 4.9, 83.21, deploy_params=31, weights="t_in1k_224_acc83.21"),
            "unireplknet_s.in1k": Published(None, 9.1, 83.91, deploy_params=56, weights="s_in1k_224_acc83.91"),
            "unireplknet_s.in22k_ft_in1k_384": Published(
                None, 26.7, 86.44, deploy_params=56, weights="s_in22k_to_in1k_384_acc86.44", **AT_384
            ),
            "unireplknet_b.in22k_ft_in1k_384": Published(
                None, 47.2, 87.40, deploy_params=98, weights="b_in22k_to_in1k_384_acc87.40", **AT_384
            ),
            "unireplknet_l.in22k_ft_in1k_384": Published(
                None, 105.4, 87.88, deploy_params=218, weights="l_in22k_to_in1k_384_acc87.88", **AT_384
            ),
            "unireplknet_xl.in22k_ft_in1k_384": Published(
                None, 187, 87.96, deploy_params=386, weights="xl_in22k_to_in1k_384_acc87.96", **AT_384
            ),
            "unireplknet_s.in22k": Published(classes=21841, weights="s_in22k_pretrain"),
            "unireplknet_b.in22k": Published(classes=21841, weights="b_in22k_pretrain"),
            "unireplknet_l.in22k": Published(classes=21841, img_size=192, weights="l_in22k_pretrain"),
            "unireplknet_xl.in22k": Published(classes=21841, img_size=192, weights="xl_in22k_pretrain"),
        },
    ),
    # The form for training, which the files hold, and the merged form. Those for ImageNet-22K are the authors' models
    # of 1000 classes with the larger classifier.
    counted={
        "unireplknet_a.in1k": Counted(4.649060, 0.640, deploy_params=4.437300),
        "unireplknet_f.in1k": Counted(6.489328, 0.906, deploy_params=6.235216),
        "unireplknet_p.in1k": Counted(11.080520, 1.574, deploy_params=10.741704),
        "unireplknet_n.in1k": Counted(18.818880, 2.768, deploy_params=18.318560),
        "unireplknet_t.in1k": Counted(31.693420, 4.901, deploy_params=31.037980),
        "unireplknet_s.in1k": Counted(56.456704, 9.097, deploy_params=55.645984),
        "unireplknet_s.in22k_ft_in1k_384": Counted(56.456704, deploy_params=55.645984),
        "unireplknet_b.in22k_ft_in1k_384": Counted(99.089416, deploy_params=98.008456),
        "unireplknet_l.in22k_ft_in1k_384": Counted(220.076056, deploy_params=218.454616),
        "unireplknet_xl.in22k_ft_in1k_384": Counted(388.690984, deploy_params=386.529064),
        "unireplknet_s.in22k": Counted(72.483433, 9.110, deploy_params=71.672713, by_zoo=("macs",)),
        "unireplknet_b.in22k": Counted(120.451441, 16.079, deploy_params=119.370481, by_zoo=("macs",)),
        "unireplknet_l.in22k": Counted(252.108673, 26.397, deploy_params=250.487233, by_zoo=("macs",)),
        "unireplknet_xl.in22k": Counted(431.394193, 46.753, deploy_params=429.232273, by_zoo=("macs",)),
    },
    rules=[
        *stem({"0": "proj", "1": "norm1", "3": "conv", "4": "norm2"}),
        *downsampling({"0": "conv", "1": "norm"}),
        *below(
            BLOCKS,
            {
                r"dwconv\.(?:lk_origin\.)?(weight|bias)$": r"token_mixer.conv.\3",
                r"dwconv\.origin_bn\.": "token_mixer.bn.",
                r"dwconv\.dil_(conv|bn)_(k\d+_\d+)\.": r"token_mixer.branches.\4.\3.",
                r"norm\.": "token_mixer.norm.",
                r"pwconv1\.1\.": "channel_mixer.fc1.",
                r"pwconv2\.0\.": "channel_mixer.fc2.",
                r"pwconv2\.2\.": "channel_mixer.norm.",
                r"gamma$": "scale2.gamma",
            },
        ),
        *below(BLOCKS, {r"se\.": "token_mixer.se.", r"act\.1\.": "channel_mixer.grn."}, reshape),
    ],
)
