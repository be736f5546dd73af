"""Sparse-MLP: MLP-Mixer whose last blocks are mixtures of experts in both stages, in another shape of representation.

Paper: Lou et al., "Cross-token Modeling with Conditional Computation", arXiv 2109.02008 (first called Sparse-MLP).
Code:  none published.
Weights: none released.

The paper's table of sizes was not at hand: these sizes are zoo's own. They are MLP-Mixer's, with the last quarter of
the blocks sparse: four experts in each stage, half as many positions and twice as many channels, and widths such that a
sparse block whose tokens all had a place would cost what a dense one does, but for the maps and the routing. Images are
routed one by one.
"""

from zoo.models.digits import PATCHES
from zoo.models.vision.mixer import FAMILY as MIXER

ROUTING = dict(num_experts=4, top_k=1, router="importance", group=1)
SPARSE = dict(
    name="re_represent",
    ratio=2.0,
    token_mixer=dict(name="token_moe", ratio=0.25, **ROUTING),
    channel_mixer=dict(name="moe", experts="mlp(ratio=2)", **ROUTING),
    norm="layernorm(eps=1e-6)",
)


def last(count: int) -> dict:
    """The slots of a mixer whose last blocks are sparse."""
    places = range(-count, 0)
    return dict(
        token_mixer={"name": "token_mlp", "ratio": 0.5, "at": dict.fromkeys(places, SPARSE)},
        channel_mixer={"name": "mlp", "ratio": 4, "at": dict.fromkeys(places, "none")},
    )


FAMILY = MIXER.derive(
    variants={
        "sparse_mlp_s16_224": dict(last(2), patch_size=16, dim=512, depth=8),
        "sparse_mlp_b16_224": dict(last(3), patch_size=16, dim=768, depth=12),
        "sparse_mlp_l16_224": dict(last(6), patch_size=16, dim=1024, depth=24),
        "sparse_mlp_digits": dict(PATCHES, **last(1), dim=32, depth=3),
        "sparse_mlp_test": dict(last(1), img_size=32, patch_size=8, dim=32, depth=3, num_classes=10),
    },
    rules=(),
)
