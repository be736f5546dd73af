"""A perceptron as classifier."""

from torch import Tensor, nn
from torch.nn import functional as F

from zoo.blocks.linear import Linear, hidden_width, linear
from zoo.blocks.options import placement, with_options_of
from zoo.checks.ranges import Classes, Eps, Rate, Ratio, Width
from zoo.slots.table import register


@register("head", "mlp")
class MlpHead(nn.Module):
    """A perceptron as classifier: wide hidden layer, squared ReLU, layer norm, logits.

    Args:
        ratio: Hidden width over `dim`.
        drop: Dropout before the second map.
        eps: Of the layer norm.
        init: A scheme of `zoo.blocks.init`.

    Shape: ``(*, dim) -> (*, num_classes)``.

    Example:
        >>> MlpHead(8, 5)(__import__("torch").randn(2, 8)).shape
        torch.Size([2, 5])

    Source: Yu et al., "MetaFormer Baselines for Vision" (arXiv 2210.13452); sail-sg/metaformer,
        metaformer_baselines.py.
    Differs: the norm's eps is 1e-6 as in timm; the official code has torch's 1e-5, which changes the logits by 1e-5.
    Cost: ratio x dim x (dim + num_classes) MACs.
    Raises: ValueError for a hidden width of 0.
    """

    follows = ("drop",)

    @with_options_of(Linear)
    def __init__(
        self, dim: Width, num_classes: Classes, *, ratio: Ratio = 4.0, drop: Rate = 0.0, eps: Eps = 1e-6, **options
    ):
        super().__init__()
        hidden = hidden_width("head mlp", dim, ratio=ratio)
        self.fc1 = Linear(dim, hidden, **options)
        self.norm = nn.LayerNorm(hidden, eps=eps, **placement(options))
        self.drop = nn.Dropout(drop) if drop > 0 else None
        self.fc2 = Linear(hidden, num_classes, **options)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(F.relu(linear(x, self.fc1)).square())
        return linear(x if self.drop is None else self.drop(x), self.fc2)
