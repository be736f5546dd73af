"""Linear maps for inference on the CPU by oneDNN, with bias and GELU or ReLU inside the matrix product.

It is the operator that torch's own compiler uses. Plain torch writes the result two or three times: bias, product,
activation; and in fp32 on AMD its library is slower too. Wherever anything else may watch - autograd, autocast, a
compiler, an exporter, a tensor subclass - `usable` says no, and the caller takes the plain form.
"""

import functools

import torch
from torch import Tensor
from torch.nn import functional as F

from zoo.blocks.kernels import guard, machine, private

# Below, in fp32, the call costs more than it saves (2 threads, on Zen 4 and on Sapphire Rapids).
LEAST_MACS = {torch.float32: 2**22 if machine.AMD else 2**25, torch.bfloat16: 2**22}


def usable(x: Tensor, weight: Tensor) -> bool:
    """Whether `linear` may stand for ``F.linear(x, weight, bias)`` here and now."""
    return (
        not torch.is_grad_enabled()
        and guard.plain(x, weight)
        and x.device.type == "cpu"
        and x.dtype in LEAST_MACS
        and x.dtype == weight.dtype
        and x.numel() * weight.shape[0] >= LEAST_MACS[x.dtype]
        and not torch.is_autocast_enabled("cpu")
        and _available()
    )


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, act: str = "none", approximate: str = "") -> Tensor:
    """``F.linear(x, weight, bias)``, and an activation: ``gelu`` (with its `approximate`), ``relu``, ``swish``.

    Shape: ``(*, in_features) -> (*, out_features)``.
    """
    return private.linear_pointwise(x, weight, bias, act, [], approximate)


def linear_times(x: Tensor, weight: Tensor, bias: Tensor | None, factor: Tensor) -> Tensor:
    """``F.linear(x, weight, bias) * factor``.

    Shape: ``(*, in_features) -> (*, out_features)``.
    """
    return private.linear_pointwise.binary(x, factor, weight, bias, "mul")


@functools.cache
def _available() -> bool:
    """Whether this build of torch has the operator and it computes what it should.

    Asked when it is first needed, not at the import: it starts torch's threads, and a process that is forked after that
    waits for them for ever.
    """
    if private.linear_pointwise is None or not torch.backends.mkldnn.is_available():
        return False
    try:
        here = {"device": "cpu", "dtype": torch.float32}
        x, w, b = torch.ones(2, 3, **here), torch.full((4, 3), 0.5, **here), torch.ones(4, **here)
        with torch.no_grad():
            plain = F.linear(x, w, b)
            pairs = [
                (linear(x, w, b), plain),
                (linear(x, w, b, "gelu", "none"), F.gelu(plain)),
                (linear(x, w, b, "swish"), F.silu(plain)),
                (linear_times(x, w, b, plain), plain * plain),
            ]
            return all(torch.allclose(computed, expected) for computed, expected in pairs)
    except (AttributeError, RuntimeError, TypeError):
        return False
