"""Activator's gated unit, which stands where attention does and mixes no tokens."""

from torch import Tensor

from zoo.blocks.channel.glu import Glu
from zoo.blocks.linear import halves
from zoo.blocks.norm import LayerNorm
from zoo.blocks.options import placement, with_options_of
from zoo.checks.ranges import Width
from zoo.slots.table import register


@register("token_mixer", "activator")
@register("channel_mixer", "activator")
class Activator(Glu):
    """``fc2(norm(act(gate)) * norm(value))``: a gated perceptron whose two sides go through one and the same norm.

    As a token mixer it has attention's place but not its work: every position is treated by itself, so what one
    position holds never reaches another. As a channel mixer it leaves that place to a mixer of tokens.

    Args:
        ratio: Width of the gated hidden layer over `dim`.
        hidden: That width itself, instead of `ratio`.
        act: An activation slot, on the gate alone.
        bias, init: As in `zoo.blocks.channel.glu.Glu`.

    Shape: ``(*, dim) -> (*, dim)``.

    Example:
        >>> import torch
        >>> mixer, x = Activator(8), torch.randn(1, 5, 8)
        >>> torch.allclose(mixer(x)[:, 2:], mixer(x[:, 2:]), atol=1e-6)  # the first two are not seen by the others
        True

    Source: Abdullah, Aydin, "Activator: GLU Activation Function as the Core Component of a Vision Transformer" (arXiv
        2405.15953); Abdullah-88/Activator, activator.py.
    Differs: none known. The gate and the value are held in one weight.
    Cost: 3 x dim x hidden MACs a position.
    Raises: ValueError for a hidden width below 1.
    """

    follows = ("init", "act")  # the authors have no dropout in it, also where the perceptron beside it has

    @with_options_of(Glu, without=["gate_last", "open_gate", "drop"], ratio=2.0, act="gelu")
    def __init__(self, dim: Width, **options):
        super().__init__(dim, **options)
        self.norm = LayerNorm(self.fc2.in_features, eps=1e-5, **placement(options))

    def features(self, x: Tensor) -> Tensor:
        """The gated values, ``(*, dim) -> (*, hidden)``."""
        gate, value = halves(x, self.fc1)
        return self.norm(self.act(gate)) * self.norm(value)
