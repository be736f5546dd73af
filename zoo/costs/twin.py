"""A copy of the structure of a model that can be traced to count its costs, whatever stands around the modules."""

import copy
from collections.abc import Iterator
from types import FunctionType, MethodType

import torch
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from zoo.blocks.kernels import private
from zoo.blocks.mixer import offers


def twin_of(model: nn.Module, on_meta: bool, training: bool = False) -> nn.Module:
    """A copy of the structure in eval mode, whose tensors are empty on meta, or else share or copy the originals.

    For training it is in training mode, and its parameters have gradients if those of the original do.

    Of what wraps a module the copy has the module alone, and of a compiled method the method.
    """
    memo = {}
    for module in model.modules():
        for _, tensor in (*module.named_parameters(recurse=False), *_other_tensors(module)):
            is_parameter = isinstance(tensor, nn.Parameter)
            if on_meta:
                twin = torch.empty_like(tensor, device="meta", requires_grad=False)
            else:
                twin = tensor.detach() if is_parameter else tensor.detach().clone()
            needs_grad = training and tensor.requires_grad
            memo[id(tensor)] = nn.Parameter(twin, requires_grad=needs_grad) if is_parameter else twin
    for module in _inner_first(model, {}):
        if (core := inner(module)) is not module:
            memo[id(module)] = copy.deepcopy(core, memo)
    twin = copy.deepcopy(model, memo).train(training)
    for module in twin.modules():
        _uncompile(module, memo)
        _unfuse(module)
        for name, tensor in _other_tensors(module):
            vars(module).pop(name, None)
            module.register_buffer(name, tensor)  # the tracer knows persistent buffers only
    if offers(twin, "set_grad_checkpointing"):
        twin.set_grad_checkpointing(False)  # the reentrant kind cannot be traced
    return twin


def _inner_first(module: nn.Module, seen: dict[nn.Module, None]) -> Iterator[nn.Module]:
    """All modules, each after those inside it."""
    if module not in seen:
        seen[module] = None
        for child in module.children():
            yield from _inner_first(child, seen)
        yield module


def inner(module: nn.Module) -> nn.Module:
    """What a wrapper calls; a module that is none as it is."""
    while True:
        if private.COMPILED_MODULE in module._modules:
            module = module._modules[private.COMPILED_MODULE]
        elif isinstance(module, (nn.DataParallel, nn.parallel.DistributedDataParallel, AveragedModel, ModelEmaV3)):
            module = module.module
        else:
            return module


def _uncompile(module: nn.Module, copies: dict) -> None:
    """Put functions in place of compiled ones: ``module.forward = torch.compile(module.forward)``, or in its class.

    Args:
        module: The copy of a module.
        copies: By `id` of an original, its copy: methods are bound to these.
    """
    inherited = {name: value for kind in reversed(type(module).__mro__) for name, value in vars(kind).items()}
    for name, value in (inherited | vars(module)).items():
        plain = value
        # What the compiler puts into the class of all modules wraps nothing; a graph of torch.fx has nameless globals.
        while (
            isinstance(plain, FunctionType)
            and plain.__globals__.get("__name__", "").startswith(private.COMPILER)
            and hasattr(plain, "__wrapped__")
        ):
            plain = plain.__wrapped__
        if plain is not value:
            if isinstance(plain, MethodType):
                plain = MethodType(plain.__func__, copies.get(id(plain.__self__), plain.__self__))
            vars(module)[name] = plain if name in vars(module) else MethodType(plain, module)


def _other_tensors(module: nn.Module) -> list[tuple[str, Tensor]]:
    """Buffers, and tensors that are plain attributes."""
    attributes = [(name, value) for name, value in vars(module).items() if isinstance(value, Tensor)]
    return [*module.named_buffers(recurse=False), *attributes]


def _unfuse(module: nn.Module) -> None:
    """Keep torch's attention from its fused inference path, whose single operator hides what it computes.

    In training it takes the other one. The switch that torch has for it is one for all threads of the process.
    """
    if isinstance(module, (nn.MultiheadAttention, nn.TransformerEncoderLayer)):
        module.training = True
    if isinstance(module, nn.MultiheadAttention):
        module.dropout = 0.0
