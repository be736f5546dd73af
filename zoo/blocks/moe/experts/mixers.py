"""Any channel mixers as experts, unlike ones too."""

import copy

import torch
from torch import Tensor, nn

from zoo.blocks.kernels import cost, guard
from zoo.blocks.mixer import trait
from zoo.blocks.moe.experts.base import Experts


class MixerExperts(Experts):
    """A channel mixer for each expert, run one after another.

    Made where the experts of a mixture are given as a list, or as a channel mixer that has no stacked form. Where
    values cannot be read, as in a compiled or traced program or under `torch.func`, every mixer runs on all rows.

    Args:
        mixers: The experts.

    Shape: tokens ``(T, dim)`` and their plan ``-> (T, dim)``.

    Example:
        >>> from zoo.blocks.moe.routing import Plan
        >>> experts = MixerExperts([nn.Identity(), nn.Linear(3, 3)])
        >>> experts.rows(torch.ones(5, 3), torch.tensor([2, 5])).shape
        torch.Size([5, 3])

    Source: unlike experts side by side: He et al., "MLP-KAN" (arXiv 2410.03027); DLYuanGod/MLP-KAN, models_kan.py.
    Differs: none known.
    Cost: that of the mixer of each choice; counted as if all experts had as many.
    Raises: ValueError if a mixer reports auxiliary outputs, as a mixture does, or looks at all positions together.
    """

    def __init__(self, mixers: list[nn.Module]):
        super().__init__()
        for mixer in mixers:
            if mixer is None or trait(mixer, "has_aux"):
                name = "none" if mixer is None else type(mixer).__name__
                raise ValueError(
                    f"experts: {name} cannot be an expert; give channel mixers that return their output alone"
                )
            if not trait(mixer, "per_position"):
                raise ValueError(
                    f"experts: {type(mixer).__name__} looks at all positions of a sample, and an expert sees some of "
                    "them; give another channel mixer"
                )
        self.mixers = nn.ModuleList(mixers)

    @property
    def num_experts(self) -> int:
        return len(self.mixers)

    def rows(self, x: Tensor, ends: Tensor) -> Tensor:
        if cost.counting() or x.is_meta:  # nobody knows who will choose whom: as many rows for each
            stops = [x.shape[0] * (i + 1) // self.num_experts for i in range(self.num_experts)]
        elif guard.readable(x, ends):
            stops = ends.tolist()
        else:
            return self._masked(x, ends)
        parts, start = [], 0
        for mixer, end in zip(self.mixers, stops, strict=True):
            parts.append(mixer(x[start:end]))  # also without rows, so that every parameter has a gradient
            start = end
        if start < x.shape[0]:
            parts.append(x[start:])
        return torch.cat(parts)

    def _masked(self, x: Tensor, ends: Tensor) -> Tensor:
        row = torch.arange(x.shape[0], device=x.device)[:, None]
        y = self.mixers[-1](x)
        for i in range(self.num_experts - 2, -1, -1):
            y = torch.where(row < ends[i], self.mixers[i](x), y)
        return y

    def keep(self, chosen: list[int]) -> None:
        seen: set[int] = set()
        kept = []
        for i in chosen:
            kept.append(copy.deepcopy(self.mixers[i]) if i in seen else self.mixers[i])
            seen.add(i)
        self.mixers = nn.ModuleList(kept)
