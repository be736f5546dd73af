"""A share of the training examples, drawn for validation where the data have no part for it."""

from collections.abc import Hashable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from zoo.training.seeds import SPLIT, generator


def hold_out(
    labels: Tensor, share: float, seed: int, groups: Sequence[Hashable] | None = None
) -> tuple[Tensor, Tensor]:
    """Draw a share of every class; of several labels an example, of every label.

    A class has its share within an example, and all together too: what rounding leaves of one is added to the next. One
    example of a class stays in training at least, and one of the largest class is drawn. Labels are gone through from
    the rarest on, since the examples of those are the fewest to choose from.

    Args:
        labels: Numbers of classes ``(N,)``, or for each class whether an example has it, ``(N, num_classes)``.
        share: How much is drawn, between 0 and 1.
        seed: What the draw follows from, with the labels.
        groups: What each example belongs to, such as a patient; none is parted, and it is groups that are counted.

    Returns:
        The indices of those that stay, and of those that are drawn, each in ascending order.

    Example:
        >>> kept, drawn = hold_out(torch.tensor([0] * 20 + [1] * 10), 0.1, seed=0)
        >>> len(kept), (drawn < 20).tolist()
        (27, [True, True, False])
    """
    if groups is not None:
        _, group_of = np.unique(np.asarray(groups), return_inverse=True)
        return _by_group(labels, share, seed, torch.from_numpy(group_of))
    rng, left = generator(seed, SPLIT), 0.0
    free, drawn = torch.ones(len(labels), dtype=torch.bool), torch.zeros(len(labels), dtype=torch.bool)
    for members in sorted(_classes(labels), key=len):
        still = members[free[members]]
        wanted = share * len(members) - int(drawn[members].sum()) + left
        must_stay = int(len(still) + int(drawn[members].sum()) == len(members))  # none of them is in training yet
        count = max(min(int(wanted + 0.5), len(still) - must_stay), 0)
        drawn[still[torch.randperm(len(still), generator=rng)[:count]]] = True
        free[still] = False
        left = min(max(wanted - count, -0.5), 0.5)
    if not drawn.any() and len(members) > 1:
        drawn[members[torch.randint(len(members), (1,), generator=rng)]] = True
    return (~drawn).nonzero().flatten(), drawn.nonzero().flatten()


def _classes(labels: Tensor) -> Iterator[Tensor]:
    """The indices of the examples of each class that has any; those without a label are a class too."""
    if labels.ndim == 1:
        order = labels.argsort(stable=True)
        yield from order.split(torch.bincount(labels).tolist())
    else:
        has = labels == 1
        yield from (column.nonzero().flatten() for column in (*has.unbind(1), ~has.any(1)))


def _by_group(labels: Tensor, share: float, seed: int, group_of: Tensor) -> tuple[Tensor, Tensor]:
    if labels.ndim == 1:
        labels = torch.nn.functional.one_hot(labels)
    has = torch.zeros(int(group_of.max()) + 1, labels.shape[1], dtype=torch.long)
    has.index_add_(0, group_of, (labels == 1).long())
    _, drawn = hold_out((has > 0).long(), share, seed)
    is_drawn = torch.isin(group_of, drawn)
    return (~is_drawn).nonzero().flatten(), is_drawn.nonzero().flatten()
