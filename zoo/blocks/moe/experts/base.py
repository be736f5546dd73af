"""What all experts share: rows of tokens in, the weighted sum of what the experts make of them out."""

from collections.abc import Callable

from torch import Tensor, nn

from zoo.blocks.kernels.experts import combine
from zoo.blocks.moe.routing import Plan


class Experts(nn.Module):
    """Base of the experts. A class defines `rows`, and `forward` where it can do better than in single steps.

    Attributes:
        num_experts: Number of experts.
        exchange: Runs experts that are split over processes in their place (`zoo.expert_parallel`).

    Shape: tokens ``(T, dim)`` and their `Plan` ``-> (T, dim)``.
    """

    num_experts: int
    exchange: Callable[["Experts", Tensor, Plan], Tensor] | None = None

    def rows(self, x: Tensor, ends: Tensor) -> Tensor:
        """What the experts make of rows that are sorted by expert.

        Args:
            x: Rows, ``(R, dim)``.
            ends: ``(E,)`` int32, where the rows of each expert end. What comes out for rows behind the last is
                anything; nobody reads it.

        Shape: ``(R, dim) -> (R, dim)``.
        """
        raise NotImplementedError

    def forward(self, x: Tensor, plan: Plan) -> Tensor:
        if self.exchange is not None:
            return self.exchange(self, x, plan)
        return combine(self.rows(x.index_select(0, plan.token), plan.ends), plan, x.shape[0])

    def keep(self, chosen: list[int]) -> None:
        """Keep these experts, in this order, and remove the others; one that is named twice is copied."""
        raise NotImplementedError
