"""RepMLPNet: matrices over all positions, with convolutions beside them that merge into these for inference.

Paper: Ding et al., "RepMLPNet: Hierarchical Vision MLP with Re-parameterized Locality", arXiv 2112.11081.
Code:  DingXiaoH/RepMLP, repmlpnet.py (MIT).
Weights: the authors (MIT), on Google Drive, which zoo does not fetch: `zoo convert` reads what was downloaded. They are
    in the training form; the authors' merged form is read too.
"""

from zoo.family import IMAGENET, Counted, Facts, Family, Published, released
from zoo.models.digits import TWO_STAGES
from zoo.skeletons.hierarchical import Hierarchical
from zoo.weights import rename, reshape
from zoo.weights.layouts import after, below

TINY, BASE = (64, 128, 256, 512), (96, 192, 384, 768)


def sets(*counts: int) -> list[str]:
    """The token mixers of stages with these numbers of sets of weights."""
    return [f"rep_mlp(sets={count})" for count in counts]


FAMILY = Family(
    model=Hierarchical,
    facts=Facts(
        use=(
            "Classifying natural images at 224 x 224 or 256 x 256, as the variant says; for inference merged by "
            "`reparameterize()`, which makes convolutions part of matrices over positions."
        ),
        not_for=(
            "Timing before the branches are merged. Other sizes of images without fine-tuning, since the matrices "
            "have one size."
        ),
        data="ImageNet-1K.",
        code_licence="MIT.",
    ),
    defaults=dict(
        stem="patch(bias=False, norm=\"batchnorm(act='relu')\")",
        downsample=dict(
            name="conv", kernel_size=2, padding=0, bias=False, norm="batchnorm(act='relu')", norm_last=True
        ),
        channel_mixer="bn_mlp(ratio=4)",
        norm="batchnorm",
        final_norm=True,
        init="torch",
    ),
    variants={
        "repmlpnet_t224": dict(dims=TINY, depths=(2, 2, 6, 2), token_mixer=sets(1, 4, 16, 128)),
        "repmlpnet_t256": dict(dims=TINY, depths=(2, 2, 6, 2), token_mixer=sets(1, 4, 16, 128), img_size=256),
        "repmlpnet_b224": dict(dims=BASE, depths=(2, 2, 12, 2), token_mixer=sets(1, 4, 32, 128)),
        "repmlpnet_b256": dict(dims=BASE, depths=(2, 2, 12, 2), token_mixer=sets(1, 4, 32, 128), img_size=256),
        "repmlpnet_d256": dict(
            dims=(80, 160, 320, 640), depths=(2, 2, 18, 2), token_mixer=sets(1, 4, 16, 128), img_size=256
        ),
        "repmlpnet_l256": dict(dims=BASE, depths=(2, 2, 18, 2), token_mixer=sets(1, 4, 32, 256), img_size=256),
        "repmlp_digits": dict(TWO_STAGES, token_mixer=sets(2, 8), channel_mixer="bn_mlp(ratio=2)"),
        "repmlp_test": dict(img_size=32, dims=(8, 16, 16), depths=(1, 2, 1), token_mixer=sets(1, 4, 8), num_classes=10),
    },
    cfg=dict(IMAGENET, license="mit"),
    # The size printed for L256 is that of neither form.
    published=released(
        "https://drive.google.com/file/d/{}/view",
        "README of DingXiaoH/RepMLP",
        {
            "repmlpnet_t224": Published(38.3, 2.8, 76.62, weights="1TgPDD78G-d3h_Y_vNTuqYdSJZHmnju7b"),
            "repmlpnet_b224": Published(68.2, 6.7, 80.32, weights="1GwoUvxGXgzKArlCf0V9kvc9_3GtkGltp"),
            "repmlpnet_t256": Published(58.7, 4.2, 77.44, weights="1mU0L76x20eAKzkHxEM7J2BvEOLWx_mux"),
            "repmlpnet_b256": Published(96.5, 9.6, 81.03, weights="1W-__gXE7903cX-gOSXEGxNBCJjvqFCiJ"),
            "repmlpnet_d256": Published(86.9, 8.6, 80.83, weights="1e5IYac0UHnJq2_lzbuE7J4rahMENX2ha"),
            "repmlpnet_l256": Published(None, 11.5, 81.68, weights="1SHhNJ6pZax9qMLm8DJZtQ_XfmcmddPYU"),
        },
    ),
    counted={
        "repmlpnet_t224": Counted(38.293608, deploy_params=38.331720),
        "repmlpnet_b224": Counted(68.242712, deploy_params=68.332664),
        "repmlpnet_t256": Counted(58.687848, deploy_params=58.739400),
        "repmlpnet_b256": Counted(96.447512, deploy_params=96.568184),
        "repmlpnet_d256": Counted(86.887648, deploy_params=86.985280),
        "repmlpnet_l256": Counted(117.641560, deploy_params=117.820600),
    },
    rules=[
        rename(r"^conv_embedding\.conv\.", "stem.proj."),
        rename(r"^conv_embedding\.bn\.", "stem.norm.bn."),
        *after(r"^embeds\.(\d+)\.", {r"conv\.": "conv.", r"bn\.": "norm.bn."}),
        *below(
            (r"^stages\.(\d+)\.(\d+)\.", r"stages.\1.blocks.\2."),
            {
                r"prebn(\d)\.": r"norm\3.bn.",
                r"repmlp_block\.fc3\.": "token_mixer.fc.",
                r"repmlp_block\.fc3_bn\.": "token_mixer.norm.",
                r"repmlp_block\.repconv(\d+)\.": r"token_mixer.branches.k\3.",
                r"repmlp_block\.gp\.fc1\.": "token_mixer.se.down.",
                r"repmlp_block\.gp\.fc2\.": "token_mixer.se.up.",
                r"ffn_block\.ffn_fc(\d)\.conv\.": r"channel_mixer.fc\3.",
                r"ffn_block\.ffn_fc(\d)\.bn\.": r"channel_mixer.norm\3.",
            },
            reshape,
        ),
        rename(r"^head_norm\.", "norm.bn."),
    ],
)
