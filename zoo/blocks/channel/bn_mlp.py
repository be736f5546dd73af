"""The two-layer perceptron with a batch norm behind each map: RepMLPNet's."""

from torch import Tensor, nn

from zoo.blocks.batch_norm import over_channels
from zoo.blocks.linear import Linear, hidden_width, linear
from zoo.blocks.mixer import Mixer
from zoo.blocks.options import placement, pop_options_of, with_options_of
from zoo.checks.ranges import Rate, Width
from zoo.slots import SlotLike, build_act
from zoo.slots.table import register


@register("channel_mixer", "bn_mlp")
class BnMlp(Mixer):
    """Linear map, batch norm, activation, linear map, batch norm; the maps have no biases.

    Args:
        ratio: Hidden width over `dim`; the hidden width is ``int(ratio * dim)``.
        hidden: Hidden width itself, instead of `ratio`.
        act: An activation slot.
        drop: Dropout after the activation and at the end.
        init: A scheme of `zoo.blocks.init`.

    Shape: ``(*, dim) -> (*, dim)``.

    Example:
        >>> import torch
        >>> BnMlp(8, ratio=2)(torch.randn(2, 3, 3, 8)).shape
        torch.Size([2, 3, 3, 8])

    Source: Ding et al., "RepMLPNet" (arXiv 2112.11081), section 3.3; DingXiaoH/RepMLP, repmlpnet.py, FFNBlock.
    Differs: the dropout, off by default, is zoo's.
    Cost: 2 x dim x hidden MACs a position.
    Raises: ValueError for a hidden width below 1.
    """

    follows = ("init", "act", "drop")

    per_position = False  # in training the norms are over all positions, of which an expert sees its own alone

    @with_options_of(hidden_width, Linear)
    def __init__(self, dim: Width, *, act: SlotLike = "gelu", drop: Rate = 0.0, **options):
        super().__init__()
        hidden = hidden_width("bn_mlp", dim, **pop_options_of(hidden_width, options))
        dd = placement(options)
        self.fc1 = Linear(dim, hidden, False, **options)
        self.norm1 = nn.BatchNorm2d(hidden, **dd)
        self.act = build_act(act, **dd)
        self.fc2 = Linear(hidden, dim, False, **options)
        self.norm2 = nn.BatchNorm2d(dim, **dd)
        self.drop = nn.Dropout(drop) if drop > 0 else None

    def forward(self, x: Tensor) -> Tensor:
        y = self.act(over_channels(self.norm1, linear(x, self.fc1)))
        y = over_channels(self.norm2, linear(y if self.drop is None else self.drop(y), self.fc2))
        return y if self.drop is None else self.drop(y)
