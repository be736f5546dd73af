"""What mixers with heads share: how many there are, and the maps of self-attention."""

from torch import nn

from zoo.blocks.linear import Linear, leave
from zoo.blocks.mixer import Mixer
from zoo.blocks.options import pop_options_of, with_options_of
from zoo.checks.ranges import Count, Rate, Width


def head_count(block: str, dim: int, *, heads: Count | None = None, head_dim: Width = 32) -> int:
    """`heads`; or the most heads that divide `dim` and are at least `head_dim` wide, or one.

    Raises:
        ValueError: `heads` does not divide `dim`.
    """
    if heads is None:
        return next(n for n in range(max(1, dim // head_dim), 0, -1) if dim % n == 0)
    if dim % heads:
        raise ValueError(f"{block} of dim {dim} cannot have {heads} heads; give heads= a divisor of dim")
    return heads


class SelfAttention(Mixer):
    """The maps to queries, keys and values, and back to the channels; what happens between, a class adds.

    Args:
        heads: Number of heads, a divisor of `dim`; by default the most that are at least `head_dim` wide.
        head_dim: Least width of a head where `heads` is not given.
        qkv_bias: Bias on the map to queries, keys and values.
        proj_bias: Bias on the map back.
        attn_drop: Dropout on the attention weights, for the class to apply.
        drop: Dropout after the map back, likewise.
        init: A scheme of `zoo.blocks.init`, to which queries, keys and values are three matrices; `leave` for none.

    Attributes:
        title: What errors call the mixer.

    Raises: ValueError if `dim` is not a multiple of `heads`.
    """

    follows = ("init", "drop", "attn_drop")

    title: str

    @with_options_of(head_count, Linear)
    def __init__(
        self,
        dim: Width,
        *,
        qkv_bias: bool = True,
        proj_bias: bool = True,
        attn_drop: Rate = 0.0,
        drop: Rate = 0.0,
        **options,
    ):
        super().__init__()
        self.heads = head_count(self.title, dim, **pop_options_of(head_count, options))
        self.attn_drop, init = attn_drop, options["init"]
        three = {"init": leave if init is leave else (init,) * 3}
        self.qkv = Linear(dim, 3 * dim, qkv_bias, **(options | three))
        self.proj = Linear(dim, dim, proj_bias, **options)
        self.drop = nn.Dropout(drop) if drop > 0 else None
