"""Activator: a gated unit in attention's place, with and without a second perceptron. It mixes no tokens at all.

Paper: Abdullah, Aydin, "Activator: GLU Activation Function as the Core Component of a Vision Transformer", arXiv
    2405.15953.
Code:  Abdullah-88/Activator, activator.py, activator_only_GEGLU.py, train.py (BSD-3-Clause).
Weights: none released.

Every patch is treated by itself from the stem to the pooling, without positions: a changed patch changes its own token
alone, patches in another order give the same logits, and what is classified is the mean of patches that never met. A
mixer of tokens is added by one slot: `token_mixer="pool", channel_mixer="activator"`. What that brings on digits is in
recipes/digits/activator.yaml. The two branches of a block share one norm. The authors' dropout of 0.5, in the second
perceptron alone, is `proj_drop_rate=0.5`.
"""

from zoo.family import Counted, Facts, Family
from zoo.models.digits import PATCHES
from zoo.skeletons.isotropic import Isotropic
from zoo.weights import rename
from zoo.weights.layouts import below

MODEL = r"^model\.(\d+)\.", r"blocks.\1."
GATED = dict(channel_mixer="none")

FAMILY = Family(
    model=Isotropic,
    facts=Facts(
        use="Asking what mixing is worth: a model of images none of whose parts mixes patches.",
        not_for=(
            "Classifying by what is where: patches in another order give the same logits. Use without training: no "
            "weights are released."
        ),
        data="No weights are released.",
        code_licence="BSD-3-Clause.",
    ),
    defaults=dict(
        img_size=32,
        patch_size=4,
        dim=256,
        depth=4,
        num_classes=10,
        token_mixer="activator(ratio=2)",
        channel_mixer="mlp(ratio=2)",
        norm="layernorm(eps=1e-5)",
        share_norm=True,
        final_norm="none",
        init="torch",
        head="linear(init='torch')",
    ),
    variants={
        "activator_patch4_32": dict(),
        "activator_only_geglu_patch4_32": GATED,
        # The gated unit is the channel mixer, and a mixer of tokens has the slot that it leaves.
        "activator_digits": dict(
            PATCHES, dim=48, depth=4, token_mixer="token_mlp(ratio=0.5)", channel_mixer="activator(ratio=1.5)"
        ),
        "activator_test": dict(patch_size=8, dim=32, depth=3),
        "activator_only_geglu_test": dict(GATED, patch_size=8, dim=32, depth=3),
    },
    counted={
        "activator_patch4_32": Counted(2.650890),
        "activator_only_geglu_patch4_32": Counted(1.599242),
    },
    rules=[
        rename(r"^patcher\.", "stem.proj."),
        rename(r"^classifier\.", "head."),
        *below(MODEL, {r"norm\.": "norm1.", r"actgu\.norm\.": "token_mixer.norm."}),
        *below(MODEL, {rf"actgu\.proj_{i}\.": f"token_mixer.{to}." for i, to in enumerate(("fc1", "value", "fc2"), 1)}),
        *below(MODEL, {r"ffn\.net\.0\.": "channel_mixer.fc1.", r"ffn\.net\.3\.": "channel_mixer.fc2."}),
    ],
)
