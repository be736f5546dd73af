"""Two Kolmogorov-Arnold layers with a norm between: what the channel mixers of learnt functions have in common."""

from collections.abc import Callable

from torch import Tensor, nn

from zoo.blocks.linear import Linear, hidden_width
from zoo.blocks.mixer import Mixer
from zoo.blocks.options import pop_options_of, with_options_of
from zoo.checks.ranges import Rate, Width
from zoo.slots import SlotLike, build_block


class TwoLayers(Mixer):
    """A layer to a hidden width, a norm, and a layer back.

    Args:
        layer: Makes a layer from a number of inputs and one of outputs.
        ratio: Hidden width over `dim`; the hidden width is ``int(ratio * dim)``.
        hidden: Hidden width itself, instead of `ratio`.
        norm: Norm slot of the hidden layer; ``none`` for no norm.
        drop: Dropout before and after the second layer.

    Shape: ``(*, dim) -> (*, dim)``.
    Raises: ValueError for a hidden width below 1.
    """

    follows = ("drop",)

    @with_options_of(hidden_width, Linear, without=["init"], ratio=0.5)
    def __init__(
        self, dim: Width, layer: Callable[..., nn.Module], *, norm: SlotLike = "layernorm", drop: Rate = 0.0, **options
    ):
        super().__init__()
        hidden = hidden_width(type(self).__name__, dim, **pop_options_of(hidden_width, options))
        self.fc1 = layer(dim, hidden, **options)
        self.norm = build_block("norm", norm, hidden, **options)
        self.drop = nn.Dropout(drop) if drop > 0 else nn.Identity()
        self.fc2 = layer(hidden, dim, **options)

    def forward(self, x: Tensor) -> Tensor:
        return self.drop(self.fc2(self.drop(self.norm(self.fc1(x)))))
