"""Hourglass MLP: the skip runs wide, the residual path through a bottleneck; and its rival, the usual wide hidden
layer.

Paper: "Rethinking the shape convention of an MLP", arXiv 2510.01796.
Code:  none released; what the abstract leaves open (norm, activation, sizes) is zoo's choice.
Weights: none released.

Both work on the flattened image. The Hourglass lifts it to a wider state, by a random projection that is never trained
nor stored, and each block goes wide - narrow - wide. The conventional MLP keeps the image's own width, and each block
goes narrow - wide - narrow. In each pair below the products of the blocks have equal numbers of weights.
Which of the two is better at denoising small digits, and when, was measured: benchmarks/RESULTS.md.
"""

from collections.abc import Callable

from zoo.blocks.images import to_pair
from zoo.checks import shown, unknown
from zoo.skeletons.isotropic import Isotropic

MODEL = Isotropic
TASKS = ("classification", "image-to-image")

DEFAULTS = dict(
    img_size=28,
    in_chans=1,
    num_classes=10,
    token_mixer="none",
    norm="layernorm",
    global_pool="avg",
    init="xavier",
    head_init="xavier",
)

HOURGLASS = dict(stem="lift(kind='random', seed=0)", dim=3136, channel_mixer="hourglass(ratio=0.125)")
CONVENTIONAL = dict(stem="lift(kind='none')", dim=784, channel_mixer="mlp(ratio=2)")

VARIANTS = {
    "hourglass_mlp_tiny": dict(HOURGLASS, depth=3),
    "hourglass_mlp_small": dict(HOURGLASS, depth=6),
    "hourglass_mlp_base": dict(HOURGLASS, depth=12),
    "conventional_mlp_tiny": dict(CONVENTIONAL, depth=3),
    "conventional_mlp_small": dict(CONVENTIONAL, depth=6),
    "conventional_mlp_base": dict(CONVENTIONAL, depth=12),
    "hourglass_test": dict(HOURGLASS, img_size=8, dim=128, depth=3),
    "conventional_test": dict(CONVENTIONAL, img_size=8, dim=64, depth=3),
}

CFG = dict(mean=(0.0,), std=(1.0,), crop_pct=1.0)

PUBLISHED = {}

RULES = []


def width_for_budget(name: str, budget: int, **kwargs) -> dict:
    """The arguments that give a variant of this family the width nearest to a number of parameters.

    An Hourglass gets another skip width, its bottleneck in proportion; a conventional MLP, whose skip is the image,
    another hidden width.

    Example:
        >>> import zoo
        >>> arguments = width_for_budget("hourglass_test", 50_000)
        >>> model = zoo.create_model("hourglass_test", **arguments)
        >>> abs(sum(p.numel() for p in model.parameters()) / 50_000 - 1) < 0.02
        True

    Args:
        name: A variant of this family.
        budget: Number of trained parameters, the fixed lift not counted.
        kwargs: Further arguments of the model: ``depth``, ``img_size``, ``head``, …; `kwargs` may set neither ``dim``
            nor ``channel_mixer``.

    Returns:
        `kwargs` with ``dim`` and ``channel_mixer`` added.

    Raises:
        ValueError: The variant is none of this family, or even the least width has more parameters.
    """
    if name not in VARIANTS:
        raise ValueError(unknown(f"variant {shown(name)}", name, VARIANTS))
    fixed = {**DEFAULTS, **VARIANTS[name], **kwargs}
    height, width = to_pair(fixed["img_size"], "img_size")
    if "none" in fixed["stem"]:
        values = fixed["in_chans"] * height * width
        arguments = lambda hidden: {**kwargs, "dim": values, "channel_mixer": f"mlp(hidden={hidden})"}
    else:
        arguments = lambda dim: {**kwargs, "dim": dim, "channel_mixer": fixed["channel_mixer"]}

    def parameters(size: int) -> int:
        model = MODEL(**{**fixed, **arguments(size), "device": "meta"})
        return sum(p.numel() for p in model.parameters())

    return arguments(_nearest(parameters, budget, least=2))


def _nearest(count: Callable[[int], int], budget: int, least: int) -> int:
    """The size whose count, which rises with it, is nearest to the budget."""
    if count(least) > budget:
        raise ValueError(
            f"a budget of {budget:,} parameters is below the {count(least):,} of the least width; raise it, or lower "
            "depth or img_size"
        )
    low, high = least, 2 * least
    while count(high) <= budget:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if count(middle) <= budget else (low, middle)
    return min(low, high, key=lambda size: abs(count(size) - budget))
