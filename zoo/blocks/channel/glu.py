"""The gated perceptron: SwiGLU, GEGLU, ReGLU, GLU and the bilinear layer are one class and five activations."""

from torch import Tensor, nn

from zoo.blocks.init import InitLike
from zoo.blocks.linear import Linear, halves, hidden_width, linear
from zoo.blocks.mixer import Mixer
from zoo.checks.ranges import Rate, Ratio, Width
from zoo.slots import SlotLike, build_act
from zoo.slots.table import register


@register("channel_mixer", "glu")
class Glu(Mixer):
    """``fc2(act(gate) * value)``, gate and value being two linear maps of the input held in one weight.

    Args:
        ratio: Width of the gated hidden layer over `dim`. The default, 8/3, has the parameters of ``mlp(ratio=4)``.
        hidden: That width itself, instead of `ratio`.
        act: ``silu`` is SwiGLU, ``gelu`` GEGLU, ``relu`` ReGLU, ``sigmoid`` GLU, ``none`` the bilinear layer.
        gate_last: The gate is the second half of `fc1`'s outputs (timm's GluMlp) instead of the first (SwiGLUPacked).
        open_gate: Start with gates of ``act(1)``: weights N(0, 1e-6), biases 1.
        drop: Dropout after the gating and after the second map.
        init: A scheme of `zoo.blocks.init`.

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

    follows = ("init", "act", "drop")

    def __init__(
        self,
        dim: Width,
        *,
        ratio: Ratio = 8 / 3,
        hidden: Width | None = None,
        act: SlotLike = "silu",
        gate_last: bool = False,
        open_gate: bool = False,
        bias: bool = True,
        drop: Rate = 0.0,
        init: InitLike = "trunc_normal",
        device=None,
        dtype=None,
    ):
        super().__init__()
        hidden = hidden_width("glu", dim, ratio, hidden)
        self.gate_last = gate_last
        inits = (init, "open_gate" if open_gate else init)
        self.fc1 = Linear(dim, 2 * hidden, bias, init=inits if gate_last else inits[::-1], device=device, dtype=dtype)
        self.act = build_act(act, device=device, dtype=dtype)
        self.drop = nn.Dropout(drop) if drop > 0 else None
        self.fc2 = Linear(hidden, dim, bias, init=init, device=device, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        first, second = halves(x, self.fc1)
        x = first * self.act(second) if self.gate_last else self.act(first) * second
        if self.drop is None:
            return linear(x, self.fc2)
        return self.drop(linear(self.drop(x), self.fc2))
