"""The optimizer and the learning rate of a recipe, both timm's.

Weight decay obeys the model's own marks, `model.no_weight_decay()`, and never a parameter's shape: the scale of an
affine layer may have three axes, an expert's bias two.
"""

from dataclasses import dataclass
from typing import Any, Literal

from timm.optim import create_optimizer_v2, get_optimizer_info, list_optimizers
from timm.scheduler import create_scheduler_v2
from timm.scheduler.scheduler import Scheduler
from torch import nn
from torch.optim import Optimizer

from zoo.slots import unknown
from zoo.training.schema import Duration


@dataclass(frozen=True)
class Optim:
    """An optimizer by timm's name."""

    name: str
    lr: float
    weight_decay: float
    betas: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if self.name not in list_optimizers():
            raise ValueError(unknown(f"the optimizer {self.name!r}", self.name, list_optimizers()))
        if self.betas is not None and not get_optimizer_info(self.name).has_betas:
            raise ValueError(f"{self.name} has no betas: remove optim.betas")
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


def create_optimizer(model: nn.Module, optim: Optim) -> Optimizer:
    """timm's optimizer on `param_groups(model)`."""
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
