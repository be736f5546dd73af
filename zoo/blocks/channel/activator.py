"""Activator's gated unit, which stands where attention does and mixes no tokens."""

from torch import Tensor

from zoo.blocks.channel.mlp import Mlp
from zoo.blocks.linear import Linear, linear, linear_act
from zoo.blocks.norm import LayerNorm
from zoo.blocks.options import placement, with_options_of
from zoo.checks.ranges import Width
from zoo.slots.table import register


@register("token_mixer", "activator")
@register("channel_mixer", "activator")
class Activator(Mlp):
    """``fc2(norm(act(fc1(x))) * norm(value(x)))``: a gated perceptron whose two sides go through one and the same norm.

    As a token mixer it has attention's place but not its work: every position is treated by itself, so what one
    position holds never reaches another. As a channel mixer it leaves that place to a mixer of tokens.

    Args:
        ratio: Width of the gated hidden layer over `dim`.
        hidden: That width itself, instead of `ratio`.
        act: An activation slot, on the gate alone.
        bias, init: As in `zoo.blocks.channel.mlp.Mlp`.

    Shape: ``(*, dim) -> (*, dim)``.

    Example:
        >>> import torch
        >>> mixer, x = Activator(8), torch.randn(1, 5, 8)
        >>> torch.allclose(mixer(x)[:, 2:], mixer(x[:, 2:]), atol=1e-6)  # the first two are not seen by the others
        True

    Source: Abdullah, Aydin, "Activator: GLU Activation Function as the Core Component of a Vision Transformer" (arXiv
        2405.15953); Abdullah-88/Activator, activator.py.
    Differs: none known.
    Cost: 3 x dim x hidden MACs a position.
    Raises: ValueError for a hidden width below 1.
    """

    follows = ("init", "act")  # the authors have no dropout in it, also where the perceptron beside it has

    @with_options_of(Mlp, without=["fc2_bias", "drop"], ratio=2.0)
    def __init__(self, dim: Width, **options):
        super().__init__(dim, **options)
        hidden, dd = self.fc1.out_features, placement(options)
        self.value = Linear(dim, hidden, options["bias"], init=options["init"], **dd)
        self.norm = LayerNorm(hidden, eps=1e-5, **dd)

    def features(self, x: Tensor) -> Tensor:
        """The gated values, ``(*, dim) -> (*, hidden)``."""
        return self.norm(linear_act(x, self.fc1, self.act)) * self.norm(linear(x, self.value))
