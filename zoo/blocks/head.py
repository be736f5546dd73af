"""Heads: from the features of the last block to logits or to an image."""

from torch import Tensor, nn

from zoo.blocks.linear import Linear


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

    def __init__(self, dim: int, size: tuple[int, int, int], *, init: str = "trunc_normal", device=None, dtype=None):
        super().__init__()
        self.size = tuple(size)
        channels, height, width = size
        self.proj = Linear(dim, channels * height * width, init=init, device=device, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x).unflatten(-1, self.size)
