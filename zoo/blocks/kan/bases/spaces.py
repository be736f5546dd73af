"""Several bases as one."""

from collections.abc import Sequence
from typing import Annotated

import torch
from torch import Tensor, nn

from zoo.blocks.kan.bases.base import Basis
from zoo.checks.ranges import Length, Width
from zoo.slots import SlotLike, build_block

Bases = Annotated[Sequence[SlotLike], Length(2, 64)]  # slots of bases to select from


class Spaces(Basis):
    """Several bases as one: all functions of the first, then all of the second, and so on.

    Shape: ``(*, features) -> (*, num, features)``, `num` the sum of theirs.
    """

    def __init__(self, features: Width, *, bases: Bases, device=None, dtype=None):
        super().__init__(features)
        self.parts = nn.ModuleList(build_block("basis", b, features, device=device, dtype=dtype) for b in bases)

    @property
    def num(self) -> int:
        return sum(self.sizes)

    @property
    def macs(self) -> int:
        return sum(part.macs for part in self.parts)

    @property
    def sizes(self) -> list[int]:
        """Number of functions of each."""
        return [part.num for part in self.parts]

    def values(self, x: Tensor) -> Tensor:
        return torch.cat([part.values(x) for part in self.parts], -2)

    def fill(self, x: Tensor, out: Tensor) -> None:
        for part, room in zip(self.parts, out.split(self.sizes, 1), strict=True):
            part.fill(x, room)

    def pull_back(self, x: Tensor, grad: Tensor) -> tuple[Tensor, ...]:
        gradients = [part.pull_back(x, own) for part, own in zip(self.parts, grad.split(self.sizes, 1), strict=True)]
        return sum(by_x for by_x, *_ in gradients), *(one for _, *others in gradients for one in others)
