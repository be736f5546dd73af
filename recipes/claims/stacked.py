"""Several runs of one recipe at once, which differ in the seed and the learning rate alone.

A small model leaves a GPU idle: its step is many kernels that are each over in microseconds. Here the weights of the
runs lie in one tensor, and torch.func's `vmap` makes one kernel of what would be one for each run. On a GPU, the step
is recorded as a CUDA graph too, so that a process can train several stacks side by side, each on a stream of its own.

On a CPU, a run gets the weights, the batches and the noise that zoo's Trainer would give it, and so the same result up
to rounding. On a GPU, batches and noise are drawn there, in the same manner from the seed, and are others.
"""

import functools
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from zoo.training import Recipe
from zoo.training.data.batches import EvaluationBatches, TrainingBatches
from zoo.training.data.splits import TensorSplit
from zoo.training.evaluation import cpu_threads
from zoo.training.optim import Schedule, create_optimizer, create_scheduler
from zoo.training.recipe.recipe import differences
from zoo.training.seeds import CORRUPT, INIT, ORDER, derive_seed, seeded_globals
from zoo.training.tasks.base import Task

APART = {"train.seed", "optim.lr"}  # what the runs of a stack may differ in
LOOK = 100  # steps between two looks at the clock
WARM_UP = 3  # steps before one is recorded, in which libraries choose their kernels and take their memory


class OutOfTime(Exception):
    """The training was stopped at its deadline."""


class Stack:
    """Runs of recipes that differ in seed and rate alone, trained together.

    Args:
        recipes: One a run: a single task on data in memory, AdamW, fp32, and none of the options of the loop that
            change a step.
        data: The parts of the data set that the recipes have in common.
        device: Where it trains.

    Raises:
        ValueError: The recipes differ in something else, or say what is not carried out here.
    """

    def __init__(self, recipes: Sequence[Recipe], data: dict[str, TensorSplit], device: torch.device):
        _check(recipes)
        self.recipes, self.data, self.device = recipes, data, device
        first = recipes[0]
        self.models = [_model(recipe).to(device) for recipe in recipes]
        # One tensor for each parameter, of which those of the models are views from here on.
        parameters = zip(*(model.named_parameters() for model in self.models), strict=True)
        self.weights = {same[0][0]: torch.stack([p.detach() for _, p in same]).requires_grad_() for same in parameters}
        for run, model in enumerate(self.models):
            for name, parameter in model.named_parameters():
                parameter.data = self.weights[name].data[run]
        batches = TrainingBatches(data["train"], first.task, batch_size=first.train.batch_size, seed=0)
        self.steps = first.train.duration.steps(batches.steps_per_epoch)
        self._draw = _on_gpu(recipes, data["train"], device) if device.type == "cuda" else _as_trainer(recipes, data)
        self.optimizer = self._create_optimizer(batches.steps_per_epoch)
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self.update: Callable[[], None] = self._update
        self.inputs, self.targets = self._draw(0)

    def _create_optimizer(self, steps_per_epoch: int) -> torch.optim.AdamW:
        """One optimizer of the groups that those of all runs would have, and `rates`, (steps, groups)."""
        groups, rates = [], []
        for recipe, model in zip(self.recipes, self.models, strict=True):
            table = _rates(recipe.optim.lr, recipe.schedule, self.steps, steps_per_epoch)
            for group in create_optimizer(model, recipe.optim).param_groups:
                groups.append({key: group[key] for key in ("params", "weight_decay", "betas", "eps")})
                rates.append(table)
        self.rates = torch.stack(rates, 1).to(self.device)
        graphs = self.device.type == "cuda"
        self.rate = self.rates[0].clone()
        if graphs:  # a graph reads its rates from where they lay when it was recorded
            for group, rate in zip(groups, self.rate, strict=True):
                group["lr"] = rate
        return torch.optim.AdamW(groups, fused=True, capturable=graphs)

    def _update(self) -> None:
        def outputs(weights: dict[str, Tensor], inputs: Tensor) -> Tensor:
            return functional_call(self.models[0], weights, (inputs,))

        task, names = self.recipes[0].task, list(self.weights)
        losses = vmap(task.loss)(vmap(outputs)(self.weights, self.inputs).float(), self.targets)
        gradients = torch.autograd.grad(losses.sum(), list(self.weights.values()))
        # The fused optimizer reads memory in order, whatever the strides are.
        by_run = zip(*(gradient.contiguous().unbind(0) for gradient in gradients), strict=True)
        for model, own in zip(self.models, by_run, strict=True):
            named = dict(zip(names, own, strict=True))
            for name, parameter in model.named_parameters():
                parameter.grad = named[name]
        self.optimizer.step()

    def record(self) -> None:
        """Make a CUDA graph of the update; weights and the optimizer's state are as before."""
        before = [weight.detach().clone() for weight in self.weights.values()]
        self.stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self.stream):
            for _ in range(WARM_UP):
                self._update()
        self.stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=self.stream):
            self._update()
        with torch.no_grad():
            for weight, value in zip(self.weights.values(), before, strict=True):
                weight.data.copy_(value)
            for state in self.optimizer.state.values():
                for value in state.values():
                    value.zero_()
        torch.cuda.synchronize(self.device)
        self.update = graph.replay

    def step(self, number: int) -> None:
        """Take step `number` of all runs."""
        inputs, targets = self._draw(number)
        self.inputs.copy_(inputs)
        self.targets.copy_(targets)
        self.rate.copy_(self.rates[number])
        if self.stream is None:
            for group, rate in zip(self.optimizer.param_groups, self.rate.tolist(), strict=True):
                group["lr"] = rate
        self.update()

    def measure(self, part: str) -> list[dict[str, float]]:
        """The metrics of each run on a part of the data, as the Trainer would measure them."""
        split, task, metrics = self.data[part], self.recipes[0].task, []
        with cpu_threads(self.recipes[0]), torch.no_grad():
            for recipe, model in zip(self.recipes, self.models, strict=True):
                inputs, targets = _to_measure(split, task, recipe.train.seed)
                meter = task.meter(split.num_classes).to(self.device)
                outputs = model.eval()(inputs.to(self.device))
                meter.update(outputs.float(), targets.to(self.device))
                metrics.append(meter.compute())
        return metrics


def train(stacks: Sequence[Stack], deadline: float, *, graphs: bool = True) -> None:
    """Train stacks of equally many steps side by side.

    Args:
        stacks: The stacks.
        deadline: When to stop at the latest, by `time.time`.
        graphs: On a GPU, whether steps are recorded.

    Raises:
        OutOfTime: The deadline came first.
    """
    (steps,) = {stack.steps for stack in stacks}
    for stack in stacks:
        for model in stack.models:
            model.train()
        if stack.stream is not None and graphs:
            stack.record()
    if stacks[0].stream is not None:
        torch.cuda.synchronize()  # what was made on one stream is there for the others
    with cpu_threads(stacks[0].recipes[0]):
        for step in range(steps):
            if step % LOOK == 0:
                if stacks[0].stream is not None:
                    torch.cuda.synchronize()  # or the work that waits would grow without a bound
                if time.time() > deadline:
                    raise OutOfTime
            for stack in stacks:
                if stack.stream is None:
                    stack.step(step)
                else:
                    with torch.cuda.stream(stack.stream):
                        stack.step(step)
    if stacks[0].stream is not None:
        torch.cuda.synchronize()


def _check(recipes: Sequence[Recipe]) -> None:
    """Check that the runs can be trained together, and that nothing that a recipe says would be left out."""
    first = recipes[0]
    for recipe in recipes[1:]:
        changed = [line for line in differences(first, recipe) if line.partition(":")[0].split()[0] not in APART]
        if changed:
            raise ValueError(f"runs of a stack may differ in {' and '.join(sorted(APART))} alone, not in {changed}")
    train, optim = first.train, first.optim
    left_out = {
        "tasks": first.tasks, "methods": first.methods, "aux_losses": first.aux_losses,
        "train.precision": train.precision != "fp32",
        "train.accumulate": train.accumulate != 1, "train.grad_clip": train.grad_clip, "train.ema": train.ema,
        "train.phases": train.phases, "train.freeze": train.freeze, "train.linear_probe": train.linear_probe,
        "train.drop_path": train.drop_path, "train.best": train.best, "optim.layer_decay": optim.layer_decay,
        "optim.lr_by": optim.lr_by, "optim.name": optim.name != "adamw",
    }  # fmt: skip
    left_out |= {f"data.{name}": getattr(first.data, name, 0) for name in ("shift", "rotate", "zoom")}
    if said := [key for key, value in left_out.items() if value]:
        raise ValueError(f"a stack does not carry out {', '.join(said)}: remove that, or take the Trainer")


def _model(recipe: Recipe) -> nn.Module:
    """A model with the weights that the Trainer would draw."""
    with seeded_globals(derive_seed(recipe.train.seed, INIT)):
        return recipe.model.create()


@functools.lru_cache(maxsize=16)
def _to_measure(split: TensorSplit, task: Task, seed: int) -> tuple[Tensor, Tensor]:
    """A whole part as inputs and targets: what is drawn at random is drawn image by image, which takes a while."""
    inputs, targets, _ = EvaluationBatches(split, task, batch_size=len(split), seed=seed)[0]
    return inputs, targets


@functools.cache
def _rates(highest: float, schedule: Schedule, steps: int, steps_per_epoch: int) -> Tensor:
    """The learning rate of each step."""
    optimizer = torch.optim.AdamW([nn.Parameter(torch.zeros(()))], lr=highest)
    scheduler, rates = create_scheduler(optimizer, schedule, steps=steps, steps_per_epoch=steps_per_epoch), []
    for step in range(steps):
        scheduler.step_update(step)
        rates.append(optimizer.param_groups[0]["lr"])
    return torch.tensor(rates)


def _as_trainer(recipes: Sequence[Recipe], data: dict[str, TensorSplit]) -> Callable[[int], tuple[Tensor, Tensor]]:
    """Draws the batches that the Trainer would draw, (runs, B, ...)."""
    batches = [
        TrainingBatches(data["train"], recipe.task, batch_size=recipe.train.batch_size, seed=recipe.train.seed)
        for recipe in recipes
    ]

    def draw(step: int) -> tuple[Tensor, Tensor]:
        inputs, targets = zip(*(own[step] for own in batches), strict=True)
        return torch.stack(inputs), torch.stack(targets)

    return draw


def _on_gpu(
    recipes: Sequence[Recipe], split: TensorSplit, device: torch.device
) -> Callable[[int], tuple[Tensor, Tensor]]:
    """Draws batches on a GPU, (runs, B, ...): every epoch in a new order, the last partial batch dropped."""
    images, labels, task = split.images.to(device), split.labels.to(device), recipes[0].task
    seeds = [recipe.train.seed for recipe in recipes]
    of_order = torch.Generator(device).manual_seed(derive_seed(ORDER, *seeds))
    of_noise = torch.Generator(device).manual_seed(derive_seed(CORRUPT, *seeds))
    size, runs = recipes[0].train.batch_size, len(recipes)
    per_epoch, order = len(split) // size, torch.empty(0)

    def draw(step: int) -> tuple[Tensor, Tensor]:
        nonlocal order
        if (position := step % per_epoch) == 0:
            order = torch.rand(runs, len(split), generator=of_order, device=device).argsort(1)
        index = order[:, position * size : (position + 1) * size].flatten()
        inputs, targets = task.example(images[index], labels[index], of_noise)
        return inputs.unflatten(0, (runs, size)), targets.unflatten(0, (runs, size))

    return draw
