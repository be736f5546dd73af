"""Models of a wanted number of parameters."""

from collections.abc import Callable

from zoo.blocks.images import to_pair
from zoo.checks import shown, unknown
from zoo.registry import families


def width_for_budget(name: str, budget: int, **kwargs) -> dict:
    """The arguments that give a variant of the family hourglass the width nearest to a number of parameters.

    An Hourglass gets another skip width, its bottleneck in proportion; a conventional MLP, whose skip is the image,
    another hidden width.

    Example:
        >>> import zoo
        >>> arguments = width_for_budget("hourglass_test", 50_000)
        >>> model = zoo.create_model("hourglass_test", **arguments)
        >>> abs(sum(p.numel() for p in model.parameters()) / 50_000 - 1) < 0.02
        True

    Args:
        name: A variant of the family hourglass.
        budget: Number of trained parameters, the fixed lift not counted.
        kwargs: Further arguments of the model: ``depth``, ``img_size``, ``head``, …; `kwargs` may set neither ``dim``
            nor ``channel_mixer``.

    Returns:
        `kwargs` with ``dim`` and ``channel_mixer`` added.

    Raises:
        ValueError: The variant is none of that family, or even the least width has more parameters.
    """
    family = families()["hourglass"]
    if name not in family.variants:
        raise ValueError(unknown(f"variant {shown(name)}", name, family.variants))
    fixed = {**family.arguments(name), **kwargs}
    height, width = to_pair(fixed["img_size"], "img_size")
    if "none" in fixed["stem"]:
        values = fixed["in_chans"] * height * width
        arguments = lambda hidden: {**kwargs, "dim": values, "channel_mixer": f"mlp(hidden={hidden})"}
    else:
        arguments = lambda dim: {**kwargs, "dim": dim, "channel_mixer": fixed["channel_mixer"]}

    def parameters(size: int) -> int:
        model = family.model(**{**fixed, **arguments(size), "device": "meta"})
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
