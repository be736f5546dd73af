"""PK-Mixer: MLP-Mixer with random permutations of all its numbers around every perceptron, a wide and sparse network.

Paper: Hayase, Karakida, "Understanding MLP-Mixer as a Wide and Sparse MLP", arXiv 2306.01470.
Code:  none published.
Weights: none released.

A block of MLP-Mixer is two of these, since a permuted perceptron over channels mixes positions too: both have the slot
of the token mixer, in turn. The sizes are MLP-Mixer's, and so is the number of weights; `permutation='mixer'` is
MLP-Mixer itself. The norms and the shortcuts see the numbers in their own order.
"""

from zoo.family import Facts
from zoo.models.digits import PATCHES
from zoo.models.vision.mixer import FAMILY as MIXER


def permuted(hidden: int, ratio: float = 4) -> dict:
    """The token mixers of a model: perceptrons over positions, of so many hidden features, and over channels."""
    over = dict(tokens=f"mlp(hidden={hidden})", channels=f"mlp(ratio={ratio})")
    return dict(token_mixer=[dict(name="permuted", over=pieces, mixer=mixer) for pieces, mixer in over.items()])


FAMILY = MIXER.derive(
    facts=Facts(
        use="Research on MLP-Mixer as a wide and sparse network.",
        not_for=(
            "Use without training: no weights are released. Images of another size: every number has a place of its "
            "own in the permutations."
        ),
        data="No weights are released.",
        code_licence="No code is released.",
    ),
    defaults=dict(channel_mixer="none"),
    variants={
        "pk_mixer_s16_224": dict(permuted(256), patch_size=16, dim=512, depth=16),
        "pk_mixer_b16_224": dict(permuted(384), patch_size=16, dim=768, depth=24),
        "pk_mixer_digits": dict(permuted(32, 3), **PATCHES, dim=48, depth=8),
        "pk_mixer_test": dict(permuted(16), img_size=32, patch_size=8, dim=32, depth=4, num_classes=10),
    },
    rules=(),
)
