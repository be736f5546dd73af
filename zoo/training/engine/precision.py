"""The numbers that a training computes in, and the scale of its loss where they are of 16 bits and a small range."""

import contextlib
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

LOWEST_SCALE = 2.0**-10  # of a loss; that even this overflows is no matter of the range of fp16
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(precision: str, device: torch.device) -> contextlib.AbstractContextManager:
    """A precision of a recipe as a context; weights stay in fp32."""
    return torch.autocast(device.type, DTYPES[precision]) if precision in DTYPES else contextlib.nullcontext()


class LossScale:
    """The factor on the loss that keeps gradients in fp16 from vanishing: torch's, and none in other precisions.

    It doubles after 2,000 steps, and halves after one whose gradients overflow, which changes nothing else. It is
    part of what a run goes on from.
    """

    def __init__(self, precision: str, device: torch.device):
        self.scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")

    @property
    def used(self) -> bool:
        return self.scaler.is_enabled()

    def scaled(self, loss: Tensor) -> Tensor:
        return self.scaler.scale(loss)

    def unscale(self, optimizer: Optimizer) -> None:
        """Take the factor out of the gradients."""
        if self.used:
            self.scaler.unscale_(optimizer)

    def step(self, optimizer: Optimizer) -> None:
        """Let the optimizer step unless a gradient has overflowed, and set the factor for the next step."""
        self.scaler.step(optimizer)
        self.scaler.update()

    @property
    def exhausted(self) -> bool:
        """Whether gradients overflow although the loss is scaled down."""
        return self.used and self.scaler.get_scale() < LOWEST_SCALE

    def state(self) -> dict[str, Any]:
        """What a checkpoint has of it; empty where there is none."""
        return {"loss_scale": self.scaler.state_dict()} if self.used else {}

    def restore(self, state: dict[str, Any]) -> None:
        """Put back what `state` gave; another precision's run has none, and begins anew."""
        if self.used and "loss_scale" in state:
            self.scaler.load_state_dict(state["loss_scale"])
