"""One shared block that each expert modulates: the experts of MoFME."""

from torch import Tensor

from zoo.blocks.channel.mlp import Mlp
from zoo.blocks.linear import Linear, linear
from zoo.blocks.moe.experts.base import Experts
from zoo.blocks.moe.experts.grouped import GroupedLinear
from zoo.blocks.moe.routing import Plan
from zoo.blocks.options import placement, with_options_of
from zoo.checks.ranges import Count, Width
from zoo.slots import build_act
from zoo.slots.table import register


@register("experts", "modulated")
class ModulatedExperts(Experts):
    """Experts ``(A_i z + a_i) * z + B_i z + b_i`` of shared features z; a shared perceptron works on their sum.

    The features ``z = act(V x) * U x`` are computed once a token, and so is the perceptron, whatever number of experts
    a token has: only the modulation, two maps as wide as the token, is an expert's own.

    Args:
        ratio: Hidden width of the shared perceptron over `dim`.
        hidden: Hidden width itself, instead of `ratio`.
        act: An activation slot.
        drop: Dropout in the shared perceptron.
        init: A scheme of `zoo.blocks.init`, applied to each map by itself.

    Shape: tokens ``(T, dim)`` and their plan ``-> (T, dim)``.

    Example:
        >>> ModulatedExperts(8, 4).modulation.weight.shape
        torch.Size([4, 16, 8])

    Source: Zhang et al., "Efficient Deweather Mixture-of-Experts with Uncertainty-aware Feature-wise Linear Modulation"
        (arXiv 2312.16610); RoyZry98/MoFME-AAAI2024-Offiicial, models/moe/film.py.
    Differs: the norm before the features is the block's. The paper's weights by the router's uncertainty, in training,
        are left out. In the official code, by a slip, the first expert is the activation and the last is never used.
    Cost: 2 x dim x (dim + hidden) MACs a token and 2 x dim x dim a choice.
    Raises: ValueError for a hidden width below 1.
    """

    follows = ("init", "act", "drop")

    @with_options_of(Mlp, without=["bias", "fc2_bias"])
    def __init__(self, dim: Width, num_experts: Count, **options):
        super().__init__()
        dd, inits = placement(options), (options["init"],) * 2
        self.trunk = Linear(dim, 2 * dim, init=inits, **dd)
        self.act = build_act(options["act"], **dd)
        self.modulation = GroupedLinear(num_experts, dim, 2 * dim, init=inits, **dd)
        self.adaptor = Mlp(dim, **options)

    @property
    def num_experts(self) -> int:
        return len(self.modulation.weight)

    @property
    def active_fraction(self) -> float:
        """Share of its parameters that one token uses; what is not the modulation, it uses whole."""
        return 1.0

    @active_fraction.setter
    def active_fraction(self, value: float) -> None:
        self.modulation.active_fraction = value

    def rows(self, x: Tensor, ends: Tensor) -> Tensor:
        scale, shift = self.modulation(x, ends).chunk(2, -1)
        return scale * x + shift

    def forward(self, x: Tensor, plan: Plan) -> Tensor:
        gate, value = linear(x, self.trunk).chunk(2, -1)
        return self.adaptor(super().forward(self.act(gate) * value, plan))

    def keep(self, chosen: list[int]) -> None:
        self.modulation.keep(chosen)
