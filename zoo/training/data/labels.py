"""What files and columns say of classes, as numbers."""

from collections.abc import Mapping, Sequence

import torch
from timm.utils import natural_key
from torch import Tensor

from zoo.checks import shown, some

Label = int | str  # the number of a class, or its name


def number_labels(
    parts: Mapping[str, Sequence[Label | list[Label]]], classes: Sequence[str] = (), *, several: bool = False
) -> tuple[tuple[str, ...], dict[str, Tensor]]:
    """The names of the classes, and the labels of each part.

    Args:
        parts: What each example has, by part: a class, or of `several` a list of them.
        classes: Their names in the order of their numbers; without them, as many as the numbers in ``train`` go up to,
            or the names in ``train`` in natural order.
        several: Whether an example may have any number of classes.

    Shape: ``(N,)`` of whole numbers, or of `several` ``(N, num_classes)`` of 0 and 1.

    Example:
        >>> number_labels({"train": ["b", "a10", "a9"]})
        (('a9', 'a10', 'b'), {'train': tensor([2, 1, 0])})
        >>> number_labels({"train": [[2], [], [0, 2]]}, several=True)[1]["train"].tolist()
        [[0.0, 0.0, 1.0], [0.0, 0.0, 0.0], [1.0, 0.0, 1.0]]

    Raises:
        ValueError: Names and numbers are mixed, or a label is none of the classes.
    """
    lists = {part: values if several else [[value] for value in values] for part, values in parts.items()}
    kinds = {type(label) for values in lists.values() for each in values for label in each}
    if len(kinds) > 1:
        raise ValueError("some labels are numbers and others names: give all as names, or all as numbers of classes")
    in_training = {label for each in lists["train"] for label in each}
    names = tuple(classes)
    if kinds == {int}:
        names = names or tuple(map(str, range(max(in_training, default=-1) + 1)))
        numbers = {number: number for number in range(len(names))}
    else:
        names = names or tuple(sorted(in_training, key=natural_key))
        numbers = {name: number for number, name in enumerate(names)}
    labels = {}
    for part, values in lists.items():
        if unknown := sorted({label for each in values for label in each} - numbers.keys()):
            known = f"the {len(names)} classes are {some(names)}"
            raise ValueError(f"{part} has labels that are no class: {some(map(shown, unknown))}; {known}")
        rows = [[numbers[label] for label in each] for each in values]
        labels[part] = _multi_hot(rows, len(names)) if several else torch.tensor([row[0] for row in rows])
    return names, labels


def _multi_hot(rows: Sequence[Sequence[int]], classes: int) -> Tensor:
    labels = torch.zeros(len(rows), classes)
    for number, row in enumerate(rows):
        labels[number, list(row)] = 1
    return labels
