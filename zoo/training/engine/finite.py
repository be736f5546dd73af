"""Stopping at a loss, or a gradient, that is not finite."""

from pathlib import Path

import torch
from torch import Tensor

from zoo.training.divergence import check_before, noticed_late


class FiniteCheck:
    """Raises FloatingPointError at a step whose loss, or whose gradients' norm, is not finite.

    On a CPU at once, so before the update. A number of an accelerator is there only when all that was asked of it is
    done, and to wait for it in every step leaves it idle: there the first such step is kept on the device, and `settle`
    asks for it when something is to be logged, measured or saved.
    """

    def __init__(self, device: torch.device, folder: Path):
        self.folder, self.at_once = folder, device.type == "cpu"
        self.first = torch.full((2,), -1, device=device)  # the first bad step by its loss, and by its gradient

    def check(self, step: int, loss: Tensor, norm: Tensor) -> None:
        """See to the numbers of a step, which all processes have alike."""
        if self.at_once:
            check_before("loss", loss.item(), step, self.folder)
            check_before("norm of the gradient", norm.item(), step, self.folder)
        else:
            bad = ~torch.stack([loss.isfinite(), norm.isfinite()])
            self.first = torch.where((self.first < 0) & bad, step, self.first)

    def settle(self) -> None:
        """Raise what was only noted."""
        if self.at_once:
            return
        steps = self.first.tolist()
        for quantity, step in zip(("loss", "norm of the gradient"), steps, strict=True):
            if 0 <= step == min(other for other in steps if other >= 0):
                raise noticed_late(quantity, step, self.folder)
