"""Multi-head self-attention over all positions."""

from typing import Annotated

import torch
from torch import Tensor, fx, nn

from zoo.blocks.kernels.attention import attend
from zoo.blocks.linear import leave, linear
from zoo.blocks.options import with_options_of
from zoo.blocks.token.heads import SelfAttention
from zoo.checks.ranges import Width
from zoo.slots import OfKind, SlotLike
from zoo.slots.table import register

fx.wrap("attend")

AttentionInit = Annotated[SlotLike, OfKind("init", "mimetic")]


@register("token_mixer", "attention")
class Attention(SelfAttention):
    """Multi-head self-attention, every position with every other, in one fused call.

    Args:
        heads: Number of heads, a divisor of `dim`; by default the greatest that leaves each `head_dim` or more, or 1.
        head_dim: Least width of a head where `heads` is not given.
        qkv_bias: Bias on the projection to queries, keys and values.
        proj_bias: Bias on the output projection.
        attn_drop: Dropout on the attention weights.
        drop: Dropout after the output projection.
        init: A scheme of `zoo.blocks.init`, to which queries, keys and values are three matrices; or
            ``mimetic``: the products of queries with keys and of values with the output begin near to the identity and
            to its negative, as in trained models.

    Shape: ``(B, *S, dim) -> (B, *S, dim)``, any number of positions.

    Example:
        >>> Attention(64, heads=4)(torch.randn(2, 5, 64)).shape
        torch.Size([2, 5, 64])

    Source: Vaswani et al., "Attention Is All You Need" (arXiv 1706.03762), equation 1; Dosovitskiy et al., ViT
        (arXiv 2010.11929); layout of the fused projection as in timm. ``mimetic``: Trockman and Kolter, "Mimetic
        Initialization of Self-Attention Layers" (arXiv 2305.09828), with the scales of Adamdad/kat, katransformer.py.
    Differs: none known.
    Cost: 4 x dim x dim MACs a position, and 2 x positions x positions x dim.
    Raises: ValueError if `dim` is not a multiple of `heads`.
    """

    title = "attention"
    mixes_prefix = True

    @with_options_of(SelfAttention, head_dim=64)
    def __init__(self, dim: Width, *, init: AttentionInit = "trunc_normal", **options):
        super().__init__(dim, init=leave if init == "mimetic" else init, **options)
        self.init = init
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Where queries and keys, and values and output, are initialised together: do it. Else each does it itself."""
        if self.init == "mimetic" and not self.qkv.weight.is_meta:
            mimetic_(self.qkv, self.proj, self.heads)

    def forward(self, x: Tensor) -> Tensor:
        drop = self.attn_drop if self.training else 0.0
        y = linear(attend(linear(x, self.qkv).flatten(1, -2), self.heads, drop).view(x.shape), self.proj)
        return y if self.drop is None else self.drop(y)


@torch.no_grad()
def mimetic_(qkv: nn.Linear, proj: nn.Linear, heads: int) -> None:
    """Initialise an attention layer in place: ``Wq^T Wk`` near 0.7 I in each head, ``Wproj Wv`` near -0.4 I.

    Noise of the same scale is added before a matrix is cut in two by its singular values, of which a head takes the
    greatest. That is a decomposition a head, at width 768 about a second a layer.
    """
    dim, device = proj.in_features, proj.weight.device
    precise = torch.promote_types(torch.get_default_dtype(), torch.float32)  # decompositions exist in no lower one
    identity = torch.eye(dim, device=device, dtype=precise)

    def noisy(scale: float) -> Tensor:
        return scale * (torch.empty_like(identity).uniform_(-1, 1) * (3 / dim) ** 0.5 + identity)

    queries, keys, values = qkv.weight.chunk(3)
    for query, key in zip(queries.chunk(heads), keys.chunk(heads), strict=True):
        product = noisy(0.7)
        squares, left = torch.linalg.eigh(product @ product.t())  # what an SVD finds, in half of its time
        roots, left = squares[-len(query) :].sqrt().sqrt(), left[:, -len(query) :]
        query.copy_((left * roots).t())
        key.copy_((left / roots).t() @ product)
    left, scales, right = torch.linalg.svd(-noisy(0.4))
    values.copy_(left * scales.sqrt())
    proj.weight.copy_(scales.sqrt().unsqueeze(1) * right)
    for layer in (qkv, proj):
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
