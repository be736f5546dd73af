"""What backward passes written by hand have in common."""

from collections.abc import Sequence

import torch
from torch import Tensor


def gradients(
    y: Tensor, inputs: Sequence[Tensor], wanted: Sequence[bool], grad: Tensor, *, create_graph: bool
) -> tuple[Tensor | None, ...]:
    """By autograd, the gradients of the wanted inputs, and None for the others.

    Args:
        y: What was computed of the inputs, in operations that autograd knows.
        inputs: The inputs of a `torch.autograd.Function`.
        wanted: For each whether it needs a gradient.
        grad: Gradient of `y`.
        create_graph: Whether these gradients may be differentiated again.
    """
    chosen = [tensor for tensor, want in zip(inputs, wanted, strict=True) if want]
    found = iter(torch.autograd.grad(y, chosen, grad, create_graph=create_graph))
    return tuple(next(found) if want else None for want in wanted)
