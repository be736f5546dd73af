"""RaftMLP: perceptrons over columns, then over rows, of two channels at once.

Paper: Tatsunami, Taki, "RaftMLP: How Much Can Be Done Without Attention and with Less Spatial Locality?", arXiv
    2108.04384.
Code:  okojoalg/raft-mlp, libs/models.py (Apache-2.0).
Weights: none released.

A published block has three residual branches and is two blocks here: the column's, then the row's with the channels'.
"""

from torch import Size, Tensor

from zoo.family import IMAGENET, Counted, Facts, Family
from zoo.models.digits import TWO_STAGES
from zoo.skeletons.hierarchical import Hierarchical
from zoo.weights import rename
from zoo.weights.layouts import halves

RAFT = 2  # channels of a raft
WINDOWS = "cross_scale(kernels=(2, 4))"


def rafts(*hidden: int) -> list[list[dict]]:
    """Token mixers of stages with these hidden widths: a block over columns and one over rows, in turn."""
    return [[dict(name="raft", axis=axis, hidden=n) for axis in ("vertical", "horizontal")] for n in hidden]


def raft_first(x: Tensor, shape: Size) -> Tensor:
    """A norm's factors or shifts, whose channels the authors order by the raft, in the order of the stream."""
    return x.unflatten(0, (-1, RAFT)).transpose(0, 1).flatten(0, 1)


def mixing(number: int, half: int) -> tuple:
    """Rules for the perceptron over columns, or rows, and its norm."""
    place = rf"^levels\.(\d+)\.fn\.(\d+)\.{number}\."
    return (
        *halves(place, half, {r"norm\.1\.": "norm1."}, raft_first, first=(0, 2)),
        *halves(place, half, {r"fn\.0\.": "token_mixer.fc1.", r"fn\.3\.": "token_mixer.fc2."}, first=(0, 2)),
    )


FAMILY = Family(
    model=Hierarchical,
    facts=Facts(
        use="Research on perceptrons over rows and columns; feature maps at four scales.",
        not_for="Use without training: no weights are released.",
        data="No weights are released.",
        code_licence="Apache-2.0.",
    ),
    defaults=dict(
        depths=(4, 4, 12, 4),
        stem="cross_scale(kernels=(4, 8))",
        downsample=[WINDOWS, WINDOWS, "cross_scale(kernels=(2,))"],
        token_mixer=rafts(224, 112, 56, 28),
        channel_mixer=[["none", "mlp(ratio=4)"]],
        norm="layernorm(eps=1e-5)",
        final_norm=True,
        init="torch",
        head_init="torch",
        drop_path_rule="constant",
    ),
    variants={
        "raft_mlp_s": dict(dims=(64, 128, 256, 512)),
        "raft_mlp_m": dict(dims=(96, 192, 384, 768)),
        "raft_mlp_l": dict(dims=(128, 192, 512, 1024)),
        "raft_mlp_digits": dict(
            TWO_STAGES, depths=(4, 2), stem="cross_scale(kernels=(1, 3))", downsample=WINDOWS, token_mixer=rafts(32, 16)
        ),
        "raft_mlp_test": dict(
            img_size=64,
            dims=(8, 8, 16, 16),
            depths=(2, 2, 4, 2),
            token_mixer=rafts(64, 32, 16, 8),
            num_classes=10,
        ),
    },
    cfg=dict(IMAGENET, license="apache-2.0"),
    # The authors' code multiplies each window of an embedding by itself (2.101, 4.289 and 6.571 billion MACs in all);
    # here the kernels of the windows are added first.
    counted={
        "raft_mlp_s": Counted(9.868768, 2.026, by_zoo=("macs",)),
        "raft_mlp_m": Counted(21.413632, 4.137, by_zoo=("macs",)),
        "raft_mlp_l": Counted(36.184672, 6.371, by_zoo=("macs",)),
    },
    rules=[
        rename(r"^levels\.0\.fn\.0\.fc\.", "stem."),
        rename(r"^levels\.(\d+)\.fn\.0\.fc\.", r"stages.\1.downsample."),
        *mixing(1, 0),
        *mixing(3, 1),
        *halves(
            r"^levels\.(\d+)\.fn\.(\d+)\.5\.",
            1,
            {r"norm\.": "norm2.", r"fn\.0\.": "channel_mixer.fc1.", r"fn\.3\.": "channel_mixer.fc2."},
            first=(0, 2),
        ),
        rename(r"^heads\.0\.1\.", "norm."),
        rename(r"^classifier\.", "head."),
    ],
)
