"""Rules the other way: from zoo's tensors back to the published keys.

A rule is a pattern and, at times, an operation; neither has an inverse that could be written down. But rules only move
numbers about, so where each goes can be watched: every element of the published tensors is given a number of its own,
the rules are applied to these, and what arrives says where it came from.
"""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from zoo.checks import some
from zoo.weights.rules import Rules, StateDict, fit_of


class NoWayBack(ValueError):
    """Tensors cannot be written under the published keys."""


def published_keys(state: StateDict, published: StateDict, rules: Rules) -> dict[str, Tensor]:
    r"""Tensors of zoo under the keys and in the shapes of a published checkpoint, bit for bit.

    Example:
        >>> from zoo.weights.rules import rename, transpose
        >>> rules = [rename(r"^fc\.kernel$", "head.weight", transpose)]
        >>> state, published = {"head.weight": torch.ones(2, 3)}, {"fc.kernel": torch.empty(3, 2, device="meta")}
        >>> {key: tuple(value.shape) for key, value in published_keys(state, published, rules).items()}
        {'fc.kernel': (3, 2)}

    Args:
        state: zoo's tensors, with values.
        published: The state dict of the published model; only names and shapes are read, so it may be on meta.
        rules: From the published keys to zoo's.

    Raises:
        NoWayBack: A key has no counterpart, such as one that the rules leave out, or the rules do more than to move
            numbers.
    """
    rules = tuple(rules)
    numbered, first = {}, 1  # some rules leave out what is 0
    for key, value in published.items():
        numbered[key] = torch.arange(first, first + value.numel()).reshape(value.shape)
        first += value.numel()
    try:
        arrived = fit_of(numbered, state, rules, "the published model", {}).check("the published model")
    except ValueError as error:
        raise NoWayBack(f"{error}") from error
    found = dict(_sent_back(state, arrived, numbered))
    if lost := [key for key in published if key not in found]:
        raise NoWayBack(f"nothing here becomes {some(lost, 4)}")
    again = fit_of(found, state, rules, "the published model", {}).tensors
    if changed := [key for key, value in state.items() if not same(again[key], value)]:
        raise NoWayBack(f"the rules do more to {some(changed, 4)} than to move it")
    return {key: found[key] for key in published}


def same(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are equal bit for bit and in kind, also where they hold what is no number."""
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    return torch.equal(*(x.detach().contiguous().view(-1).view(torch.uint8) for x in (one, other)))


def _sent_back(state: StateDict, arrived: StateDict, numbered: StateDict) -> Iterator[tuple[str, Tensor]]:
    """Every published tensor all of whose elements arrived somewhere, once each, put together of zoo's tensors."""
    for key, pieces in _pieces(state, arrived, numbered).items():
        kinds, size = {value.dtype for _, value in pieces}, numbered[key].numel()
        if len(kinds) > 1 or sum(value.numel() for _, value in pieces) != size:
            continue
        if len(pieces) == 1 and torch.equal(pieces[0][0], torch.arange(size)):
            yield key, pieces[0][1].reshape(numbered[key].shape).clone()
            continue
        tensor, seen = torch.empty(size, dtype=kinds.pop()), torch.zeros(size, dtype=torch.bool)
        for places, value in pieces:
            tensor[places], seen[places] = value, True
        if seen.all():
            yield key, tensor.reshape(numbered[key].shape)


def _pieces(state: StateDict, arrived: StateDict, numbered: StateDict) -> Mapping[str, list[tuple[Tensor, Tensor]]]:
    """By published key, the places in it that were found in zoo's tensors, and the values there."""
    keys, sizes = list(numbered), [value.numel() for value in numbered.values()]
    firsts = torch.tensor([int(value.reshape(-1)[0]) if value.numel() else 0 for value in numbered.values()])
    pieces: dict[str, list[tuple[Tensor, Tensor]]] = {key: [] for key in keys}
    for ours, ids in arrived.items():
        ids, value = ids.reshape(-1), state[ours].reshape(-1)
        if not ids.numel():
            continue
        low, high = torch.searchsorted(firsts, torch.stack(ids.aminmax()), right=True).tolist()
        if low == high and ids.max() < firsts[low - 1] + sizes[low - 1]:
            pieces[keys[low - 1]].append((ids - firsts[low - 1], value))
            continue
        for i in range(max(low - 1, 0), high):
            inside = (ids >= firsts[i]) & (ids < firsts[i] + sizes[i])
            pieces[keys[i]].append((ids[inside] - firsts[i], value[inside]))
    return pieces
