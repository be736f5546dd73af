"""Who may be watching: the one place that asks whether a fast path may run.

A fast path reads values on the host, writes in place, or calls what autograd, a compiler or a counter cannot see into.
That is right only while nobody records, transforms or differentiates what is computed. Everywhere else the plain twin
of the same signature runs. Torch's private functions that answer such questions are in `zoo.blocks.kernels.private`.
"""

import torch
from torch import Tensor, nn

from zoo.blocks.kernels import private
from zoo.blocks.kernels.private import transformed

__all__ = [
    "bare",
    "compiling",
    "differentiated",
    "exporting",
    "plain",
    "readable",
    "recording",
    "takes_operators",
    "to_onnx",
    "tracing",
    "transformed",
]


def compiling() -> bool:
    """Whether a compiler or an exporter reads the program, which cannot follow all of Python.

    `torch.jit.trace` runs it as it stands, and so does `zoo.count_flops`, which traces.
    """
    return torch.compiler.is_compiling()


def exporting() -> bool:
    """Whether it is `torch.export` that reads the program, which then runs on all sizes that its caller left open."""
    return torch.compiler.is_exporting()


def takes_operators() -> bool:
    """Whether a compiler reads the program that takes operators of our own: no exporter, and under no transform."""
    return compiling() and not exporting() and not transformed()


def recording() -> bool:
    """Whether a program is being recorded that will run on other values, and on batches of other sizes.

    Compilers, exporters and `torch.jit.trace` do that. Then nothing may be read off the values of a tensor, and no
    size may become a constant (``x.shape[0]`` stays a symbol to all of them, ``len(x)`` does not).
    """
    return compiling() or tracing()


def tracing() -> bool:
    """Whether `torch.jit.trace` runs the program, which records each look at a size too."""
    return torch.jit.is_tracing()


@torch.compiler.assume_constant_result  # the compiler behind `torch.export(strict=True)` answers no by itself
def to_onnx() -> bool:
    """Whether what is recorded becomes an ONNX file, which has no operators of our own and no stable sort."""
    return torch.onnx.is_in_onnx_export()


def readable(*tensors: Tensor | None) -> bool:
    """Whether these have values here and now that the host may read, to decide what is run.

    False while a program is recorded or a function transformed; for subclasses of tensors (distributed, quantised, fake
    ones); for meta tensors; and for those that `torch.autograd.grad(is_grads_batched=True)` makes. A mode that only
    looks on, as FLOP counters and selective checkpointing do, changes nothing. None among the tensors is left out.
    """
    return (
        not recording()
        and not transformed()
        and all(
            t is None or (type(t) in (Tensor, nn.Parameter) and not t.is_meta and not private.is_batched_gradient(t))
            for t in tensors
        )
    )


def plain(*tensors: Tensor | None) -> bool:
    """Whether these are `readable` and no mode sees every operator, so that a fast path may do what it likes."""
    return readable(*tensors) and not private.dispatch_modes()


def bare(module: nn.Module, cls: type[nn.Module]) -> bool:
    """Whether a module is exactly of a class and nothing hooks into its call.

    Only then may the module around it use its weights without calling it: adapters, parametrisations and FSDP exchange
    the module, its class, or what happens around its call.
    """
    return type(module) is cls and not module._forward_hooks and not module._forward_pre_hooks


def differentiated(*tensors: Tensor | None) -> bool:
    """Whether autograd records what is computed of these tensors."""
    return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)
