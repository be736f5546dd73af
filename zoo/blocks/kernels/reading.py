"""What the values of a tensor say, read once and remembered: which of several paths is right for them, for example.

A Python attribute that is set beside a tensor is stale as soon as somebody writes the tensor: an average of weights,
`torch.func.functional_call`, a broadcast between processes, `copy_`. So nothing is noted beside a tensor; a function of
its values is asked each time, and remembers its answer for as long as the tensor holds these values.
"""

import functools
import weakref
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

from zoo.blocks.kernels import guard

Answer = TypeVar("Answer")


def reading(otherwise: Answer) -> Callable[[Callable[[Tensor], Answer]], Callable[[Tensor], Answer]]:
    """Make a function of a tensor's values remember its answers; ``__wrapped__`` is the function itself.

    The memory belongs to the tensor: copies, pickles, and a tensor in the place of another are read anew. On a CPU the
    values are compared with those of the answer, which also finds what is written past torch's count of versions
    (through `.data`, or by a collective). Elsewhere to compare would be to wait for the device in every forward pass:
    there the count alone tells.

    Args:
        otherwise: The answer where values cannot be read, as in a program that is recorded, under `torch.func`, or on
            meta. It must lead to a form that is right for all values.

    Example:
        >>> @reading(otherwise=None)
        ... def largest(x):
        ...     return x.max().item()
        >>> x = torch.tensor([1.0, 2.0])
        >>> before = largest(x)
        >>> x.data[0] = 5.0
        >>> before, largest(x), largest(x.to("meta"))
        (2.0, 5.0, None)
    """

    def decorate(read: Callable[[Tensor], Answer]) -> Callable[[Tensor], Answer]:
        known: dict[int, tuple[weakref.ref, Any, Answer]] = {}

        @functools.wraps(read)
        def remembered(tensor: Tensor) -> Answer:
            if not guard.plain(tensor):
                return otherwise
            key = id(tensor)
            reference, values, answer = known.get(key, (_nothing, None, otherwise))
            if reference() is tensor and _holds(tensor, values):
                return answer
            with torch.no_grad():
                answer = read(tensor)
                values = tensor.detach().clone() if tensor.device.type == "cpu" else _version(tensor)
            known[key] = weakref.ref(tensor, lambda _: known.pop(key, None)), values, answer
            return answer

        return remembered

    return decorate


def _nothing() -> None:
    return None


def _holds(tensor: Tensor, values: Tensor | int | None) -> bool:
    """Whether the tensor still is as it was when these values, or this version, were noted."""
    if isinstance(values, Tensor):
        return tensor.device.type == "cpu" and tensor.dtype is values.dtype and torch.equal(tensor, values)
    return values is not None and values == _version(tensor)


def _version(tensor: Tensor) -> int | None:
    """How often torch has seen it written; None for a tensor of inference mode, of which torch does not count that."""
    return None if tensor.is_inference() else tensor._version
