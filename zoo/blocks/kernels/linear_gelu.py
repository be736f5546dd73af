"""A linear map and GELU in one pass over memory, for inference on the CPU."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def linear_act(x: Tensor, weight: Tensor, bias: Tensor | None, act: nn.Module) -> Tensor:
    """``act(F.linear(x, weight, bias))``.

    In inference on the CPU, GELU is applied by oneDNN inside the matrix product (the operator that torch's own compiler
    uses), so that the wide hidden layer is written once instead of three times: bias, product, activation. Wherever
    anything else may watch - autograd, autocast, a compiler, an exporter, a tensor subclass - the plain form runs.

    Shape: ``(*, in_features) -> (*, out_features)``.
    """
    if type(act) is nn.GELU and not torch.is_grad_enabled() and _plain_cpu(x) and x.dtype == weight.dtype:
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "gelu", [], act.approximate)
    return act(F.linear(x, weight, bias))


def _plain_cpu(x: Tensor) -> bool:
    return (
        type(x) is Tensor
        and x.device.type == "cpu"
        and x.dtype in (torch.float32, torch.bfloat16)
        and x.numel() > 0
        and _AVAILABLE
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
