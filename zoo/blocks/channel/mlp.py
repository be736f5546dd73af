"""The two-layer perceptrons: narrow-wide-narrow (`mlp`) and wide-narrow-wide (`hourglass`)."""

from torch import Tensor, nn

from zoo.blocks.linear import Linear, hidden_width, linear, linear_act
from zoo.blocks.mixer import Mixer
from zoo.blocks.options import placement, pop_options_of, with_options_of
from zoo.checks.ranges import Rate, Ratio, Width
from zoo.slots import SlotLike, build_act
from zoo.slots.table import register


@register("channel_mixer", "mlp")
class Mlp(Mixer):
    """Two linear maps with an activation between them.

    Args:
        ratio: Hidden width over `dim`; the hidden width is ``int(ratio * dim)``.
        hidden: Hidden width itself, instead of `ratio`.
        act: An activation slot.
        bias: Biases on both maps.
        fc2_bias: Bias on the second map, if it is to differ from `bias`.
        drop: Dropout after the activation and after the second map.
        init: A scheme of `zoo.blocks.init`.

    Shape: ``(*, dim) -> (*, dim)``.

    Example:
        >>> import torch
        >>> Mlp(8, ratio=2)(torch.randn(2, 3, 3, 8)).shape
        torch.Size([2, 3, 3, 8])

    Source: Tolstikhin et al., "MLP-Mixer" (arXiv 2105.01601), equation 1; Dosovitskiy et al., ViT (arXiv 2010.11929).
    Differs: GELU is the exact one by default, as in timm's conversions; the Flax code of both papers uses the tanh
        form.
    Cost: 2 x dim x hidden MACs a position.
    Raises: ValueError for a hidden width below 1.
    """

    follows = ("init", "act", "drop")

    @with_options_of(hidden_width, Linear)
    def __init__(
        self,
        dim: Width,
        *,
        act: SlotLike = "gelu",
        bias: bool = True,
        fc2_bias: bool | None = None,
        drop: Rate = 0.0,
        **options,
    ):
        super().__init__()
        hidden = hidden_width(type(self).__name__.lower(), dim, **pop_options_of(hidden_width, options))
        self.fc1 = self._first_map(dim, hidden, bias, **options)
        self.act = build_act(act, **placement(options))
        self.drop = nn.Dropout(drop) if drop > 0 else None
        self.fc2 = Linear(hidden, dim, bias if fc2_bias is None else fc2_bias, **options)

    def _first_map(self, dim: int, hidden: int, bias: bool, **options) -> nn.Linear:
        return Linear(dim, hidden, bias, **options)

    def features(self, x: Tensor) -> Tensor:
        """What comes between the maps, ``(*, dim) -> (*, hidden)``."""
        return linear_act(x, self.fc1, self.act)

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x)
        if self.drop is None:
            return linear(x, self.fc2)
        return self.drop(linear(self.drop(x), self.fc2))


@register("channel_mixer", "hourglass")
class Hourglass(Mlp):
    """The wide-narrow-wide perceptron: a bottleneck between two wide ends, so that a skip around it runs wide.

    The other arguments are those of `Mlp`, without `fc2_bias`.

    Args:
        ratio: Bottleneck width over `dim`, below 1; the bottleneck is at least one feature wide.
        hidden: Bottleneck width itself, below `dim`, instead of `ratio`.

    Shape: ``(*, dim) -> (*, dim)``.

    Example:
        >>> sum(p.numel() for p in Hourglass(64, hidden=4, bias=False).parameters())
        512

    Source: "Rethinking the shape convention of an MLP" (arXiv 2510.01796); no official code.
    Differs: the paper's abstract fixes no activation; GELU is zoo's choice.
    Cost: 2 x dim x hidden MACs a position.
    Raises: ValueError if the bottleneck is not narrower than `dim`.
    """

    @with_options_of(Mlp, without=["fc2_bias"])
    def __init__(self, dim: Width, *, ratio: Ratio = 0.25, hidden: Width | None = None, **options):
        hidden = max(1, int(ratio * dim)) if hidden is None else hidden
        if hidden >= dim:
            raise ValueError(
                f"hourglass has a bottleneck of {hidden} at width {dim}; it must be narrower (ratio below 1), "
                'or use "mlp" for a hidden layer that is wider'
            )
        super().__init__(dim, hidden=hidden, **options)
