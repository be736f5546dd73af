"""The layout of keys that google-research's vision models have in Flax, as rules that turn them into zoo's.

A linear map is ``kernel``, of shape (in, out), and ``bias``; a norm is ``scale`` and ``bias``; the maps of attention
tell the heads apart. The keys may begin with ``params/``.
"""

from einops import rearrange
from torch import Size, Tensor

from zoo.weights.layouts import below, within
from zoo.weights.rules import Rule, rename, reshape, stack, transpose

TOP = r"^(?:params/)?", ""
# A part of a block has the number of its kind, or that among all parts of the block: files differ by their age.
BLOCKS = within(TOP, r"(?:Encoder|Transformer)/encoderblock_(\d+)/", r"blocks.\1.")
MIXER_BLOCKS = within(TOP, r"MixerBlock_(\d+)/", r"blocks.\1.")
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
    old, new = within(place, r"(?:SelfAttention|MultiHeadDotProductAttention_\d+)/", "token_mixer.")
    parts = f"(?P<part>{'|'.join(QKV)})/"
    return (
        stack(f"{old}{parts}kernel$", f"{new}qkv.weight", operation=_to_heads, order=QKV),
        stack(f"{old}{parts}bias$", f"{new}qkv.bias", operation=reshape, order=QKV),
        rename(f"{old}out/kernel$", f"{new}proj.weight", _from_heads),
        rename(f"{old}out/bias$", f"{new}proj.bias"),
    )


def flax_vit() -> tuple[Rule, ...]:
    """The Vision Transformer: ``cls``, ``embedding/…``, ``Encoder/encoderblock_0/…``, ``pre_logits/…``, ``head/…``.

    Or ``Transformer/encoderblock_0/…``, as in google-research/vision_transformer.
    """
    before_head = f"{TOP[0]}pre_logits/kernel$"  # with a layer before the classifier this is the head's second
    return (
        *below(TOP, {"cls$": "tokens.cls_token", r"\w+/posembed_input/pos_embedding$": "tokens.pos_embed"}),
        *_patches("embedding/"),
        *norm(BLOCKS, "LayerNorm_0/", "norm1."),
        *norm(BLOCKS, "LayerNorm_[12]/", "norm2."),
        *attention(BLOCKS),
        *linear(BLOCKS, r"Mlp(?:Block_\d+)?/Dense_0/", "channel_mixer.fc1."),
        *linear(BLOCKS, r"Mlp(?:Block_\d+)?/Dense_1/", "channel_mixer.fc2."),
        *norm(TOP, r"\w+/encoder_norm/", "norm."),
        *linear(TOP, "pre_logits/", "head.fc1."),
        rename(f"{TOP[0]}head/kernel$", "head.fc2.weight", transpose, when=before_head),
        rename(f"{TOP[0]}head/bias$", "head.fc2.bias", when=before_head),
        *linear(TOP, "head/", "head."),
    )


def flax_mixer() -> tuple[Rule, ...]:
    """MLP-Mixer: ``stem/…``, ``MixerBlock_0/token_mixing/…``, ``pre_head_layer_norm/…``, ``head/…``."""
    mixers = {"token_mixing": "token_mixer", "channel_mixing": "channel_mixer"}
    return (
        *_patches("stem/"),
        *norm(MIXER_BLOCKS, "LayerNorm_0/", "norm1."),
        *norm(MIXER_BLOCKS, "LayerNorm_1/", "norm2."),
        *(
            rule
            for old, new in mixers.items()
            for i in (0, 1)
            for rule in linear(MIXER_BLOCKS, f"{old}/Dense_{i}/", f"{new}.fc{i + 1}.")
        ),
        *norm(TOP, "pre_head_layer_norm/", "norm."),
        *linear(TOP, "head/", "head."),
    )


def _patches(name: str) -> tuple[Rule, ...]:
    """The map of the patches, of that name."""
    kernels = below(TOP, {f"{name}kernel$": "stem.proj.weight"}, _convolution)
    return *kernels, *below(TOP, {f"{name}bias$": "stem.proj.bias"})


def _convolution(x: Tensor, shape: Size) -> Tensor:
    """The map of the patches."""
    return rearrange(x, "height width in_chans dim -> dim in_chans height width")


def _to_heads(x: Tensor, shape: Size) -> Tensor:
    """The maps to queries, keys and values, as one."""
    return rearrange(x, "part in_dim heads head_dim -> (part heads head_dim) in_dim")


def _from_heads(x: Tensor, shape: Size) -> Tensor:
    """The map from the heads' outputs."""
    return rearrange(x, "heads head_dim dim -> dim (heads head_dim)")
