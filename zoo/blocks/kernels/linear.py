"""Linear layers and what follows them: in inference on the CPU by oneDNN (`zoo.blocks.kernels.onednn`).

A layer is called as the module that it is wherever the fast product does not hold: hooks, adapters, tracers and
counters then see it.
"""

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional as F

from zoo.blocks.kernels import onednn
from zoo.blocks.kernels.guard import bare

# Activations that the product takes along, by class: ``act(F.linear(x, weight, bias))`` in one call.
FUSED: dict[type[nn.Module], Callable[[Tensor, Tensor, Tensor | None, nn.Module], Tensor]] = {
    nn.GELU: lambda x, weight, bias, act: onednn.linear(x, weight, bias, "gelu", act.approximate)
}


def product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``x @ weight.t() + bias`` for tensors that belong to no layer.

    Shape: ``(*, in_features) -> (*, out_features)``.
    """
    return (onednn.linear if onednn.usable(x, weight) else plain_product)(x, weight, bias)


plain_product = F.linear


def linear(x: Tensor, fc: nn.Module) -> Tensor:
    """``fc(x)``; in inference on the CPU by the faster product."""
    if bare(fc, nn.Linear) and onednn.usable(x, fc.weight):
        return onednn.linear(x, fc.weight, fc.bias)
    return plain_linear(x, fc)


def plain_linear(x: Tensor, fc: nn.Module) -> Tensor:
    """`linear`, the layer called."""
    return fc(x)


def linear_act(x: Tensor, fc: nn.Module, act: nn.Module) -> Tensor:
    """``act(fc(x))``; in inference on the CPU a GELU costs no pass over memory of its own, a StarReLU one."""
    if _fuses(x, fc, act):
        return FUSED[type(act)](x, fc.weight, fc.bias, act)
    return plain_linear_act(x, fc, act)


def plain_linear_act(x: Tensor, fc: nn.Module, act: nn.Module) -> Tensor:
    """`linear_act`, layer and activation called."""
    return act(fc(x))


def linear_act_halves(x: Tensor, fc: nn.Module, act: nn.Module) -> tuple[Tensor, Tensor]:
    """The two halves of ``act(fc(x))``, each contiguous (see `halves`)."""
    if _fuses(x, fc, act):
        fused = FUSED[type(act)]
        first, second = (fused(x, weight, bias, act) for weight, bias in _cut(fc))
        return first, second
    first, second = halves(x, fc)
    return act(first), act(second)


def plain_linear_act_halves(x: Tensor, fc: nn.Module, act: nn.Module) -> tuple[Tensor, Tensor]:
    """`linear_act_halves`, layer and activation called."""
    return act(fc(x)).chunk(2, dim=-1)


def _fuses(x: Tensor, fc: nn.Module, act: nn.Module) -> bool:
    return type(act) in FUSED and bare(act, type(act)) and bare(fc, nn.Linear) and onednn.usable(x, fc.weight)


def halves(x: Tensor, fc: nn.Module) -> tuple[Tensor, Tensor]:
    """The two halves of ``fc(x)``, each contiguous.

    Two products with contiguous results are faster than one product and two strided halves, which whatever comes next
    would have to copy.
    """
    if not bare(fc, nn.Linear) or type(fc.weight) not in (Tensor, nn.Parameter):  # symbolic or quantised: not to cut
        return plain_halves(x, fc)
    by = onednn.linear if onednn.usable(x, fc.weight[: fc.out_features // 2]) else F.linear
    first, second = (by(x, weight, bias) for weight, bias in _cut(fc))
    return first, second


def plain_halves(x: Tensor, fc: nn.Module) -> tuple[Tensor, Tensor]:
    """`halves`, the layer called."""
    return fc(x).chunk(2, dim=-1)


def _cut(fc: nn.Linear) -> list[tuple[Tensor, Tensor | None]]:
    """Weight and bias of each half of the outputs."""
    biases = (None, None) if fc.bias is None else fc.bias.chunk(2)
    return list(zip(fc.weight.chunk(2), biases, strict=True))
