"""Pooling of tokens."""

from torch import Tensor


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
