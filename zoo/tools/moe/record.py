"""What the routers of a model choose while it runs on data."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from zoo.blocks.moe.layer import MoE
from zoo.blocks.moe.routing import Routing
from zoo.tools.kan.record import evaluating

Batches = Tensor | Iterable


@dataclass(frozen=True)
class Choices:
    """What a router chose for a batch.

    Attributes:
        tokens: What it saw, ``(T, dim)``.
        experts: The choices, ``(T, K)``, those that were dropped afterwards included; `num_experts` for an empty one.
        num_experts: Number of experts.
        dropped: Whether a choice was dropped for want of room.
    """

    tokens: Tensor
    experts: Tensor
    num_experts: int
    dropped: bool

    def counts(self, samples: int) -> Tensor:
        """Number of choices of each expert by each sample, ``(samples, E)``."""
        experts = self.experts.reshape(samples, -1)
        hits = torch.zeros(samples, self.num_experts + 1, device=experts.device)
        return hits.scatter_add(1, experts, torch.ones_like(experts, dtype=hits.dtype))[:, :-1]


def mixtures(model: nn.Module) -> dict[str, MoE]:
    """Every mixture of experts of a model by its name; one alone has the name "".

    Raises:
        ValueError: There is none.
    """
    by_name = {name: module for name, module in model.named_modules() if isinstance(module, MoE)}
    if not by_name:
        raise ValueError(f'{type(model).__name__} has no mixture of experts; zoo.upcycle(model, "moe") makes one')
    return by_name


def choices_of(model: nn.Module, x: Tensor, task: int | str | None = None) -> dict[str, Choices]:
    """What each router chooses for a batch, by the name of its mixture; the model runs in eval mode.

    Args:
        model: A model with mixtures of experts.
        x: Its input.
        task: The task to ask for, as the model takes it; None to ask for none.
    """
    by_name = mixtures(model)
    seen: dict[str, list[tuple[Tensor, Routing]]] = {name: [] for name in by_name}
    dropped: dict[str, bool] = dict.fromkeys(by_name, False)

    def note(name: str):
        return lambda router, args, routing: seen[name].append((args[0].flatten(0, 1), routing))

    def compare(name: str, dispatch: nn.Module, args: tuple, kept: Routing) -> None:
        dropped[name] |= kept is not args[0] and not torch.equal(kept.experts, args[0].experts)

    handles = [mixture.router.register_forward_hook(note(name)) for name, mixture in by_name.items()]
    handles += [mixture.dispatch.register_forward_hook(partial(compare, name)) for name, mixture in by_name.items()]
    try:
        with evaluating(model):
            model(x.to(next(model.parameters()).device), **({} if task is None else {"task": task}))
    finally:
        for handle in handles:
            handle.remove()
    return {
        name: Choices(
            torch.cat([tokens for tokens, _ in parts]),
            torch.cat([routing.experts for _, routing in parts]),
            by_name[name].num_experts,
            dropped[name],
        )
        for name, parts in seen.items()
        if parts
    }


def pairs(batches: Batches) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Inputs and labels of each batch: of a tensor, of tensors, or of tuples that begin with these two.

    Raises:
        ValueError: There is no batch.
    """
    empty = True
    for batch in [batches] if isinstance(batches, Tensor) else batches:
        empty = False
        inputs, labels, *_ = (batch, None) if isinstance(batch, Tensor) else (*batch, None)
        yield inputs, labels
    if empty:
        raise ValueError("there is no batch of data; give a tensor, or a list or loader of batches")
