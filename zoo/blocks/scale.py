"""Layer scale: one learnt factor a channel on a residual branch."""

import torch
from torch import Tensor, nn

from zoo.checks import checked
from zoo.checks.ranges import Scale, Width


@checked
class LayerScale(nn.Module):
    """A learnt factor per channel, small at the start, so that a deep model begins close to the identity.

    Shape: ``(*, C) -> (*, C)``.

    Example:
        >>> LayerScale(4, value=0.5)(torch.ones(1, 4)).tolist()
        [[0.5, 0.5, 0.5, 0.5]]

    Source: Touvron et al., "Going deeper with Image Transformers" (arXiv 2103.17239), equation 2.
    Differs: none known.
    Cost: no MACs by zoo's convention (element-wise).
    """

    no_decay = ("gamma",)

    def __init__(self, dim: Width, *, value: Scale = 1e-5, device=None, dtype=None):
        super().__init__()
        self.value = value
        self.gamma = nn.Parameter(torch.empty(dim, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.constant_(self.gamma, self.value)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma

    def add(self, residual: Tensor, x: Tensor) -> Tensor:
        """``residual + x * gamma`` in one pass over memory instead of two."""
        return torch.addcmul(residual, x, self.gamma)
