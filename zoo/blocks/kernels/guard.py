"""Who may be watching: the one place that asks whether a fast path may run.

A fast path reads values on the host, writes in place, or calls what autograd, a compiler or a counter cannot see into.
That is right only while nobody records, transforms or differentiates what is computed. Everywhere else the plain twin
of the same signature runs. Torch's private functions that answer such questions are here, each with its reason.
"""

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad


def recording() -> bool:
    """Whether a program is being recorded that will run on other values, and on batches of other sizes.

    Compilers, exporters and `torch.jit.trace` do that. Then nothing may be read off the values of a tensor, and no
    size may become a constant (``x.shape[0]`` stays a symbol to all of them, ``len(x)`` does not).
    """
    return torch.compiler.is_compiling() or torch.jit.is_tracing()


def transformed() -> bool:
    """Whether tensors may stand for several, or carry a derivative: `torch.func`, forward-mode differentiation.

    Torch has no public question for either; without these two a fast path would drop a tangent in silence.
    """
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def plain(*tensors: Tensor | None) -> bool:
    """Whether these are ordinary tensors that nobody watches, so that a fast path may look into them.

    False while a program is recorded or a function transformed; while a mode sees every operator (FLOP counters, fake
    tensors); for subclasses of tensors (distributed, quantised, fake ones); for meta tensors; and for those that
    `torch.autograd.grad(is_grads_batched=True)` makes. None among the tensors is left out.
    """
    return (
        not recording()
        and not transformed()
        and not torch._C._len_torch_dispatch_stack()  # public only as a class that asks for the mode itself
        and all(
            t is None
            or (
                type(t) in (Tensor, nn.Parameter)
                and not t.is_meta
                and not torch._C._functorch.is_legacy_batchedtensor(t)  # a Tensor by type, and several by value
            )
            for t in tensors
        )
    )


def differentiated(*tensors: Tensor | None) -> bool:
    """Whether autograd records what is computed of these tensors."""
    return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)
