"""No token mixing, in a block that keeps the branch: the norm's output is added as it is."""

from torch import nn

from zoo.checks.ranges import Width
from zoo.slots.table import register


@register("token_mixer", "identity")
class Identity(nn.Identity):
    """The input as it is. Unlike ``none``, which leaves the branch out, the block adds its norm's output.

    Shape: ``(B, *S, dim) -> (B, *S, dim)``.

    Example:
        >>> x = __import__("torch").ones(1, 2, 8)
        >>> Identity(8)(x) is x
        True

    Source: Yu et al., "MetaFormer Baselines for Vision" (arXiv 2210.13452), IdentityFormer.
    Differs: none known.
    Cost: none.
    """

    def __init__(self, dim: Width, *, device=None, dtype=None):
        super().__init__()
