"""A linear map and GELU in one pass over memory, for inference on the CPU."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.blocks.linear import Linear, halves, is_bare


def linear_act(x: Tensor, fc: nn.Module, act: nn.Module) -> Tensor:
    """``act(fc(x))``.

    In inference on the CPU, GELU is applied by oneDNN inside the matrix product (the operator that torch's own compiler
    uses), so that the wide hidden layer is written once instead of three times: bias, product, activation. Wherever
    anything else may watch - autograd, autocast, a compiler, an exporter, a hook, a tensor subclass - the plain form
    runs.

    Shape: ``(*, in_features) -> (*, out_features)``.
    """
    if _fusible(x, fc, act):
        return torch.ops.mkldnn._linear_pointwise(x, fc.weight, fc.bias, "gelu", [], act.approximate)
    return act(fc(x))


def linear_act_halves(x: Tensor, fc: nn.Module, act: nn.Module) -> tuple[Tensor, Tensor]:
    """The two halves of ``act(fc(x))``, each contiguous."""
    if _fusible(x, fc, act):
        biases = (None, None) if fc.bias is None else fc.bias.chunk(2)
        parts = zip(fc.weight.chunk(2), biases, strict=True)
        return tuple(torch.ops.mkldnn._linear_pointwise(x, w, b, "gelu", [], act.approximate) for w, b in parts)
    first, second = halves(fc, x)
    return act(first), act(second)


def _fusible(x: Tensor, fc: nn.Module, act: nn.Module) -> bool:
    return (
        not torch.is_grad_enabled()
        and _AVAILABLE
        and type(act) is nn.GELU
        and is_bare(fc, Linear)
        and type(x) is Tensor
        and type(fc.weight) is nn.Parameter
        and x.device.type == "cpu"
        and x.dtype in (torch.float32, torch.bfloat16)
        and x.dtype == fc.weight.dtype
        and x.numel() > 0
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
    )


def _available() -> bool:
    """Whether this build of torch has the operator and it computes what it should."""
    if not torch.backends.mkldnn.is_available():
        return False
    try:
        x, w, b = torch.ones(2, 3), torch.full((4, 3), 0.5), torch.ones(4)
        with torch.no_grad():
            y = torch.ops.mkldnn._linear_pointwise(x, w, b, "gelu", [], "none")
        return torch.allclose(y, F.gelu(F.linear(x, w, b)), atol=1e-5)
    except (AttributeError, RuntimeError, TypeError):
        return False


_AVAILABLE = _available()
