"""What backward passes written by hand have in common."""

from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

M = TypeVar("M", bound=nn.Module)


def gradients(
    y: Tensor, inputs: Sequence[Tensor], needs: Sequence[bool], grad: Tensor, *, create_graph: bool
) -> tuple[Tensor | None, ...]:
    """By autograd, the gradients of the inputs that need one, and None for the others.

    Args:
        y: What was computed of the inputs, in operations that autograd knows.
        inputs: The inputs of a `torch.autograd.Function`.
        needs: For each whether it needs a gradient.
        grad: Gradient of `y`.
        create_graph: Whether these gradients may be differentiated again.
    """
    chosen = [tensor for tensor, needed in zip(inputs, needs, strict=True) if needed]
    if not y.requires_grad:  # constant in all of them, as steps are in their input
        return tuple(torch.zeros_like(tensor) if needed else None for tensor, needed in zip(inputs, needs, strict=True))
    by_chosen = iter(torch.autograd.grad(y, chosen, grad, create_graph=create_graph, materialize_grads=True))
    return tuple(next(by_chosen) if needed else None for needed in needs)


def held(module: M) -> M:
    """The module with the tensors that it has now, for a backward pass: then others may be in their places.

    `torch.func.functional_call` lends a module its tensors for the forward pass only. A module without tensors is given
    as it is.

    Example:
        >>> layer = nn.Linear(2, 2)
        >>> now, before = held(layer), layer.weight
        >>> layer.weight = nn.Parameter(torch.zeros(2, 2))
        >>> now.weight is before
        True
    """
    children = {name: child if child is None else held(child) for name, child in module._modules.items()}
    unchanged = all(child is module._modules[name] for name, child in children.items())
    if unchanged and not module._parameters and not module._buffers:
        return module
    twin = module.__new__(type(module))
    # What torch gives out by `setattr` and `getattr` lies in these; only a new module of them leaves the old one alone.
    own = {"_parameters": {**module._parameters}, "_buffers": {**module._buffers}, "_modules": children}
    twin.__dict__.update(module.__dict__, **own)
    return twin


def parameters_of(module: nn.Module) -> list[nn.Parameter]:
    """What `module.parameters()` gives, without its search where there is nothing to search."""
    if module._modules:
        return [*module.parameters()]
    return [*dict.fromkeys(parameter for parameter in module._parameters.values() if parameter is not None)]


def with_zero_gradients(y: Tensor, unused: Sequence[Tensor]) -> Tensor:
    """`y`, and zeros as the gradients of tensors that it does not depend on.

    For parameters that stay without a use: plain DDP waits for a gradient of every one. Whatever the gradient of `y`
    is, NaN too, theirs are zeros.
    """
    unused = [tensor for tensor in unused if tensor.requires_grad]
    return _ZeroGradients.apply(y, *unused) if unused and torch.is_grad_enabled() else y


class _ZeroGradients(torch.autograd.Function):
    @staticmethod
    def forward(ctx, y: Tensor, *unused: Tensor) -> Tensor:
        ctx.unused = [(tensor.shape, tensor.dtype, tensor.device) for tensor in unused]
        return y.view_as(y)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, ...]:
        return grad, *(torch.zeros(shape, dtype=dtype, device=device) for shape, dtype, device in ctx.unused)
