"""One step of the optimizer: the loss of a batch, its gradient, and the update."""

import contextlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from zoo.blocks.base import Aux
from zoo.checks import unknown
from zoo.tools.moe.parallel import clip_grad_norm_, expert_parameters
from zoo.training.data.batches import Batch, parts_of
from zoo.training.divergence import check_after, overflowing
from zoo.training.engine.finite import FiniteCheck
from zoo.training.engine.methods import Methods
from zoo.training.engine.precision import LossScale, autocast
from zoo.training.optim import second_derivatives
from zoo.training.recipe.recipe import Objective, Recipe
from zoo.training.seeds import step_seed

TINY = 2**18  # parameters whose gradients are sooner put together than gone through one by one


class Stepper:
    """Takes the steps of a training; what is random in one follows from the recipe's seed, its number and the process.

    Args:
        recipe: The recipe.
        objectives: Its tasks by their names, fitted to their data.
        accelerator: Of the processes.
        model: As the accelerator has prepared it.
        optimizer: Of its parameters, torch's own.
        frozen: Modules that compute as in evaluation although the model is trained.
        folder: Of the run, for messages.
        methods: Those of the recipe; None if it has none.
    """

    def __init__(
        self,
        recipe: Recipe,
        objectives: Mapping[str, Objective],
        accelerator: Accelerator,
        model: nn.Module,
        optimizer: Optimizer,
        frozen: Sequence[nn.Module],
        folder: Path,
        methods: Methods | None = None,
    ):
        self.methods = methods
        self.recipe, self.accelerator, self.model, self.optimizer = recipe, accelerator, model, optimizer
        self.objectives, self.frozen, self.folder = objectives, frozen, folder
        # Each is asked for in every step, and accelerate looks it up anew.
        self.device, self.rank = accelerator.device, accelerator.process_index
        self.is_alone = accelerator.num_processes == 1
        self.scale = LossScale(recipe.train.precision, self.device)
        self.finite = FiniteCheck(self.device, folder)
        self.experts = bool(expert_parameters(model))  # whether processes have a part of them each
        self.parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.tiny = self.device.type == "cpu" and sum(p.numel() for p in self.parameters) <= TINY
        self.train_mode()

    def step(self, step: int, batch: Batch, name: str) -> tuple[dict[str, Any], Aux]:
        """Change the weights once.

        Args:
            step: Its number.
            batch: This process's share of it.
            name: Of the task.

        Returns:
            What may be logged, with numbers still on the device; and what the model returned beside its outputs.

        Raises:
            FloatingPointError: The loss or its gradient is not finite; nothing is changed, see `FiniteCheck`.
        """
        answers: list[tuple[dict[str, Any], Aux]] = []

        def loss_and_gradient() -> Tensor:
            """For the optimizer, which may ask more than once; the first answer is what is reported of the step."""
            self.optimizer.zero_grad()
            loss, aux = self._backward(step, self._placed(batch), name)
            value = self._mean_of_processes(loss)  # the same in every process, so they stop together
            norm = self._gradient_norm()
            self.finite.check(step, value, value if self.scale.used else norm)  # a scaled gradient may overflow
            if self.methods is not None:
                self.methods.change_gradients(step, self.parameters)
            record = ({"task": name} if name else {}) | {"loss": value, "grad_norm": norm}
            answers.append((record | aux, aux))
            return loss

        if not self.model.training:
            self.train_mode()
        with second_derivatives(self.recipe.optim.second_order):
            if self.scale.used:
                loss_and_gradient()
                self.scale.step(self.optimizer)
            else:
                self.optimizer.step(loss_and_gradient)
        return answers[0]

    def settle(self, step: int) -> None:
        """Raise FloatingPointError for what `step` has only noted, up to the step before this one."""
        self.finite.settle()
        if self.scale.exhausted:
            raise overflowing(step, self.folder)

    @torch.no_grad()
    def check_update(self, step: int, batch: Batch, name: str, first: float | None) -> None:
        """Check that the model still has a sensible loss after an update, on the batch that this was made from.

        The model is in training mode, and is left as it was: batch norms do not see the batch twice.

        Args:
            step, batch, name: As of `step`.
            first: The loss before the first update of the task.

        Raises:
            FloatingPointError: It has not.
        """
        before = [buffer.clone() for buffer in self.model.buffers()]
        losses = [self._loss(step, number, *part, name)[0] for number, part in enumerate(self._placed(batch))]
        for buffer, value in zip(self.model.buffers(), before, strict=True):
            buffer.copy_(value)
        value = self._mean_of_processes(torch.stack(losses).mean()).item()
        check_after(value, first, step, self.folder)

    def train_mode(self) -> None:
        """Set the model to training, but for what is frozen."""
        self.model.train()
        for module in self.frozen:
            module.eval()

    def _placed(self, batch: Batch) -> list[tuple[Tensor, Tensor]]:
        """The parts of a batch on the device."""
        device, last = self.device, self.recipe.train.channels_last

        def place(tensor: Tensor) -> Tensor:
            form = torch.channels_last if last and tensor.ndim == 4 else torch.preserve_format
            return tensor.to(device, non_blocking=True, memory_format=form)

        return [(place(inputs), place(targets)) for inputs, targets in parts_of(batch)]

    def _backward(self, step: int, parts: Sequence[tuple[Tensor, Tensor]], name: str) -> tuple[Tensor, Aux]:
        """Add up the gradients of the parts; the mean loss, and the mean of what the model returned beside."""
        losses, auxes = [], []
        for number, part in enumerate(parts):
            together = number == len(parts) - 1  # processes exchange gradients once a step
            with contextlib.nullcontext() if together or self.is_alone else self.accelerator.no_sync(self.model):
                loss, aux = self._loss(step, number, *part, name)
                share = loss if len(parts) == 1 else loss / len(parts)
                self.scale.scaled(share).backward(create_graph=self.recipe.optim.second_order)
            losses.append(loss.detach())
            auxes.append(aux)
        if len(parts) == 1:
            return losses[0], auxes[0]
        return torch.stack(losses).mean(), {key: _mean([aux[key] for aux in auxes]) for key in auxes[0]}

    def _loss(self, step: int, part: int, inputs: Tensor, targets: Tensor, name: str) -> tuple[Tensor, Aux]:
        """The loss of a part of a batch, and what the model returned beside its outputs."""
        train, objective = self.recipe.train, self.objectives[name]
        keywords = {"task": name} if name else {}
        number = self.rank * train.accumulate + part
        _seed(step_seed(train.seed, step, number), self.device)

        def loss(outputs: Tensor, aux: Aux) -> Tensor:
            return objective.weight * objective.task.loss(outputs.float(), targets) + self._aux_loss(aux)

        if self.methods is not None:
            return self.methods.loss(self.model, step, (inputs, targets), loss, keywords)
        with autocast(train.precision, inputs.device):
            outputs, aux = self.model(inputs, return_aux=True, **keywords)
        return loss(outputs, aux), aux

    def _aux_loss(self, aux: Aux) -> Tensor | float:
        """The model's auxiliary losses, weighted by the recipe."""
        if not self.recipe.aux_losses:
            return 0.0
        returned = [key.removeprefix("loss/") for key in aux if key.startswith("loss/")]
        for name in sorted(self.recipe.aux_losses.keys() - returned):
            raise ValueError(unknown(f"the loss {name!r} of aux_losses", name, returned, "returned by the model"))
        return sum(weight * aux[f"loss/{name}"] for name, weight in self.recipe.aux_losses.items())

    def _mean_of_processes(self, loss: Tensor) -> Tensor:
        return loss if self.is_alone else self.accelerator.reduce(loss, "mean")

    def _gradient_norm(self) -> Tensor:
        """The norm of all gradients together, which are clipped if the recipe says so."""
        self.scale.unscale(self.optimizer)
        clip = self.recipe.train.grad_clip
        if self.experts:
            return clip_grad_norm_(self.model, clip or math.inf)
        if clip is None and self.is_alone:
            gradients = [p.grad for p in self.parameters if p.grad is not None]
            if self.tiny and gradients:
                return torch.linalg.vector_norm(torch.cat([gradient.flatten() for gradient in gradients]))
            return get_total_norm(gradients)
        norm = self.accelerator.clip_grad_norm_(self.parameters, clip or math.inf)
        return norm.full_tensor() if isinstance(norm, DTensor) else norm


def _seed(seed: int, device: torch.device) -> None:
    """Seed the generators that a step draws from; torch's function for all devices takes a millisecond on a CPU."""
    if device.type == "cpu":
        torch.default_generator.manual_seed(seed)
    else:
        torch.manual_seed(seed)


def _mean(entries: Sequence[Tensor | tuple[Tensor, ...]]) -> Tensor | tuple[Tensor, ...]:
    """The mean of an auxiliary output over parts of a batch; a statistic has a tensor a layer."""
    if isinstance(entries[0], Tensor):
        return torch.stack(list(entries)).mean(0)
    return tuple(torch.stack(layers).mean(0) for layers in zip(*entries, strict=True))
