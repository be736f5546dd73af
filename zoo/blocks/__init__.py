"""The blocks, in one layout, ``(B, *S, C)``: mixers and what stands around them, a folder a kind.

``zoo.blocks.Mlp`` and every other public class of this folder can be imported from here; the modules are read on first
use. By name, with options in a string, blocks are made by `zoo.create_block`.
"""

from collections.abc import Callable as _Callable

from zoo.slots.table import Kind as _Kind
from zoo.slots.table import declare as _declare
from zoo.slots.table import find_class as _find_class

for _kind in (
    _Kind("token_mixer", "Exchanges information between positions, (B, *S, C) -> (B, *S, C).", optional=True),
    _Kind("channel_mixer", "Acts on the channels of each position alone, (*, C) -> (*, C).", optional=True),
    _Kind("norm", "Normalises the channels, (*, C) -> (*, C).", optional=True),
    _Kind("act", "An activation, element by element.", optional=True),
    _Kind("stem", "From images to the first grid of positions, (B, in_chans, H, W) -> (B, H', W', C)."),
    _Kind("embed", "What is added to the positions before the first block, such as a class token.", optional=True),
    _Kind("downsample", "Between two stages: fewer positions, more channels."),
    _Kind("shortcut", "From what enters a stage to a part of what enters the next, past the blocks.", optional=True),
    _Kind("head", "From features to logits, or to an image.", assumed=True),
    _Kind("init", "A scheme of initialisation, called with a weight and its bias.", assumed=True, makes=_Callable),
    _Kind("layer", "From vectors to vectors of another width, (*, in_features) -> (*, out_features).", optional=True),
    _Kind("basis", "Functions of one number, of which the edges of a Kolmogorov-Arnold layer are made."),
    _Kind("router", "Chooses experts for tokens."),
    _Kind("dispatch", "Leaves out choices of a router, by capacity."),
    _Kind("experts", "Several perceptrons as one module, each for the tokens that chose it."),
):
    _declare(_kind)


def __getattr__(name: str):
    if name.startswith("_"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return _find_class(name)
