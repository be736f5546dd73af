"""A perceptron with a shortcut of its own, within the block's."""

from torch import Tensor

from zoo.blocks.channel.mlp import Mlp
from zoo.blocks.linear import linear
from zoo.slots.table import register


@register("channel_mixer", "residual_mlp")
class ResidualMlp(Mlp):
    """`Mlp` plus its own input: in a block the normalised input is added beside the input itself.

    The arguments are those of `Mlp`; the dropout comes after the second map alone.

    Shape: ``(*, dim) -> (*, dim)``.

    Example:
        >>> import torch
        >>> x = torch.randn(2, 3, 8)
        >>> torch.equal(ResidualMlp(8, init="zeros")(x), x)
        True

    Source: mmcandlee/spiralmlp, classification/model.py (Mu et al., "SpiralMLP", arXiv 2404.00648).
    Differs: none known.
    Cost: 2 x dim x hidden MACs a position.
    Raises: ValueError for a hidden width below 1.
    """

    def forward(self, x: Tensor) -> Tensor:
        y = linear(self.features(x), self.fc2)
        return x + (y if self.drop is None else self.drop(y))
