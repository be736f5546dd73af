"""Heads: from the features of the last block to logits or to an image."""

from torch import Tensor, nn
from torch.nn import functional as F

from zoo.blocks.linear import InitName, Linear, linear
from zoo.ranges import Classes, Eps, Rate, Ratio, Width


def pool_tokens(x: Tensor, pool: str, num_prefix_tokens: int = 0) -> Tensor:
    """Pool ``(B, N, C)`` to ``(B, C)``.

    Args:
        pool: ``avg`` or ``max`` over the patches, ``token`` for the first prefix token, ``""`` for no pooling.
        num_prefix_tokens: Tokens before the patches, which ``avg`` and ``max`` leave out.
    """
    if pool == "token":
        return x[:, 0]
    if pool == "avg":
        return x[:, num_prefix_tokens:].mean(dim=1)
    if pool == "max":
        return x[:, num_prefix_tokens:].amax(dim=1)
    return x


class MlpHead(nn.Module):
    """A perceptron as classifier: wide hidden layer, squared ReLU, layer norm, logits.

    Args:
        ratio: Hidden width over `dim`.
        drop: Dropout before the second map.
        eps: Of the layer norm.
        init: A scheme of `zoo.blocks.linear.INITS`.

    Shape: ``(*, dim) -> (*, num_classes)``.

    Example:
        >>> MlpHead(8, 5)(__import__("torch").randn(2, 8)).shape
        torch.Size([2, 5])

    Source: Yu et al., "MetaFormer Baselines for Vision" (arXiv 2210.13452); sail-sg/metaformer,
        metaformer_baselines.py.
    Differs: the norm's eps is 1e-6 as in timm; the official code has torch's 1e-5, which changes the logits by 1e-5.
    Cost: ratio x dim x (dim + num_classes) MACs.
    """

    def __init__(
        self,
        dim: Width,
        num_classes: Classes,
        *,
        ratio: Ratio = 4.0,
        drop: Rate = 0.0,
        eps: Eps = 1e-6,
        init: InitName = "trunc_normal",
        device=None,
        dtype=None,
    ):
        super().__init__()
        hidden, dd = int(ratio * dim), {"device": device, "dtype": dtype}
        self.fc1 = Linear(dim, hidden, init=init, **dd)
        self.norm = nn.LayerNorm(hidden, eps=eps, **dd)
        self.drop = nn.Dropout(drop) if drop > 0 else None
        self.fc2 = Linear(hidden, num_classes, init=init, **dd)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(F.relu(linear(x, self.fc1)).square())
        return linear(x if self.drop is None else self.drop(x), self.fc2)


class TanhHead(nn.Module):
    """A map of the width of the features, tanh, and a linear classifier.

    Args:
        init: Scheme of the classifier, of `zoo.blocks.linear.INITS`; the first map has ``lecun``.
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

    def __init__(
        self,
        dim: Width,
        num_classes: Classes,
        *,
        drop: Rate = 0.0,
        init: InitName = "trunc_normal",
        device=None,
        dtype=None,
    ):
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        self.fc1 = Linear(dim, dim, init="lecun", **dd)
        self.drop = nn.Dropout(drop) if drop > 0 else None
        self.fc2 = Linear(dim, num_classes, init=init, **dd)

    def forward(self, x: Tensor) -> Tensor:
        x = linear(x, self.fc1).tanh()
        return linear(x if self.drop is None else self.drop(x), self.fc2)


class ImageHead(nn.Module):
    """A linear map from one vector to a whole image.

    Shape: ``(B, dim) -> (B, channels, height, width)``.

    Example:
        >>> import torch
        >>> ImageHead(8, (1, 4, 4))(torch.randn(2, 8)).shape
        torch.Size([2, 1, 4, 4])

    Source: the output projection of arXiv 2510.01796.
    Differs: none known.
    Cost: dim x channels x height x width MACs.
    """

    def __init__(
        self, dim: Width, size: tuple[int, int, int], *, init: InitName = "trunc_normal", device=None, dtype=None
    ):
        super().__init__()
        self.size = tuple(size)
        channels, height, width = size
        self.proj = Linear(dim, channels * height * width, init=init, device=device, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.proj).unflatten(-1, self.size)
