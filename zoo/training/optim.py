"""The optimizer and the learning rate of a recipe, both timm's; and torch's L-BFGS.

Weight decay obeys the model's own marks, `model.no_weight_decay()`, and never a parameter's shape: the scale of an
affine layer may have three axes, an expert's bias two.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from timm.optim import create_optimizer_v2, get_optimizer_info, list_optimizers
from timm.scheduler import create_scheduler_v2
from timm.scheduler.scheduler import Scheduler
from torch import Tensor, nn
from torch.optim import LBFGS, Optimizer

from zoo.slots import unknown
from zoo.training.schema import Duration


@dataclass(frozen=True)
class Optim:
    """An optimizer by timm's name; or `lbfgs`, see `FullBatchLBFGS`."""

    name: str
    lr: float
    weight_decay: float
    betas: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        names = ["lbfgs", *list_optimizers()]
        if self.name not in names:
            raise ValueError(unknown(f"the optimizer {self.name!r}", self.name, names))
        if self.betas is not None and (self.name == "lbfgs" or not get_optimizer_info(self.name).has_betas):
            raise ValueError(f"{self.name} has no betas: remove optim.betas")
        if self.name == "lbfgs" and self.weight_decay != 0:
            raise ValueError(f"weight_decay is {self.weight_decay}, but lbfgs has none: set optim.weight_decay=0")
        if self.lr <= 0 or self.weight_decay < 0:
            raise ValueError(f"lr must be above 0 and weight_decay at least 0, got {self.lr} and {self.weight_decay}")


@dataclass(frozen=True)
class Schedule:
    """The learning rate: over `warmup` from 1e-5 to `optim.lr`, then down to `min_lr` by the end (`constant`: held)."""

    name: Literal["cosine", "linear", "constant"]
    warmup: Duration = Duration(0, "st")
    min_lr: float = 0.0


def param_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Trainable parameters in two groups, decayed and not decayed, by the model's marks alone.

    Raises:
        ValueError: a mark names no parameter of the model.
    """
    marked = set(model.no_weight_decay())
    trainable = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    if unknown := marked - {name for name, _ in model.named_parameters()}:
        raise ValueError(f"no_weight_decay() of {type(model).__name__} names no parameter: {sorted(unknown)}")
    groups = [
        {"params": [p for name, p in trainable.items() if name not in marked], "weight_decay": weight_decay},
        {"params": [p for name, p in trainable.items() if name in marked], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


class FullBatchLBFGS(LBFGS):
    """L-BFGS with a line search that fulfils the strong Wolfe conditions, for models and data that are small.

    A step is 20 iterations, each along a direction made of the last 100 changes of weights and gradients, and it asks
    for the loss and its gradients once an iteration or more. They must be those of the same data all the time. It stops
    at no tolerance, since a small loss is what it is used for.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float):
        options = {"max_iter": 20, "history_size": 100, "line_search_fn": "strong_wolfe"}
        super().__init__(parameters, lr=lr, tolerance_grad=0.0, tolerance_change=0.0, **options)

    def step(self, closure: Callable[[], Tensor]) -> Tensor:
        """As torch's; but the weights are as before if `closure` raises FloatingPointError on the way."""
        parameters = [parameter for group in self.param_groups for parameter in group["params"]]
        before = [parameter.detach().clone() for parameter in parameters]
        try:
            return super().step(closure)
        except FloatingPointError:
            with torch.no_grad():
                for parameter, value in zip(parameters, before, strict=True):
                    parameter.copy_(value)
            raise


def create_optimizer(model: nn.Module, optim: Optim) -> Optimizer:
    """timm's optimizer on `param_groups(model)`, or L-BFGS."""
    if optim.name == "lbfgs":
        return FullBatchLBFGS([parameter for parameter in model.parameters() if parameter.requires_grad], optim.lr)
    options = {} if optim.betas is None else {"betas": optim.betas}
    return create_optimizer_v2(param_groups(model, optim.weight_decay), opt=optim.name, lr=optim.lr, **options)


def create_scheduler(optimizer: Optimizer, schedule: Schedule, *, steps: int, steps_per_epoch: int) -> Scheduler:
    """timm's scheduler, counted in steps: `step_update(t)` sets the rate of step t from t alone, so no state is saved.

    Raises:
        ValueError: the warmup is as long as the training, or longer.
    """
    warmup = schedule.warmup.steps(steps_per_epoch)
    if warmup >= steps:
        raise ValueError(f"schedule.warmup is {warmup} steps, but the whole training has {steps}")
    timm_name, power = {"cosine": ("cosine", 1.0), "linear": ("poly", 1.0), "constant": ("poly", 0.0)}[schedule.name]
    scheduler, _ = create_scheduler_v2(
        optimizer,
        timm_name,
        num_epochs=steps - warmup,
        warmup_epochs=warmup,
        warmup_prefix=True,
        min_lr=schedule.min_lr,
        decay_rate=power,
        step_on_epochs=False,
        updates_per_epoch=1,
    )
    return scheduler
