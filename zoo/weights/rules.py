"""Rules that turn official checkpoint keys into zoo's, strict both ways."""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from zoo.checks import printable, some

StateDict = Mapping[str, Tensor]
Operation = Callable[[Tensor, torch.Size], Tensor]
Operations = Mapping[str, Operation]  # by the key in the model
Target = str | Callable[[re.Match], str]  # a replacement, as `re.sub` takes it


@dataclass(frozen=True)
class Rule:
    """What becomes of the source keys that a pattern matches. Made by `rename`, `stack` and `drop`.

    A rule with `when` holds only for checkpoints that have a key which that pattern matches: a mark of their layout.
    """

    pattern: re.Pattern
    target: Target | None = None
    operation: Operation | None = None
    dim: int | None = None
    reason: str | None = None
    when: re.Pattern | None = None
    order: tuple[str, ...] = ()
    zero: bool = False


Rules = Iterable[Rule]  # in order of priority


def rename(pattern: str, target: Target, operation: Operation | None = None, *, when: str | None = None) -> Rule:
    r"""Matching keys become `target` (``\1`` stands for a group), after an operation on the tensor.

    A function as the target gets the match; that is for numbers which have to be reckoned.

    Example:
        >>> rules = [rename(r"^fc\.(.*)", r"head.\1")]
        >>> list(remap({"fc.bias": torch.zeros(2)}, {"head.bias": torch.zeros(2)}, rules))
        ['head.bias']
    """
    return Rule(re.compile(pattern), target, operation, when=None if when is None else re.compile(when))


def stack(
    pattern: str, target: str, dim: int = 0, operation: Operation | None = None, *, order: Sequence[str] = ()
) -> Rule:
    """All matching keys that give the same target are stacked along a new `dim`, in the order of their numbers.

    With `order` that is their order: the pattern's group ``part`` is one of its entries, and a key for each has to be
    there. An operation is applied to what was stacked.
    """
    return Rule(re.compile(pattern), target, operation, dim=dim, order=tuple(order))


def drop(pattern: str, reason: str, *, zero: bool = False) -> Rule:
    """Matching keys are left out. The reason is for the reader of the family's file.

    With `zero` they are left out only if all their values are 0; else they have no place.
    """
    return Rule(re.compile(pattern), reason=reason, zero=zero)


def reshape(x: Tensor, shape: torch.Size) -> Tensor:
    """Give the tensor the shape that the model has there."""
    return x.reshape(shape)


def transpose(x: Tensor, shape: torch.Size) -> Tensor:
    """Exchange the last two dimensions, as between Flax's kernels and torch's weights."""
    return x.transpose(-1, -2)


HEAD = "head."  # what the keys of a model's classifier begin with


@dataclass
class Fit:
    """What came of a checkpoint's keys: tensors with a place, and what does not fit, each by its key in the model."""

    tensors: dict[str, Tensor] = field(default_factory=dict)
    extra: dict[str, str] = field(default_factory=dict)  # what is said of the source's key
    missing: list[str] = field(default_factory=list)
    shapes: dict[str, tuple[str, torch.Size, torch.Size]] = field(default_factory=dict)  # source's key, its shape, ours
    adapted: list[str] = field(default_factory=list)  # those of the tensors that got their shape here

    def without(self, prefix: str) -> "Fit":
        """All but the keys that begin so."""
        mappings = (self.tensors, self.extra, self.shapes)
        kept = [{k: v for k, v in mapping.items() if not k.startswith(prefix)} for mapping in mappings]
        lists = [[k for k in keys if not k.startswith(prefix)] for keys in (self.missing, self.adapted)]
        return Fit(kept[0], kept[1], lists[0], kept[2], lists[1])

    def wrong(self) -> dict[str, None]:
        """The keys that do not fit, in order."""
        return dict.fromkeys([*self.shapes, *self.missing, *self.extra])

    def classes(self, ours: int) -> int | None:
        """The number of classes of the checkpoint's classifier, if that is what differs from the model's."""
        pairs = [zip(*shapes, strict=False) for key, (_, *shapes) in self.shapes.items() if key.startswith(HEAD)]
        return next((n for pair in pairs for n, m in pair if m == ours != n), None)

    def check(self, name: str, remedy: str = "") -> dict[str, Tensor]:
        """The tensors, if everything fits; otherwise a ValueError that lists what does not."""
        if not self.wrong():
            return self.tensors
        lists = {
            "keys that the model has no place for": list(self.extra.values()),
            "keys that the model needs and the source lacks": self.missing,
            "shapes that differ": [
                f"{printable(origin, 80)}: {tuple(theirs)} in the file, {tuple(ours)} in the model"
                for origin, theirs, ours in self.shapes.values()
            ],
        }
        misfits = "; ".join(f"{title} ({len(keys)}): {some(keys)}" for title, keys in lists.items() if keys)
        raise ValueError(
            f"{name} do not fit the model: {printable(misfits, 1300)}. Create the model with the arguments that the "
            f"weights were made with{remedy}, or choose other weights"
        )


def remap(
    source: StateDict, target: StateDict, rules: Rules, name: str = "weights", *, adapt: Operations | None = None
) -> dict[str, Tensor]:
    """Turn a checkpoint's keys into a model's.

    For each source key the first rule whose pattern matches applies; a key that no rule matches keeps its name.

    Args:
        source: The checkpoint.
        target: The model's state dict; only names and shapes are read.
        rules: In order of priority.
        name: The source's name in error messages.
        adapt: By target key, an operation for a tensor whose shape differs.

    Returns:
        A state dict with exactly the keys of `target`.

    Raises:
        ValueError: A source key has no place, a target stays unfilled, a target is filled twice, or a shape differs;
            all such keys are listed.
    """
    return fit_of(source, target, rules, name, adapt or {}).check(name)


def fit_of(source: StateDict, target: StateDict, rules: Rules, name: str, adapt: Operations) -> Fit:
    """Apply the rules, and note what does not fit."""
    rules = [r for r in rules if r.when is None or any(r.when.search(key) for key in source)]
    fit, stacks = Fit(), defaultdict(list)

    def put(key: str, value: Tensor, origin: str, operation: Operation | None = None) -> None:
        if key not in target:
            fit.extra[key] = origin if origin == key else f"{origin} (-> {key})"
            return
        if key in fit.tensors:
            raise ValueError(
                f"{name}: {printable(origin, 100)} and another key both become {key}; the family's rules are wrong"
            )
        shape = target[key].shape
        try:
            if operation is not None:
                value = operation(value, shape)
            if value.shape != shape and key in adapt:
                value = adapt[key](value, shape)
                fit.adapted.append(key)
        except (RuntimeError, IndexError):
            pass  # a tensor of another shape than the operation is for: it is listed with its own
        if value.shape != shape:
            fit.shapes[key] = (origin, value.shape, shape)
        fit.tensors[key] = value

    for key, value in source.items():
        rule = next((r for r in rules if r.pattern.search(key)), None)
        if rule is None or (rule.zero and value.any()):
            put(key, value, key)
        elif rule.target is None:
            continue
        elif rule.dim is None:
            put(rule.pattern.sub(rule.target, key), value, key, rule.operation)
        else:
            place = [rule.order.index(rule.pattern.search(key)["part"])] if rule.order else natural_key(key)
            stacks[rule.pattern.sub(rule.target, key), rule].append((place, key, value))
    for (key, rule), parts in stacks.items():
        if rule.order and len(parts) != len(rule.order):
            continue  # the target stays unfilled
        parts = sorted(parts, key=lambda part: part[0])
        values = [value for *_, value in parts]
        if odd := next((key for _, key, value in parts if value.shape != values[0].shape), None):
            raise ValueError(
                f"{name}: {some([parts[0][1]])} and {some([odd])} both belong to {some([key])} and differ in shape; "
                "the file is not whole"
            )
        more = f" and {len(parts) - 1} more" if len(parts) > 1 else ""
        put(key, torch.stack(values, rule.dim), parts[0][1] + more, rule.operation)
    fit.missing = [key for key in target if key not in fit.tensors]
    return fit


def natural_key(key: str) -> list:
    """A sort key that puts 10 behind 9."""
    return [int(part) if i % 2 else part for i, part in enumerate(re.split(r"([0-9]{1,18})", key))]
