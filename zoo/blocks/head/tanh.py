"""A classifier behind a map and tanh."""

from torch import Tensor, nn

from zoo.blocks.linear import Linear, linear
from zoo.blocks.options import placement, with_options_of
from zoo.checks.ranges import Classes, Rate, Width
from zoo.slots.table import register


@register("head", "tanh")
class TanhHead(nn.Module):
    """A map of the width of the features, tanh, and a linear classifier.

    Args:
        init: Scheme of the classifier, of `zoo.blocks.init`; the first map has ``lecun``.
        drop: Dropout before the classifier.

    Shape: ``(*, dim) -> (*, num_classes)``.

    Example:
        >>> import torch
        >>> TanhHead(8, 5)(torch.randn(2, 8)).shape
        torch.Size([2, 5])

    Source: Dosovitskiy et al., ViT (arXiv 2010.11929), section 3.1, the head of pre-training;
        google-research/vision_transformer, vit_jax/models_vit.py, pre_logits.
    Differs: none known.
    Cost: dim x (dim + num_classes) MACs.
    """

    follows = ("drop",)

    @with_options_of(Linear)
    def __init__(self, dim: Width, num_classes: Classes, *, drop: Rate = 0.0, **options):
        super().__init__()
        self.fc1 = Linear(dim, dim, init="lecun", **placement(options))
        self.drop = nn.Dropout(drop) if drop > 0 else None
        self.fc2 = Linear(dim, num_classes, **options)

    def forward(self, x: Tensor) -> Tensor:
        x = linear(x, self.fc1).tanh()
        return linear(x if self.drop is None else self.drop(x), self.fc2)
