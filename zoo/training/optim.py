"""The optimizer and the learning rate of a recipe, both timm's; and torch's L-BFGS.

Every name that timm lists trains, or is refused with a sentence before the first step.

Weight decay obeys the model's own marks, `model.no_weight_decay()`, and never a parameter's shape: the scale of an
affine layer may have three axes, an expert's bias two.
"""

import contextlib
import importlib.util
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Annotated, Any, Literal

import torch
from timm.models import group_parameters
from timm.optim import Adahessian, create_optimizer_v2, get_optimizer_info, list_optimizers
from timm.scheduler import create_scheduler_v2
from timm.scheduler.scheduler import Scheduler
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.optim import LBFGS, Adam, AdamW, Optimizer

from zoo.checks import Interval, shown, unknown
from zoo.training.engine.freeze import matching
from zoo.training.recipe.schema import LONGEST, Count, Duration, Lasting
from zoo.training.recipe.section import Misfit, Section
from zoo.training.recipe.train import Train
from zoo.training.seeds import derive_seed


@dataclass(frozen=True)
class Optim(Section):
    """An optimizer by timm's name; or `lbfgs`, see `FullBatchLBFGS`. Of `betas` it takes as many as it has."""

    name: str  # one of timm's, or lbfgs
    lr: Annotated[float, Interval(above=0, most=1e12)]  # the highest learning rate
    weight_decay: Annotated[float, Interval(0, 10_000)]  # of the parameters that the model does not mark
    # The train.batch_size that lr belongs to: with another the rates are changed by lr_rule; null: lr is as it stands.
    lr_batch: Count | None = None
    # What the rates are multiplied by: train.batch_size over lr_batch, or its square root.
    lr_rule: Literal["linear", "sqrt"] = "linear"
    betas: tuple[Annotated[float, Interval(0, below=1)], ...] | None = None  # null: the optimizer's own
    # Factor on the rate from a layer to the one before it, by the model's own order of its layers; null: one rate.
    layer_decay: Annotated[float, Interval(above=0, most=1)] | None = None
    # Factors on the rate by module or parameter, such as {stem: 0.1}; of several that mean one, the last counts.
    lr_by: dict[str, Annotated[float, Interval(above=0, most=1_000_000)]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        names = ["lbfgs", *list_optimizers()]
        if self.name not in names:
            raise Misfit(unknown(f"the optimizer {shown(self.name)}", self.name, names), "name")
        if self.betas is not None and (self.name == "lbfgs" or not get_optimizer_info(self.name).has_betas):
            raise Misfit(f"{self.name} has no betas: remove optim.betas", "betas")
        if self.betas is not None and len(self.betas) != (count := get_optimizer_info(self.name).num_betas):
            raise Misfit(
                f"{self.name} has {count} betas, optim.betas gives {len(self.betas)}: give {count}, or none", "betas"
            )
        if self.name == "lbfgs" and (self.layer_decay is not None or self.lr_by):
            key = "lr_by" if self.layer_decay is None else "layer_decay"
            raise Misfit(f"lbfgs has one rate for all parameters: remove optim.{key}", key)
        if self.name == "lbfgs" and self.weight_decay != 0:
            raise Misfit(
                f"weight_decay is {self.weight_decay}, but lbfgs has none: set optim.weight_decay=0", "weight_decay"
            )

        if self.lr_batch is None and self.lr_rule != "linear":
            raise Misfit("lr_rule has no effect without lr_batch: set that, or leave it out", "lr_rule")

    def factor(self, batch_size: int) -> float:
        """What the rates are multiplied by for batches of another size than `lr_batch`."""
        ratio = batch_size / (self.lr_batch or batch_size)
        return math.sqrt(ratio) if self.lr_rule == "sqrt" else ratio

    @property
    def second_order(self) -> bool:
        """Whether it differentiates the gradients once more."""
        return self.name != "lbfgs" and get_optimizer_info(self.name).second_order


@dataclass(frozen=True)
class Schedule(Section):
    """The learning rate: over `warmup` to `optim.lr`, then down to `min_lr` by the end (`constant`: held)."""

    name: Literal["cosine", "linear", "constant"]  # the way down
    warmup: Annotated[Duration, Lasting(0, LONGEST)] = Duration(0, "st")  # shorter than the training
    warmup_lr: Annotated[float, Interval(0, 1e12)] = 1e-5  # at which the warmup begins
    min_lr: Annotated[float, Interval(0, 1e12)] = 0.0  # at most optim.lr

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.name == "constant" and self.min_lr != 0:
            raise Misfit(f"min_lr is {self.min_lr}, but a constant rate never falls: remove it", "min_lr")


def param_groups(
    model: nn.Module,
    weight_decay: float,
    layer_decay: float | None = None,
    lr_by: Mapping[str, float] = MappingProxyType({}),
) -> list[dict[str, Any]]:
    """Trainable parameters by what they have in common: decayed or not, by the model's marks alone; and a rate.

    A group whose rate is not the recipe's has its factor as `lr_scale`, as timm's schedulers take it.

    Args:
        model: The model.
        weight_decay: Of the parameters that the model does not mark.
        layer_decay, lr_by: As of `Optim`.

    Raises:
        ValueError: A mark, or a pattern, names no parameter of the model; or the model does not say the order of its
            layers.
    """
    marked = set(model.no_weight_decay())
    if unknown := marked - {name for name, _ in model.named_parameters()}:
        raise ValueError(f"no_weight_decay() of {type(model).__name__} names no parameter: {sorted(unknown)}")
    scales = _rate_scales(model, layer_decay, lr_by)
    groups: dict[tuple[float, bool, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            key = scales.get(name, 1.0), name in marked, isinstance(parameter, DTensor)  # no step takes both kinds
            groups.setdefault(key, []).append(parameter)
    return [
        {"params": parameters, "weight_decay": 0.0 if kept else weight_decay}
        | ({} if scale == 1 else {"lr_scale": scale})
        for (scale, kept, _), parameters in sorted(groups.items(), key=lambda item: (-item[0][0], *item[0][1:]))
    ]


def _rate_scales(model: nn.Module, layer_decay: float | None, lr_by: Mapping[str, float]) -> dict[str, float]:
    """The factor on the rate of each parameter whose rate is not the recipe's."""
    scales: dict[str, float] = {}
    if layer_decay is not None:
        if not hasattr(model, "group_matcher"):
            raise ValueError(
                f"optim.layer_decay needs the order of the layers, which {type(model).__name__} does not give "
                "(group_matcher): set optim.lr_by instead"
            )
        layers = group_parameters(model, model.group_matcher(coarse=False), reverse=True)
        last = max(layers.values())
        scales = {name: layer_decay ** (last - layer) for name, layer in layers.items()}
    factors = {name: factor for pattern, factor in lr_by.items() for name in matching(model, pattern, "optim.lr_by")}
    return scales | {name: scales.get(name, 1.0) * factor for name, factor in factors.items()}


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


def check_full_batch(train: Train, examples: Mapping[str, int], rank: int, world: int) -> None:
    """Check what L-BFGS needs: the same loss all the time, and all of it in this process.

    Args:
        train: How the recipe trains.
        examples: How many the training data of each task have.
        rank, world: Of the processes.

    Raises:
        ValueError: The loss would not be the same.
    """
    if len(examples) > 1:
        raise ValueError("lbfgs needs the same loss in every step, not tasks in turn: take another optimizer")
    (count,) = examples.values()
    if train.batch_size != count or train.grad_clip is not None or train.precision == "fp16" or world > 1:
        raise ValueError(
            "lbfgs needs all training data in every step, gradients as they are and a single process: "
            f"set train.batch_size={count} (it is {train.batch_size}), train.grad_clip=null and a train.precision "
            f"other than fp16, and start one process (there are {world}); or take another optimizer"
        )


class RepeatableAdahessian(Adahessian):
    """timm's AdaHessian, whose random signs depend on the number of the step alone, as a resumed run needs it.

    Its gradients must have been made with ``create_graph=True``, within `second_derivatives`.
    """

    def zero_hessian(self) -> None:
        for parameter in self.get_params():
            self.state[parameter].setdefault("hessian step", 0)  # for a state that was emptied
        super().zero_hessian()

    def set_hessian(self) -> None:
        parameters = [parameter for parameter in self.get_params() if parameter.grad is not None]
        seed = derive_seed(self.seed, max((self.state[p]["hessian step"] for p in parameters), default=0))
        self.generator = torch.Generator(parameters[0].device if parameters else "cpu").manual_seed(seed)
        try:
            super().set_hessian()
        except RuntimeError as error:
            raise RuntimeError(
                f"adahessian needs second derivatives, which something in this model does not have ({error}): "
                "set optim.name=adamw, or another of first order"
            ) from error
        if not all(torch.isfinite(parameter.hess).all() for parameter in parameters):
            raise FloatingPointError("a second derivative is not finite: stopped before the update, as of a loss")

    def step(self, closure: Callable[[], Tensor]) -> Tensor:
        try:
            return super().step(closure)
        finally:
            self.zero_grad()  # the gradients hold the whole graph


@contextlib.contextmanager
def second_derivatives(enabled: bool) -> Iterator[None]:
    """Within it, if wanted, attention is computed in a form whose gradient can be differentiated: no fused one can."""
    if not enabled:
        yield
        return
    with sdpa_kernel(SDPBackend.MATH), warnings.catch_warnings():
        # Gradients with a graph and their parameters hold each other; `RepeatableAdahessian` lets go of them.
        warnings.filterwarnings("ignore", message="Using backward.. with create_graph=True")
        yield


def create_optimizer(model: nn.Module, optim: Optim, beside: nn.Module | None = None) -> Optimizer:
    """timm's optimizer on `param_groups(model)`, or L-BFGS.

    Torch's Adam and AdamW update all weights in one kernel, which they do by default on no device: a step of the
    digits' Mixer takes a tenth less so. Its SGD cannot where a parameter has its first gradient later than others.

    Args:
        model: What is trained.
        optim: How.
        beside: What is trained with it, at the recipe's rate, in groups of its own.

    Raises:
        ValueError: the optimizer is one of CUDA, or of a package, that is not here.
    """
    if optim.name == "lbfgs":
        return FullBatchLBFGS([parameter for parameter in model.parameters() if parameter.requires_grad], optim.lr)
    options = {} if optim.betas is None else {"betas": optim.betas}
    groups = param_groups(model, optim.weight_decay, optim.layer_decay, optim.lr_by)
    if beside is not None:
        groups += param_groups(beside, optim.weight_decay)
    kind = get_optimizer_info(optim.name).opt_class
    if isinstance(kind, str):  # timm names the class, and imports it when it is asked for
        _check_package(optim.name, kind.partition(".")[0])
    if kind is Adahessian:
        return RepeatableAdahessian(groups, lr=optim.lr, **options)
    if kind in (Adam, AdamW) and all(p.is_floating_point() for group in groups for p in group["params"]):
        options["fused"] = True
    return create_optimizer_v2(groups, opt=optim.name, lr=optim.lr, **options)


def _check_package(name: str, package: str) -> None:
    """Check that this machine can run an optimizer of apex or bitsandbytes."""
    missing = [] if torch.cuda.is_available() else ["CUDA"]
    missing += [] if importlib.util.find_spec(package) else [f"the package {package}"]
    if missing:
        plain = name.removeprefix("fused").removeprefix("bnb").removesuffix("8bit")
        instead = plain if plain in list_optimizers() else "adamw"
        raise ValueError(
            f"optim.name={name} needs {' and '.join(missing)}, not to be found here: set optim.name={instead}"
        )


def create_scheduler(optimizer: Optimizer, schedule: Schedule, *, steps: int, steps_per_epoch: int) -> Scheduler:
    """timm's scheduler, counted in steps: `step_update(t)` sets the rate of step t from t alone, so no state is saved.

    Raises:
        ValueError: the warmup is as long as the training, or longer; or the training is longer than any may be.
    """
    if steps > LONGEST:
        raise ValueError(f"train.duration is {steps} steps, of which an epoch has {steps_per_epoch}: at most {LONGEST}")
    warmup = schedule.warmup.steps(steps_per_epoch)
    if warmup >= steps:
        raise ValueError(f"schedule.warmup is {warmup} steps, but the whole training has {steps}")
    timm_name, power = {"cosine": ("cosine", 1.0), "linear": ("poly", 1.0), "constant": ("poly", 0.0)}[schedule.name]
    scheduler, _ = create_scheduler_v2(
        optimizer,
        timm_name,
        num_epochs=steps - warmup,
        warmup_epochs=warmup,
        warmup_lr=schedule.warmup_lr,
        warmup_prefix=True,
        min_lr=schedule.min_lr,
        decay_rate=power,
        step_on_epochs=False,
        updates_per_epoch=1,
    )
    return scheduler
