"""The linear classifier."""

from torch import nn

from zoo.blocks.linear import Linear
from zoo.blocks.options import with_options_of
from zoo.checks.ranges import Classes, Width
from zoo.slots.table import register


@register("head", "linear")
@with_options_of(Linear)
def linear_head(dim: Width, num_classes: Classes, **options) -> nn.Linear:
    """One linear map of the pooled features, of torch's own class.

    Args:
        init: A scheme of `zoo.blocks.init`.

    Shape: ``(*, dim) -> (*, num_classes)``.

    Example:
        >>> linear_head(8, 5)
        Linear(in_features=8, out_features=5, bias=True)

    Cost: dim x num_classes MACs.
    """
    return Linear(dim, num_classes, **options)
