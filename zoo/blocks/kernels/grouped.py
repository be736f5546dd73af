"""Linear maps of several experts over rows that are sorted by expert."""

import torch
from torch import Tensor
from torch.nn import functional as F

from zoo.blocks.kernels import cost


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, ends: Tensor) -> Tensor:
    """``F.linear`` of each expert's rows with its weight and bias.

    Args:
        x: Rows sorted by expert, ``(R, in)``.
        weight: ``(E, out, in)``.
        bias: ``(E, out)`` or None.
        ends: ``(E,)`` int32, where the rows of each expert end; what comes out for rows behind the last is undefined.

    Shape: ``(R, in) -> (R, out)``.
    """
    if cost.counting():  # the sizes of the groups change nothing
        return F.linear(x, weight[0], None if bias is None else bias[0])
    parts, start = [], 0
    for e, end in enumerate(ends.tolist()):
        parts.append(F.linear(x[start:end], weight[e], None if bias is None else bias[e]))
        start = end
    parts.append(x.new_zeros(len(x) - start, weight.shape[1]))
    return torch.cat(parts)
