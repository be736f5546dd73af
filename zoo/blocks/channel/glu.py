"""The gated perceptron: SwiGLU, GEGLU, ReGLU, GLU and the bilinear layer are one class and five activations."""

from torch import Tensor, nn

from zoo.blocks.channel.mlp import Mlp
from zoo.blocks.init import InitLike
from zoo.blocks.linear import Linear, halves
from zoo.blocks.options import with_options_of
from zoo.checks.ranges import Width
from zoo.slots.table import register


@register("channel_mixer", "glu")
class Glu(Mlp):
    """``fc2(act(gate) * value)``, gate and value being two linear maps of the input held in one weight.

    Args:
        ratio: Width of the gated hidden layer over `dim`. The default, 8/3, has the parameters of ``mlp(ratio=4)``.
        hidden: That width itself, instead of `ratio`.
        act: ``silu`` is SwiGLU, ``gelu`` GEGLU, ``relu`` ReGLU, ``sigmoid`` GLU, ``none`` the bilinear layer.
        gate_last: The gate is the second half of `fc1`'s outputs (timm's GluMlp) instead of the first (SwiGLUPacked).
        open_gate: Start with gates of ``act(1)``: weights N(0, 1e-6), biases 1.
        bias, drop, init: As in `Mlp`; the first dropout is after the gating.

    Shape: ``(*, dim) -> (*, dim)``.

    Example:
        >>> import torch
        >>> Glu(12, act="gelu")(torch.randn(2, 5, 12)).shape
        torch.Size([2, 5, 12])

    Source: Shazeer, "GLU Variants Improve Transformer" (arXiv 2002.05202), equations 5 and 6.
    Differs: biases are on by default, as in timm; the paper has none.
    Cost: 3 x dim x hidden MACs a position.
    Raises: ValueError for a hidden width below 1.
    """

    @with_options_of(Mlp, without=["fc2_bias"], ratio=8 / 3, act="silu")
    def __init__(self, dim: Width, *, gate_last: bool = False, open_gate: bool = False, **options):
        self.gate_last, self.open_gate = gate_last, open_gate  # before super(): it makes the maps
        super().__init__(dim, **options)

    def _first_map(self, dim: int, hidden: int, bias: bool, *, init: InitLike, **placement) -> nn.Linear:
        inits = (init, "open_gate" if self.open_gate else init)
        return Linear(dim, 2 * hidden, bias, init=inits if self.gate_last else inits[::-1], **placement)

    def features(self, x: Tensor) -> Tensor:
        """The gated values, ``(*, dim) -> (*, hidden)``."""
        first, second = halves(x, self.fc1)
        return first * self.act(second) if self.gate_last else self.act(first) * second
