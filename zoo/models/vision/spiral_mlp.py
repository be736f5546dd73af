"""SpiralMLP: perceptrons whose channels are taken from places on a spiral around each position.

Paper: Mu et al., "SpiralMLP: A Lightweight Vision MLP Architecture", arXiv 2404.00648.
Code:  mmcandlee/spiralmlp, classification/model.py (its licence is not stated).
Weights: none released.

The authors' models have a rate of 0.1 for both dropouts and for stochastic depth, the same in all blocks, in their
configuration: ``proj_drop_rate=0.1, drop_path_rate=0.1``. Their code leaves the places from which half of the channels
come unwritten; what memory held there is part of a checkpoint, and is loaded as it is.
"""

import warnings

from torch import Size, Tensor

from zoo.family import IMAGENET, Counted, Facts, Family
from zoo.models.digits import IMAGES
from zoo.skeletons.hierarchical import Hierarchical
from zoo.weights import rename, reshape
from zoo.weights.layouts import STAGES, below

DIMS = (64, 128, 320, 512)


def places(offset: Tensor, shape: Size) -> Tensor:
    """Where channels come from, down and across; half of it is what memory held when the authors' model was made."""
    parts = offset[(offset.abs() <= 7) & ((offset - offset.round()).abs() > 1e-3)]
    if len(parts):
        warnings.warn(
            f"a checkpoint has {parts[0]:.4g} among the places of its channels (offset); fractions count with "
            'token_mixer="spiral(between=True)" alone',
            stacklevel=2,
        )
    return offset.reshape(shape)


FAMILY = Family(
    model=Hierarchical,
    facts=Facts(
        use="Research on perceptrons that look around; images of any size; feature maps at four scales.",
        not_for=(
            "Use without training: no weights are released. The authors' figures to the last digit: half of their "
            "offsets are what memory held."
        ),
        data="No weights are released.",
        code_licence="The licence is not stated.",
    ),
    defaults=dict(
        stem="conv(kernel_size=7, stride=4, padding=2, init='torch')",
        downsample="conv(kernel_size=3, padding=1, init='torch')",
        token_mixer="spiral",
        channel_mixer="residual_mlp(ratio=4)",
        norm="layernorm(eps=1e-5)",
        final_norm=True,
        drop_path_rule="constant",
    ),
    variants={
        "spiral_mlp_b1": dict(dims=DIMS, depths=(2, 2, 4, 2)),
        "spiral_mlp_b2": dict(dims=DIMS, depths=(2, 3, 10, 3)),
        "spiral_mlp_b3": dict(dims=DIMS, depths=(3, 4, 18, 3)),
        "spiral_mlp_b4": dict(dims=DIMS, depths=(3, 8, 27, 3)),
        "spiral_mlp_b5": dict(dims=(96, 192, 384, 768), depths=(3, 4, 24, 3)),
        "spiral_mlp_digits": dict(
            IMAGES,
            dims=(24, 48),
            depths=(2, 1),
            stem="conv(kernel_size=3, stride=1, padding=1, init='torch')",
            token_mixer="spiral(amplitude=3, period=12)",
        ),
        "spiral_mlp_test": dict(
            img_size=64,
            dims=(24, 24, 32, 32),
            depths=(1, 1, 2, 1),
            stem="conv(kernel_size=7, stride=4, padding=2)",
            downsample="conv(kernel_size=3, padding=1)",
            num_classes=10,
        ),
    },
    cfg=IMAGENET,
    # MACs are those of all products, the deformable convolutions' too.
    counted={
        "spiral_mlp_b1": Counted(13.934152, 1.964),
        "spiral_mlp_b2": Counted(24.462536, 3.572),
        "spiral_mlp_b3": Counted(34.367992, 5.621),
        "spiral_mlp_b4": Counted(46.015176, 8.174),
        "spiral_mlp_b5": Counted(68.880304, 11.248),
    },
    rules=[
        rename(r"^patch_embed\.", "stem."),
        rename(r"^classifier_head\.", "head."),
        rename(r"^stages\.0\.\d+\.proj\.", "stages.1.downsample.conv."),
        rename(r"^stages\.1\.\d+\.proj\.", "stages.2.downsample.conv."),
        rename(r"^stages\.2\.\d+\.proj\.", "stages.3.downsample.conv."),
        *below(STAGES, {r"attn\.fc_cross\.offset": "token_mixer.offset"}, places),
        *below(STAGES, {r"attn\.fc_cross\.": "token_mixer.fc_cross."}, reshape),
        *below(STAGES, {r"norm_": "norm", r"attn\.": "token_mixer.", r"mlp\.": "channel_mixer."}),
    ],
)
