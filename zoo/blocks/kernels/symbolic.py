"""What `torch.fx` needs that it finds its way through a model: it follows symbols, which have no values and no shapes.

Functions that look at the sizes of a tensor are wrapped by `torch.fx.wrap` where they are called, and become one node
each. A module that cannot be followed at all becomes one node too, by `as_leaf`.
"""

import operator
from typing import Any

from torch import Tensor, fx, nn

from zoo.blocks.kernels import guard


def is_symbol(value: Any) -> bool:
    """Whether symbolic tracing stands behind a value."""
    return isinstance(value, fx.Proxy)


def as_leaf(module: nn.Module, x: Tensor, **keywords) -> Any:
    """The call of a module as a node of its own, for a symbol; its outputs can be told apart by unpacking."""
    return x.tracer.create_proxy("call_module", x.tracer.path_of_module(module), (x,), keywords)


def settled(argument: Any, default: Any) -> Any:
    """An argument of a model's call: symbolic tracing gives a symbol for each, and follows the default."""
    return default if is_symbol(argument) else argument


def settle_sizes(x: Tensor, *dims: int) -> None:
    """Make sizes of a tensor constants of the program that is being compiled; other sizes then have one of their own.

    For what cuts a grid into parts. From the second size on the compiler takes sizes as unknown numbers, and each
    quotient and remainder of those costs it more than the last: minutes, for a small Swin. Of how many sizes programs
    are kept is torch's setting (`torch._dynamo.config.recompile_limit`, 8); more run uncompiled. An exporter keeps the
    sizes it was told to keep open.
    """
    if guard.compiling() and not guard.exporting():
        for dim in dims:
            operator.index(x.shape[dim])
