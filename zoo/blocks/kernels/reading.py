"""What the values of a tensor say, read once and remembered: which of several paths is right for them, for example.

A Python attribute that is set beside a tensor is stale as soon as somebody writes the tensor: an average of weights,
`torch.func.functional_call`, a broadcast between processes, `copy_`. So nothing is noted beside a tensor; a function of
its values is asked each time, and remembers its answer for as long as the tensor holds these values.
"""

import functools
import weakref
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

import torch
from torch import Tensor

from zoo.blocks.kernels import guard, private

Answer = TypeVar("Answer")


def reading(otherwise: Answer, *, compare: bool = True) -> Callable[[Callable[..., Answer]], Callable[..., Answer]]:
    """Make a function of a tensor's values remember its answers; ``__wrapped__`` is the function itself.

    Arguments behind the tensor are hashable, and each has an answer of its own.

    The memory belongs to the tensor: copies, pickles, and a tensor in the place of another are read anew. On a CPU the
    values are compared with those of the answer, which also finds what is written past torch's count of versions
    (through `.data`, or by a collective). Elsewhere to compare would be to wait for the device in every forward pass:
    there the count alone tells.

    Args:
        otherwise: The answer where values cannot be read, as in a program that is recorded, under `torch.func`, or on
            meta. It must lead to a form that is right for all values.
        compare: False where to read is no slower than to compare: on a CPU that is done each time then.

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

    def decorate(read: Callable[..., Answer]) -> Callable[..., Answer]:
        known: dict[tuple, tuple[weakref.ref, Any, Answer]] = {}

        @functools.wraps(read)
        def remembered(tensor: Tensor, *arguments: Hashable) -> Answer:
            if not guard.readable(tensor):
                return otherwise
            near = tensor.device.type == "cpu"
            if near and not compare:
                return read(tensor, *arguments)
            key = (id(tensor), *arguments)
            if key in known and known[key][0]() is tensor:
                _, values, answer = known[key]
                if _same(tensor, values) if near else values == private.version(tensor) is not None:
                    return answer
            with torch.inference_mode(False), torch.no_grad():  # an answer may be tensors, for training later too
                answer, values = read(tensor, *arguments), tensor.detach().clone() if near else private.version(tensor)
            known[key] = weakref.ref(tensor, lambda _: known.pop(key, None)), values, answer
            return answer

        return remembered

    return decorate


def _same(tensor: Tensor, values: Tensor | int | None) -> bool:
    return isinstance(values, Tensor) and tensor.dtype is values.dtype and torch.equal(tensor, values)
