"""The blocks: mixers, norms and activations in one layout, ``(B, *S, C)``.

``zoo.blocks.Mlp`` and every other public class of this folder can be imported from here; the modules are read on first
use. By name, with options in a string, blocks are made by `zoo.create_block`.
"""

from zoo.slots.table import find_class as _find_class


def __getattr__(name: str):
    if name.startswith("_"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return _find_class(name)
