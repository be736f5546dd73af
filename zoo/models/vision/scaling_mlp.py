"""Scaling MLPs: perceptrons on the flattened image, without patches; with inverted bottlenecks, or plain.

Paper: Bachmann et al., "Scaling MLPs: A Tale of Inductive Bias", arXiv 2306.13575.
Code:  gregorbachmann/scaling_mlps, models/networks.py (its licence is not stated).
Weights: the authors (no licence named), in a folder of Google Drive: after ImageNet-21K, and fine-tuned.

`scaling_mlp_b_12_wi_1024` is the authors' B_12-Wi_1024: 12 blocks of width 1024 whose perceptrons are four times as
wide. Those with `_s_` are plain: no shortcuts, one map a layer. Of these the authors name no sizes, and nothing is
released. There is no norm behind the last block. Their list has for B_6-Wi_512 on ImageNet the file for CIFAR-100, so
that those weights are left out; weights for CIFAR-10 and CIFAR-100 are in the same folder, and fit by checkpoint_path.
"""

from zoo.family import IMAGENET, Counted, Facts, Family, Published, released
from zoo.models.digits import IMAGES
from zoo.skeletons.isotropic import Isotropic
from zoo.weights import rename
from zoo.weights.layouts import BLOCKS, below

SOURCE = "README of gregorbachmann/scaling_mlps; utils/download.py"
PLAIN = dict(channel_mixer="act_linear", form="plain")

FAMILY = Family(
    model=Isotropic,
    facts=Facts(
        use=(
            "Research on what perceptrons learn without any bias toward images; a start for fine-tuning on small "
            "images."
        ),
        not_for=(
            "Best accuracy for the cost. Images of another size than the weights', since each pixel has weights of "
            "its own."
        ),
        data="in21k: ImageNet-21K of 11,230 classes. in21k_ft_in1k: ImageNet-1K after that.",
        code_licence="The licence is not stated.",
    ),
    defaults=dict(
        img_size=64,
        stem="lift(kind='trained')",
        token_mixer="none",
        channel_mixer="mlp(ratio=4)",
        norm="layernorm(eps=1e-5)",
        final_norm="none",
        init="torch",
        head="linear(init='torch')",
    ),
    variants={
        "scaling_mlp_b_6_wi_512": dict(dim=512, depth=6),
        "scaling_mlp_b_12_wi_512": dict(dim=512, depth=12),
        "scaling_mlp_b_6_wi_1024": dict(dim=1024, depth=6),
        "scaling_mlp_b_12_wi_1024": dict(dim=1024, depth=12),
        "scaling_mlp_s_6_wi_512": dict(PLAIN, dim=512, depth=6),
        "scaling_mlp_s_6_wi_1024": dict(PLAIN, dim=1024, depth=6),
        "scaling_mlp_digits": dict(IMAGES, dim=48, depth=3),
        "scaling_mlp_test": dict(img_size=8, dim=32, depth=3, num_classes=10),
        "scaling_mlp_s_test": dict(PLAIN, img_size=8, dim=32, depth=3, num_classes=10),
    },
    cfg=dict(IMAGENET, crop_pct=1.0),
    published={"scaling_mlp_b_6_wi_512.in21k_ft_in1k": Published(top1=33.3, source=SOURCE)}
    | released(
        "https://drive.usercontent.google.com/download?id={}&export=download&confirm=t",
        SOURCE,
        {
            "scaling_mlp_b_12_wi_512.in21k_ft_in1k": Published(top1=38.0, weights="1f0ZYzB_XujX8hDcEn_J6iWvw1meJ4Cbg"),
            "scaling_mlp_b_6_wi_1024.in21k_ft_in1k": Published(top1=40.0, weights="115Lks211vx1at2dWn3JtQ57EZ7eNAVP4E"),
            "scaling_mlp_b_12_wi_1024.in21k_ft_in1k": Published(top1=43.2, weights="1MVebvnSGL02k_ql1gUCjh4quGqM9RM4F"),
            "scaling_mlp_b_6_wi_512.in21k": Published(24, classes=11230, weights="1QV3a99UT8llfh9zDDuNKWDH_5c6S_YT5"),
            "scaling_mlp_b_12_wi_512.in21k": Published(37, classes=11230, weights="1sL9j_4FFeBTWTzuRFbHLfwrmPVLXhUtW"),
            "scaling_mlp_b_6_wi_1024.in21k": Published(74, classes=11230, weights="1cmO3QSz_hfHtyzkUOZnPmXPxIE2YzEbf"),
            "scaling_mlp_b_12_wi_1024.in21k": Published(
                124, classes=11230, weights="1rcV8RXij_kW9X2zSLNyNOTO_bKUjE0cJ"
            ),
        },
    ),
    # A MAC a weight: the image is seen once.
    counted={
        "scaling_mlp_b_6_wi_512.in21k": Counted(24.657374),
        "scaling_mlp_b_12_wi_512.in21k": Counted(37.261790),
        "scaling_mlp_b_6_wi_1024.in21k": Counted(74.469342),
        "scaling_mlp_b_12_wi_1024.in21k": Counted(124.843998),
    },
    rules=[
        rename(r"^linear_in\.", "stem.proj."),
        rename(r"^linear_out\.", "head."),
        *below(BLOCKS, {r"block\.0\.": "channel_mixer.fc1.", r"block\.2\.": "channel_mixer.fc2."}),
        rename(r"^layers\.(\d+)\.", r"blocks.\1.channel_mixer.fc."),
        rename(r"^layernorms\.(\d+)\.", r"blocks.\1.norm2."),
    ],
)
