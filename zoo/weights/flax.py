"""The layout of keys that google-research's vision models have in Flax, as rules that turn them into zoo's.

A linear map is ``kernel``, of shape (in, out), and ``bias``; a norm is ``scale`` and ``bias``; the maps of attention
tell the heads apart. The keys may begin with ``params/``.
"""

from einops import rearrange
from torch import Size, Tensor

from zoo.weights.layouts import below, within
from zoo.weights.rules import Rule, rename, reshape, stack, transpose

TOP = r"^(?:params/)?", ""
BLOCKS = within(TOP, r"Encoder/encoderblock_(\d+)/", r"blocks.\1.")
QKV = ("query", "key", "value")


def linear(place: tuple[str, str], old: str, new: str) -> tuple[Rule, ...]:
    r"""A linear map that stands at a place (see `zoo.weights.layouts.below`).

    Example:
        >>> [rule.target for rule in linear(BLOCKS, "Mlp/Dense_0/", "channel_mixer.fc1.")]
        ['blocks.\\1.channel_mixer.fc1.weight', 'blocks.\\1.channel_mixer.fc1.bias']
    """
    layer = within(place, old, new)
    return *below(layer, {"kernel$": "weight"}, transpose), *below(layer, {"bias$": "bias"})


def norm(place: tuple[str, str], old: str, new: str) -> tuple[Rule, ...]:
    """A norm that stands at a place."""
    return below(within(place, old, new), {"scale$": "weight", "bias$": "bias"})


def attention(place: tuple[str, str]) -> tuple[Rule, ...]:
    """The maps of attention: queries, keys and values become one."""
    old, new = within(place, "SelfAttention/", "token_mixer.")
    parts = f"(?P<part>{'|'.join(QKV)})/"
    return (
        stack(f"{old}{parts}kernel$", f"{new}qkv.weight", operation=_to_heads, order=QKV),
        stack(f"{old}{parts}bias$", f"{new}qkv.bias", operation=reshape, order=QKV),
        rename(f"{old}out/kernel$", f"{new}proj.weight", _from_heads),
        rename(f"{old}out/bias$", f"{new}proj.bias"),
    )


def flax_vit() -> tuple[Rule, ...]:
    """The Vision Transformer: ``cls``, ``embedding/…``, ``Encoder/encoderblock_0/…``, ``pre_logits/…``, ``head/…``."""
    before_head = f"{TOP[0]}pre_logits/kernel$"  # with a layer before the classifier this is the head's second
    return (
        *below(TOP, {"cls$": "tokens.cls_token", "Encoder/posembed_input/pos_embedding$": "tokens.pos_embed"}),
        *below(TOP, {"embedding/kernel$": "stem.proj.weight"}, _convolution),
        *below(TOP, {"embedding/bias$": "stem.proj.bias"}),
        *norm(BLOCKS, "LayerNorm_0/", "norm1."),
        *norm(BLOCKS, "LayerNorm_1/", "norm2."),
        *attention(BLOCKS),
        *linear(BLOCKS, "Mlp/Dense_0/", "channel_mixer.fc1."),
        *linear(BLOCKS, "Mlp/Dense_1/", "channel_mixer.fc2."),
        *norm(TOP, "Encoder/encoder_norm/", "norm."),
        *linear(TOP, "pre_logits/", "head.fc1."),
        rename(f"{TOP[0]}head/kernel$", "head.fc2.weight", transpose, when=before_head),
        rename(f"{TOP[0]}head/bias$", "head.fc2.bias", when=before_head),
        *linear(TOP, "head/", "head."),
    )


def _convolution(x: Tensor, shape: Size) -> Tensor:
    """The map of the patches."""
    return rearrange(x, "height width in_chans dim -> dim in_chans height width")


def _to_heads(x: Tensor, shape: Size) -> Tensor:
    """The maps to queries, keys and values, as one."""
    return rearrange(x, "part in_dim heads head_dim -> (part heads head_dim) in_dim")


def _from_heads(x: Tensor, shape: Size) -> Tensor:
    """The map from the heads' outputs."""
    return rearrange(x, "heads head_dim dim -> dim (heads head_dim)")
