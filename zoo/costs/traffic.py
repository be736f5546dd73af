"""Bytes that one operator reads and writes, of its tensors: as if it ran alone, with nothing in a cache.

An operator that only views moves nothing. Of an expanded tensor each stored number counts once. What picks rows out of
a tensor reads the rows alone; what adds into places reads and writes these alone.
"""

import math
from collections.abc import Sequence

from torch import Tensor


def _named(names: str) -> frozenset[str]:
    return frozenset(f"aten::{name}" for name in names.split())


# Memory that nobody writes yet.
_EMPTY = _named("empty empty_like new_empty empty_strided new_empty_strided empty_permuted")
# What is overwritten is not read before.
_OVERWRITING = _named("copy_ fill_ zero_ random_ uniform_ normal_ bernoulli_ exponential_ log_normal_ set_ resize_")
_PICKING = _named("embedding index index_select gather take _unsafe_index slice_copy select_copy masked_select")
_PUTTING = _named(
    "index_put_ _index_put_impl_ index_add_ index_copy_ index_fill_ scatter_ scatter_add_ scatter_reduce_ masked_fill_ "
    "masked_scatter_ put_"
)


def traffic(name: str, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> tuple[int, int]:
    """Bytes read and written.

    Args:
        name: Of the operator, with its namespace.
        inputs: Its tensors, each once.
        outputs: What it gave; a tensor that is among the inputs was written in place.
    """
    if name in _EMPTY:
        return 0, 0
    known = {id(t) for t in inputs}
    places = {id(t.untyped_storage()) for t in inputs}
    in_place = [t for t in outputs if id(t) in known]
    new = [t for t in outputs if id(t) not in known and id(t.untyped_storage()) not in places]
    if not in_place and not new:
        return 0, 0  # views of what was there
    read, written = sum(map(stored_bytes, inputs)), sum(map(stored_bytes, (*in_place, *new)))
    target = stored_bytes(inputs[0]) if inputs else 0
    if name in _OVERWRITING:
        return read - target, written
    if name in _PICKING:
        return read - target + written, written
    if name in _PUTTING:
        touched = max(map(stored_bytes, inputs[1:]), default=0)
        return read - target + min(touched, target), min(touched, target)
    return read, written


def stored_bytes(t: Tensor) -> int:
    """Bytes of the numbers that a tensor has in memory: a dimension that is expanded counts once."""
    if not t.numel():
        return 0
    return math.prod(n for n, step in zip(t.shape, t.stride(), strict=True) if step) * t.element_size()
