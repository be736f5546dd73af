"""One linear map behind an activation: the layer of a plain perceptron, whose blocks have no more."""

from torch import Tensor

from zoo.blocks.linear import Linear, linear
from zoo.blocks.mixer import Mixer
from zoo.blocks.options import placement, with_options_of
from zoo.checks.ranges import Width
from zoo.slots import SlotLike, build_act
from zoo.slots.table import register


@register("channel_mixer", "act_linear")
class ActLinear(Mixer):
    """An activation, and one linear map of the same width behind it.

    In a model whose `form` is ``plain`` such blocks are the usual perceptron of many layers, with norms before the
    activations.

    Args:
        act: An activation slot.
        bias: A bias on the map.
        init: A scheme of `zoo.blocks.init`.

    Shape: ``(*, dim) -> (*, dim)``.

    Example:
        >>> import torch
        >>> ActLinear(8)(torch.randn(2, 3, 8)).shape
        torch.Size([2, 3, 8])

    Source: Bachmann et al., "Scaling MLPs: A Tale of Inductive Bias" (arXiv 2306.13575), the standard perceptron;
        gregorbachmann/scaling_mlps, models/networks.py.
    Differs: none known.
    Cost: dim x dim MACs a position.
    Raises: nothing of its own.
    """

    follows = ("init", "act")

    @with_options_of(Linear)
    def __init__(self, dim: Width, *, act: SlotLike = "gelu", bias: bool = True, **options):
        super().__init__()
        self.act = build_act(act, **placement(options))
        self.fc = Linear(dim, dim, bias, **options)

    def forward(self, x: Tensor) -> Tensor:
        return linear(self.act(x), self.fc)
