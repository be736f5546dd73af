"""Perceptrons stacked as one tensor, run as grouped matrix products."""

import torch
from torch import Tensor, nn

from zoo.blocks.channel.mlp import Mlp
from zoo.blocks.init import InitLike, init_
from zoo.blocks.kernels import grouped
from zoo.blocks.kernels.experts import mixture
from zoo.blocks.linear import Linear, hidden_width, is_bare
from zoo.blocks.moe.experts.base import Experts
from zoo.blocks.moe.routing import Plan
from zoo.blocks.options import placement, pop_options_of, with_options_of
from zoo.checks.ranges import Count, Rate, Width
from zoo.slots import build_act
from zoo.slots.table import register


class GroupedLinear(nn.Module):
    """A linear map for each expert, their weights in one tensor.

    Args:
        init: A scheme of `zoo.blocks.init`, or a tuple of them (see `init_`), applied to each expert by itself.
        same: All experts start alike (V-MoE).

    Shape: rows ``(R, in_features)`` sorted by expert, and where each expert's end ``-> (R, out_features)``.
    Cost: in_features x out_features MACs a row.
    """

    @with_options_of(Linear)
    def __init__(
        self,
        num_experts: Count,
        in_features: Width,
        out_features: Width,
        bias: bool = True,
        *,
        init: InitLike = "trunc_normal",
        same: bool = False,
        **dd,
    ):
        super().__init__()
        self.init, self.same = init, same
        self.weight = nn.Parameter(torch.empty(num_experts, out_features, in_features, **dd))
        self.bias = nn.Parameter(torch.empty(num_experts, out_features, **dd)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        if self.weight.is_meta:
            return  # nothing to draw, for many experts
        weights, biases = self.weight.detach(), None if self.bias is None else self.bias.detach()
        for i in range(1 if self.same else len(weights)):
            init_(weights[i], None if biases is None else biases[i], self.init)
        if self.same:
            for stacked in (weights, biases):
                if stacked is not None:
                    stacked[1:] = stacked[0]

    def forward(self, x: Tensor, ends: Tensor) -> Tensor:
        return grouped.linear(x, self.weight, self.bias, ends)

    def keep(self, chosen: list[int]) -> None:
        """Keep the maps of these experts."""
        for name, parameter in list(self.named_parameters(recurse=False)):
            setattr(self, name, nn.Parameter(parameter.detach()[chosen].clone(), parameter.requires_grad))

    def extra_repr(self) -> str:
        experts, out_features, in_features = self.weight.shape
        return f"{experts} x ({in_features} -> {out_features}), bias={self.bias is not None}"


@register("experts", "mlp")
class MlpExperts(Experts):
    """Two-layer perceptrons, as many as there are experts.

    Args:
        ratio: Hidden width of an expert over `dim`.
        hidden: Hidden width itself, instead of `ratio`.
        act: An activation slot.
        bias: Biases on both maps.
        fc2_bias: Bias on the second map, if it is to differ from `bias`.
        drop: Dropout after the activation and after the second map.
        hidden_drop: Dropout after the activation alone, besides `drop`.
        same: All experts start alike (V-MoE).
        init: A scheme of `zoo.blocks.init`, applied to each expert by itself.

    Shape: tokens ``(T, dim)`` and their plan ``-> (T, dim)``.

    Example:
        >>> MlpExperts(8, 4, ratio=2).fc1.weight.shape
        torch.Size([4, 16, 8])

    Source: Shazeer et al., "Outrageously Large Neural Networks" (arXiv 1701.06538), section 2; the perceptron is that
        of `zoo.blocks.channel.mlp.Mlp`.
    Differs: none known.
    Cost: 2 x dim x hidden MACs a choice.
    Raises: ValueError for a hidden width below 1.
    """

    follows = ("init", "act", "drop")

    gated = False

    @with_options_of(Mlp, GroupedLinear)
    def __init__(self, dim: Width, num_experts: Count, *, hidden_drop: Rate = 0.0, **options):
        super().__init__()
        hidden = hidden_width(type(self).__name__, dim, **pop_options_of(hidden_width, options))
        maps = pop_options_of(GroupedLinear, options) | placement(options)
        bias, fc2_bias, drop = options["bias"], options["fc2_bias"], options["drop"]
        first = {"init": (maps["init"],) * 2} if self.gated else {}
        self.fc1 = GroupedLinear(num_experts, dim, 2 * hidden if self.gated else hidden, bias, **(maps | first))
        self.act = build_act(options["act"], **placement(options))
        self.fc2 = GroupedLinear(num_experts, hidden, dim, bias if fc2_bias is None else fc2_bias, **maps)
        rate = 1 - (1 - drop) * (1 - hidden_drop)
        self.hidden_drop = nn.Dropout(rate) if rate > 0 else None
        self.drop = nn.Dropout(drop) if drop > 0 else None

    @property
    def num_experts(self) -> int:
        return len(self.fc1.weight)

    def hidden(self, x: Tensor) -> Tensor:
        """What comes between the maps."""
        return self.act(x)

    def forward(self, x: Tensor, plan: Plan) -> Tensor:
        fc1, fc2 = self.fc1, self.fc2
        drops = self.training and (self.hidden_drop is not None or self.drop is not None)
        if self.exchange is None and not drops and is_bare(fc1, GroupedLinear) and is_bare(fc2, GroupedLinear):
            return mixture(x, plan, fc1, fc2, self.act, self.gated, super().forward)
        return super().forward(x, plan)

    def rows(self, x: Tensor, ends: Tensor) -> Tensor:
        x = self.hidden(self.fc1(x, ends))
        if self.hidden_drop is not None:
            x = self.hidden_drop(x)
        x = self.fc2(x, ends)
        return x if self.drop is None else self.drop(x)

    def keep(self, chosen: list[int]) -> None:
        self.fc1.keep(chosen)
        self.fc2.keep(chosen)


@register("experts", "glu")
class GluExperts(MlpExperts):
    """Gated perceptrons ``fc2(act(gate) * value)``, as many as there are experts; the experts of Mixtral.

    The other arguments are those of `MlpExperts`.

    Args:
        ratio: Width of the gated hidden layer of an expert over `dim`.
        hidden: That width itself, instead of `ratio`.
        act: ``silu`` is SwiGLU, ``gelu`` GEGLU, and so on (see `zoo.blocks.channel.glu.Glu`).

    Shape: tokens ``(T, dim)`` and their plan ``-> (T, dim)``.

    Example:
        >>> GluExperts(6, 4, hidden=10).fc1.weight.shape
        torch.Size([4, 20, 6])

    Source: Shazeer, "GLU Variants Improve Transformer" (arXiv 2002.05202), equations 5 and 6; Jiang et al., "Mixtral of
        Experts" (arXiv 2401.04088), section 2.1.
    Differs: biases are on by default, as in `glu`.
    Cost: 3 x dim x hidden MACs a choice.
    Raises: ValueError for a hidden width below 1.
    """

    follows = ("init", "act", "drop")

    gated = True

    @with_options_of(MlpExperts, ratio=8 / 3, act="silu")
    def __init__(self, *args, **options):
        super().__init__(*args, **options)

    def hidden(self, x: Tensor) -> Tensor:
        gate, value = x.chunk(2, -1)
        return self.act(gate) * value
