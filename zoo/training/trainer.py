"""The training loop: any recipe, on one CPU, one GPU or many processes (`accelerate launch`).

Everything random in step t is seeded by (recipe seed, t, process), and the learning rate is a function of t. So the
step, the weights and the optimizer's state are the whole state of a run, and a resumed run repeats the uninterrupted
one bit by bit (on a CPU; a GPU's own kernels may not be deterministic).
"""

import math
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs, DistributedType
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.distributed.checkpoint import state_dict as sharding
from tqdm import tqdm

from zoo.blocks.base import Aux
from zoo.blocks.channel.kan.select import Selectable
from zoo.blocks.channel.moe.balance import rebalance
from zoo.checks import unknown
from zoo.parallel import share_losses
from zoo.training.alternate import AlternatingBatches
from zoo.training.config import Recipe, measured_part
from zoo.training.data import TrainingBatches, loader
from zoo.training.evaluate import autocast, cpu_threads, evaluate, show
from zoo.training.folder import RunFolder
from zoo.training.optim import create_optimizer, create_scheduler, second_derivatives
from zoo.training.schema import Duration
from zoo.training.seeds import INIT, STEP, TASK, derive_seed, seeded_globals
from zoo.training.splits import Split
from zoo.training.tasks import check_images

WHOLE = sharding.StateDictOptions(full_state_dict=True, cpu_offload=True)


class Trainer:
    """One run of a recipe, in one folder.

    If the folder holds an interrupted run of the same recipe, it goes on from the last checkpoint; it is never mixed
    with another, and a checkpoint that cannot be read is an error, never a fresh start.

    Raises:
        ValueError: the folder holds a run of another recipe, or the recipe does not fit its data or its model.
        FileExistsError: the folder holds something else.
        RuntimeError: the checkpoint cannot be resumed from.
    """

    def __init__(self, recipe: Recipe, output: str | Path):
        self.recipe, self.folder = recipe, RunFolder(output)
        self.objectives = recipe.objectives
        # A step of one task leaves the heads of the others without gradients.
        several = [DistributedDataParallelKwargs(find_unused_parameters=True)] if recipe.tasks else []
        # The precision is the recipe's: `autocast`.
        self.accelerator = accelerator = Accelerator(mixed_precision="no", kwargs_handlers=several)
        self.sharded = accelerator.distributed_type == DistributedType.FSDP
        self.share = {"rank": accelerator.process_index, "world": accelerator.num_processes}
        train, loaded = recipe.train, {}
        for objective in self.objectives.values():
            if objective.data not in loaded:  # tasks may share their data
                loaded[objective.data] = objective.data.load()
        self.data = {name: loaded[objective.data] for name, objective in self.objectives.items()}
        self.batches = self._training_batches()
        if recipe.optim.name == "lbfgs":
            self._check_full_batch()
        if recipe.optim.second_order and accelerator.num_processes > 1:
            raise ValueError(
                f"{recipe.optim.name} differentiates gradients, which processes cannot share with their graph: start "
                "one process, or set optim.name=adamw"
            )
        self.total = self._steps(train.duration)
        self.step, saved = self.folder.open(recipe)
        model = self._create_model()
        if accelerator.num_processes > 1:
            share_losses(model)
        for name, objective in self.objectives.items():
            split = self.data[name]["train"]
            if name:
                check_images(model, split, f"model.heads.{name}")  # a head does not know the channels of images
                objective.task.check(model.heads[name], split, f"model.heads.{name}")
            else:
                objective.task.check(model, split)
        recipe.check(self.data)
        self.selectable = [module for module in model.modules() if isinstance(module, Selectable)]
        if train.select is not None and not (self.selectable and self._steps(train.select) < self.total):
            raise ValueError(
                f"train.select is {train.select}: it needs nodes that can choose, as model.kwargs.layer=select gives, "
                f"and must be before the last of the {self.total} steps"
            )
        self.model, self.optimizer = accelerator.prepare(model, create_optimizer(model, recipe.optim))
        self.ema = None
        if train.ema is not None:
            if self.sharded:
                raise ValueError("train.ema needs whole weights, which FSDP does not keep: set it to null, or use DDP")
            self.ema = ModelEmaV3(accelerator.unwrap_model(self.model), decay=train.ema, use_warmup=True)
        self.scheduler = create_scheduler(
            self.optimizer.optimizer, recipe.schedule, steps=self.total, steps_per_epoch=self.batches.steps_per_epoch
        )
        if saved is not None:
            self._restore(saved)

    @property
    def splits(self) -> dict[str, Split]:
        """The data of a recipe with one task."""
        return self.data[""]

    def run(self) -> dict[str, float]:
        """Train to the end, save the model, and return the metrics of the test split (validation if there is none)."""
        self.fit()
        self.save_model()
        metrics = self.evaluate(measured_part(self.data))
        self._log(metrics | {"final": True})
        return metrics

    def fit(self) -> None:
        """Train from the current step to the last."""
        self.accelerator.wait_for_everyone()  # every process has looked into the folder before one writes
        if self._is_main:
            self.folder.begin(self.recipe, self.step)
        train, device = self.recipe.train, self.accelerator.device
        steps = range(self.step, self.total)
        bar = tqdm(total=self.total, initial=self.step, unit="step", disable=None if self._is_main else True)
        seeding = torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])
        with seeding, cpu_threads(self.recipe), bar:
            for step, (inputs, targets) in zip(steps, loader(self.batches, steps), strict=True):
                if train.select is not None and step == self._steps(train.select):
                    self._select()
                record = self._update(step, inputs.to(device, non_blocking=True), targets.to(device, non_blocking=True))
                self.step = step + 1
                bar.update()
                if self._due(train.log_every):
                    bar.set_postfix(loss=f"{record['loss']:.4f}")
                    self._log(record)
                if self._due(train.eval_every):
                    metrics = self.evaluate("validation")
                    self._log(metrics)
                    self._say(f"step {self.step}/{self.total}  loss {record['loss']:.4f}  {show(metrics)}")
                if self._due(train.checkpoint_every):
                    self.save_checkpoint()

    def evaluate(self, split: str) -> dict[str, float]:
        """The metrics of a split as `split/name`, of the averaged weights if the recipe keeps them.

        Of several tasks they are called `split/task/name`.
        """
        model = self.model if self.ema is None else self.ema.module
        metrics = {}
        for task, splits in self.data.items():
            found = evaluate(model, self.recipe, splits[split], task=task, **self.share)
            metrics |= {"/".join(filter(None, (split, task, name))): value for name, value in found.items()}
        return metrics

    def save_checkpoint(self) -> None:
        """Write the checkpoint of the current step."""
        weights, optimizer = self._state()
        if self._is_main:
            ema = {} if self.ema is None else {"ema": self.ema.module.state_dict()}
            self.folder.save_checkpoint(self.step, {"model": weights} | ema, optimizer)
        self.accelerator.wait_for_everyone()

    def save_model(self) -> None:
        """Write the model, with the averaged weights if the recipe keeps them, as `model/`."""
        weights, _ = self._state()
        if self._is_main:
            model = self._create_model()
            model.load_state_dict(weights if self.ema is None else self.ema.module.state_dict())
            self.folder.save_model(model)
        self.accelerator.wait_for_everyone()

    def _update(self, step: int, inputs: Tensor, targets: Tensor) -> dict[str, Any]:
        """One optimizer step; nothing is changed if the loss or the gradient is not finite."""
        train, accelerator, name = self.recipe.train, self.accelerator, self.batches.name(step)
        objective, given = self.objectives[name], {"task": name} if name else {}
        self.scheduler.step_update(step)
        self.model.train()
        records: list[dict[str, Any]] = []
        returned: list[Aux] = []

        def loss_and_gradient() -> Tensor:
            """For the optimizer, which may ask more than once; the first answer is what is reported of the step."""
            torch.manual_seed(derive_seed(train.seed, STEP, step, accelerator.process_index))
            self.optimizer.zero_grad()
            with autocast(self.recipe, inputs.device):
                outputs, aux = self.model(inputs, return_aux=True, **given)
            loss = objective.weight * objective.task.loss(outputs.float(), targets) + self._aux_loss(aux)
            value = accelerator.reduce(loss.detach(), "mean").item()  # the same in every process, so they stop together
            self._check_finite("loss", value, step)
            accelerator.backward(loss, create_graph=self.recipe.optim.second_order)
            norm = accelerator.clip_grad_norm_(self.model.parameters(), train.grad_clip or math.inf).item()
            self._check_finite("norm of the gradient", norm, step)
            record = given | {"loss": value, "grad_norm": norm}
            records.append(record | {key: numbers(entry) for key, entry in aux.items()})
            returned.append(aux)
            return loss

        with second_derivatives(self.recipe.optim.second_order):
            self.optimizer.step(loss_and_gradient)
        rebalance(accelerator.unwrap_model(self.model), returned[0])
        if self.ema is not None:
            self.ema.update(accelerator.unwrap_model(self.model), step=step)
        return records[0] | {"lr": self.optimizer.param_groups[0]["lr"]}

    def _select(self) -> None:
        """Let the nodes of S-KAN layers choose, and those of the averaged model the same.

        What the optimizer knows of the function before is dropped.
        """
        for module in self.selectable:
            module.select()
        if self.ema is not None:  # else it would choose when most of the average is from after the choice
            averaged = (module for module in self.ema.module.modules() if isinstance(module, Selectable))
            for module, other in zip(self.selectable, averaged, strict=True):
                other.gates.chosen.copy_(module.gates.chosen)
        self.optimizer.state.clear()

    def _aux_loss(self, aux: Aux) -> Tensor | float:
        """The model's auxiliary losses, weighted by the recipe."""
        returned = [key.removeprefix("loss/") for key in aux if key.startswith("loss/")]
        for name in self.recipe.aux_losses:
            if name not in returned:
                problem = f"the loss {name!r} of aux_losses"
                raise ValueError(unknown(problem, name, returned, what="returned by the model"))
        return sum(weight * aux[f"loss/{name}"] for name, weight in self.recipe.aux_losses.items())

    def _check_finite(self, what: str, value: float, step: int) -> None:
        if not math.isfinite(value):
            raise FloatingPointError(
                f"the {what} is {value} at step {step + 1}: stopped before the update, the weights are as before. "
                "Lower optim.lr, lengthen schedule.warmup or set train.grad_clip; see if train.precision=fp32 helps"
            )

    def _check_full_batch(self) -> None:
        """Check what L-BFGS needs: the same loss all the time, and all of it here."""
        if self.recipe.tasks is not None:
            raise ValueError("lbfgs needs the same loss in every step, not tasks in turn: take another optimizer")
        train, examples = self.recipe.train, len(self.splits["train"])
        if train.batch_size != examples or train.grad_clip is not None or self.share["world"] > 1:
            raise ValueError(
                "lbfgs needs all training data in every step, gradients as they are and a single process: "
                f"set train.batch_size={examples} (it is {train.batch_size}) and train.grad_clip=null, and start one "
                f"process (there are {self.share['world']}); or take another optimizer"
            )

    def _training_batches(self) -> AlternatingBatches:
        """The batches of all tasks in turn; those of a task among several have a seed of their own."""
        train, parts = self.recipe.train, {}
        for number, (name, objective) in enumerate(self.objectives.items()):
            parts[name] = TrainingBatches(
                self.data[name]["train"],
                objective.task,
                batch_size=train.batch_size,
                seed=derive_seed(train.seed, TASK, number) if name else train.seed,
                **self.share,
            )
        return AlternatingBatches(parts, seed=train.seed)

    def _create_model(self) -> nn.Module:
        with seeded_globals(derive_seed(self.recipe.train.seed, INIT)):
            return self.recipe.model.create()

    def _state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The whole weights and optimizer state; under FSDP every process must call this."""
        model, optimizer = self.accelerator.unwrap_model(self.model), self.optimizer.optimizer
        if self.sharded:
            return sharding.get_state_dict(model, optimizer, options=WHOLE)
        return model.state_dict(), optimizer.state_dict()

    def _restore(self, path: Path) -> None:
        model, optimizer = self.accelerator.unwrap_model(self.model), self.optimizer.optimizer
        try:
            weights, state = self.folder.load_checkpoint(path, ["model"] if self.ema is None else ["model", "ema"])
            if self.sharded:
                # The optimizer first: torch fills an empty one by a step of rate zero, which may touch the weights.
                sharding.set_optimizer_state_dict(model, optimizer, state, options=WHOLE)
                sharding.set_model_state_dict(model, weights["model"], options=WHOLE)
            else:
                optimizer.load_state_dict(state)
                model.load_state_dict(weights["model"])
            if self.ema is not None:
                self.ema.module.load_state_dict(weights["ema"])
        except Exception as error:
            raise RuntimeError(
                f"{path} cannot be resumed from ({type(error).__name__}: {error}): "
                f"remove {self.folder.path} to start again"
            ) from error
        self._say(f"resumed {self.folder.path} at step {self.step}/{self.total}")

    def _steps(self, duration: Duration) -> int:
        return duration.steps(self.batches.steps_per_epoch)

    def _due(self, every: Duration) -> bool:
        return self.step % self._steps(every) == 0 or self.step == self.total

    @property
    def _is_main(self) -> bool:
        return self.accelerator.is_main_process

    def _log(self, record: dict[str, Any]) -> None:
        if self._is_main:
            self.folder.log({"step": self.step} | record)

    def _say(self, line: str) -> None:
        if self._is_main:
            tqdm.write(line)


def numbers(entry: Tensor | tuple[Tensor, ...]) -> Any:
    """An auxiliary output as JSON has it: a loss is a tensor, a statistic a tuple of them, one a layer."""
    return entry.tolist() if isinstance(entry, Tensor) else [layer.tolist() for layer in entry]
