"""The training loop: any recipe, on one CPU, one GPU or many processes (`accelerate launch`).

Everything random in step t is seeded by (recipe seed, t, process), and the learning rate is a function of t. So the
step, the weights and the optimizer's state are the whole state of a run, and a resumed run repeats the uninterrupted
one bit by bit (on a CPU; a GPU's own kernels may not be deterministic).
"""

import contextlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs, DistributedType
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from tqdm import tqdm

from zoo.blocks.base import Aux
from zoo.blocks.protocol import after_step
from zoo.checks import printable, shown, unknown
from zoo.tools.moe.parallel import share_losses
from zoo.training.data.alternate import AlternatingBatches
from zoo.training.data.batches import TrainingBatches, loader
from zoo.training.data.splits import Split
from zoo.training.divergence import check_after, check_before, check_state
from zoo.training.evaluation import autocast, cpu_threads, evaluate_part, load_data, show
from zoo.training.optim import create_optimizer, create_scheduler, second_derivatives
from zoo.training.phases import enter_phase, phases_by_step
from zoo.training.processes import in_main
from zoo.training.recipe.recipe import Recipe, measured_part
from zoo.training.recipe.schema import Duration
from zoo.training.runs.checkpoints import Content
from zoo.training.runs.folder import RunFolder
from zoo.training.runs.records import numbers
from zoo.training.seeds import INIT, STEP, TASK, derive_seed, seeded_globals
from zoo.training.state import restore_state, whole_state, with_options
from zoo.training.tasks.base import check_images


class Trainer:
    """One run of a recipe, in one folder.

    If the folder holds an interrupted run of the same recipe, it goes on from the last checkpoint; it is never mixed
    with another, and a checkpoint that cannot be read is an error, never a fresh start. While a run writes, no other
    can write into its folder.

    Args:
        recipe: What to train.
        output: The folder.
        source: A run, or a checkpoint of one, of which this one takes over weights, step and the optimizer's state, if
            the folder has no checkpoint yet. Its recipe may be another, for the same model; `metrics.jsonl` says what
            was changed.

    Raises:
        ValueError: the folder holds a run of another recipe, the recipe does not fit its data or its model, or the
            checkpoint is damaged or does not fit.
        FileExistsError: the folder holds something else, or another process trains in it.
        FileNotFoundError: `source` has no checkpoint.
        TypeError: an argument is of another type.
    """

    def __init__(self, recipe: Recipe, output: str | Path, source: str | Path | None = None):
        if not isinstance(recipe, Recipe):
            raise TypeError(f"recipe is {shown(recipe)}; it must be a Recipe, such as load_recipe(path) gives")
        self.recipe, self.folder = recipe, RunFolder(output)
        self.objectives = recipe.objectives
        # A step of one task leaves the heads of the others without gradients.
        several = [DistributedDataParallelKwargs(find_unused_parameters=True)] if recipe.tasks else []
        # The precision is the recipe's: `autocast`.
        self.accelerator = accelerator = Accelerator(mixed_precision="no", kwargs_handlers=several)
        self.sharded = accelerator.distributed_type == DistributedType.FSDP
        self._is_main = accelerator.is_main_process
        self.share = {"rank": accelerator.process_index, "world": accelerator.num_processes}
        train, self.data = recipe.train, load_data(recipe)
        self.batches = self._training_batches()
        if recipe.optim.name == "lbfgs":
            self._check_full_batch()
        if recipe.optim.second_order and accelerator.num_processes > 1:
            raise ValueError(
                f"{recipe.optim.name} differentiates gradients, which processes cannot share with their graph: start "
                "one process, or set optim.name=adamw"
            )
        self.total = self._steps(train.duration)
        self.source, self.start = source, self.folder.open(recipe, source)
        self.step = self.start.step
        self.first_losses: dict[str, float] = {}  # of each task, before its first update: what divergence is told by
        self.unreadable = 0  # pictures that this process left out, in training
        self._saved = self.start.checkpoint is not None and self.start.checkpoint.parent == self.folder.checkpoints
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
        self.phases = phases_by_step(model, train.phases, self._steps, self.total)
        self.model, self.optimizer = accelerator.prepare(model, create_optimizer(model, recipe.optim))
        self.ema = None
        if train.ema is not None:
            if self.sharded:
                raise ValueError("train.ema needs whole weights, which FSDP does not keep: set it to null, or use DDP")
            self.ema = ModelEmaV3(accelerator.unwrap_model(self.model), decay=train.ema, use_warmup=True)
        self.scheduler = create_scheduler(
            self.optimizer.optimizer, recipe.schedule, steps=self.total, steps_per_epoch=self.batches.steps_per_epoch
        )
        if self.start.checkpoint is not None:
            self._restore()

    @property
    def splits(self) -> dict[str, Split]:
        """The data of a recipe with one task."""
        return self.data[""]

    def run(self) -> dict[str, float]:
        """Train to the end, save the model, and return the metrics of the test split (validation if there is none).

        Raises:
            FloatingPointError: the training diverged; the last checkpoint is from before.
            FileExistsError: another process trains in the folder, or has done so since this object was made.
            OSError: the folder cannot be written; what was in it before is as it was.
        """
        with self._writing():
            self.fit()
            self.save_model()
            metrics = self.evaluate(measured_part(self.data))
            self._log(metrics | {"final": True})
        return metrics

    def fit(self) -> None:
        """Train from the current step to the last; raises as `run`."""
        with self._writing():
            in_main(self.accelerator, lambda: self.folder.begin(self.recipe, self.step, self.start.record))
            if not self._saved:
                self.save_checkpoint()  # a run that diverges at once can be gone on with, and a full disk shows now
            try:
                self._fit()
            except FloatingPointError as error:
                self._log({"diverged": str(error)})
                raise

    def _fit(self) -> None:
        train, device = self.recipe.train, self.accelerator.device
        steps = range(self.step, self.total)
        bar = tqdm(total=self.total, initial=self.step, unit="step", disable=None if self._is_main else True)
        seeding = torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])
        with seeding, cpu_threads(self.recipe), bar:
            for step, (inputs, targets) in zip(steps, loader(self.batches, steps), strict=True):
                for phase in self.phases.get(step, ()):
                    averaged = None if self.ema is None else self.ema.module
                    enter_phase(self.accelerator.unwrap_model(self.model), phase, averaged, self.optimizer)
                record = self._update(step, inputs.to(device, non_blocking=True), targets.to(device, non_blocking=True))
                self.step = step + 1
                self.unreadable += self.batches.parts[self.batches.name(step)].share - len(inputs)
                bar.update()
                if self._due(train.log_every):
                    bar.set_postfix(loss=f"{record['loss']:.4f}")
                    self._log(record | self._left_out())
                if self._due(train.checkpoint_every):
                    self._check_update(step, inputs.to(device), targets.to(device))
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
        return evaluate_part(model, self.recipe, self.data, split, **self.share)

    def save_checkpoint(self) -> None:
        """Write the checkpoint of the current step.

        Raises:
            FloatingPointError: the state has diverged; the last checkpoint stays.
        """
        weights, optimizer = self._state()
        facts = {"first_losses": self.first_losses} | self._left_out()

        def write() -> None:
            ema = {} if self.ema is None else {"ema": self.ema.module.state_dict()}
            self._check_state(weights, optimizer)
            self.folder.save_checkpoint(self.step, {"model": weights} | ema, optimizer, facts)

        with self._writing():
            in_main(self.accelerator, write)
        self._saved = True

    def save_model(self) -> None:
        """Write the model, with the averaged weights if the recipe keeps them, as `model/`."""
        weights, optimizer = self._state()

        def write() -> None:
            self._check_state(weights, optimizer)
            model = self._create_model()
            model.load_state_dict(weights if self.ema is None else self.ema.module.state_dict())
            self.folder.save_model(model)

        with self._writing():
            in_main(self.accelerator, write)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Within it the folder is this run's; its main process holds the lock for all."""
        self.accelerator.wait_for_everyone()  # every process has looked into the folder before one writes
        with contextlib.ExitStack() as stack:
            in_main(self.accelerator, lambda: stack.enter_context(self.folder.held()))
            yield

    def _update(self, step: int, inputs: Tensor, targets: Tensor) -> dict[str, Any]:
        """One optimizer step; nothing is changed if the loss or the gradient is not finite."""
        train, accelerator, name = self.recipe.train, self.accelerator, self.batches.name(step)
        self.scheduler.step_update(step)
        self.model.train()
        records: list[dict[str, Any]] = []
        returned: list[Aux] = []

        def loss_and_gradient() -> Tensor:
            """For the optimizer, which may ask more than once; the first answer is what is reported of the step."""
            self.optimizer.zero_grad()
            loss, aux = self._loss(step, inputs, targets)
            value = accelerator.reduce(loss.detach(), "mean").item()  # the same in every process, so they stop together
            check_before("loss", value, step, self.folder.path)
            accelerator.backward(loss, create_graph=self.recipe.optim.second_order)
            norm = accelerator.clip_grad_norm_(self.model.parameters(), train.grad_clip or math.inf).item()
            check_before("norm of the gradient", norm, step, self.folder.path)
            record = ({"task": name} if name else {}) | {"loss": value, "grad_norm": norm}
            records.append(record | {key: numbers(entry) for key, entry in aux.items()})
            returned.append(aux)
            return loss

        with second_derivatives(self.recipe.optim.second_order):
            self.optimizer.step(loss_and_gradient)
        self.first_losses.setdefault(name, records[0]["loss"])
        after_step(accelerator.unwrap_model(self.model), returned[0])
        if self.ema is not None:
            self.ema.update(accelerator.unwrap_model(self.model), step=step)
        return records[0] | {"lr": self.optimizer.param_groups[0]["lr"]}

    def _loss(self, step: int, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Aux]:
        """The loss of a batch, of this process's share of it, and what the model returned beside its outputs."""
        name = self.batches.name(step)
        objective, keywords = self.objectives[name], {"task": name} if name else {}
        torch.manual_seed(derive_seed(self.recipe.train.seed, STEP, step, self.accelerator.process_index))
        with autocast(self.recipe, inputs.device):
            outputs, aux = self.model(inputs, return_aux=True, **keywords)
        return objective.weight * objective.task.loss(outputs.float(), targets) + self._aux_loss(aux), aux

    @torch.no_grad()
    def _check_update(self, step: int, inputs: Tensor, targets: Tensor) -> None:
        """Check that the model still has a sensible loss after an update, on the batch that this was made from.

        The model is in training mode, and is left as it was: batch norms do not see the batch twice.
        """
        before = [buffer.clone() for buffer in self.model.buffers()]
        loss, _ = self._loss(step, inputs, targets)
        for buffer, value in zip(self.model.buffers(), before, strict=True):
            buffer.copy_(value)
        value, first = self.accelerator.reduce(loss, "mean").item(), self.first_losses.get(self.batches.name(step))
        check_after(value, first, step, self.folder.path)

    def _check_state(self, weights: dict[str, Tensor], optimizer: dict[str, Any]) -> None:
        names = [name for name, _ in self.accelerator.unwrap_model(self.model).named_parameters()]
        check_state(weights, names, optimizer, self.step, self.folder.path)

    def _left_out(self) -> dict[str, int]:
        """How many pictures were left out in training so far, where the recipe allows that; every process must ask."""
        if not any(splits["train"].skip for splits in self.data.values()):
            return {}
        count = torch.tensor(self.unreadable, device=self.accelerator.device)
        return {"unreadable": int(self.accelerator.reduce(count, "sum"))}

    def _aux_loss(self, aux: Aux) -> Tensor | float:
        """The model's auxiliary losses, weighted by the recipe."""
        returned = [key.removeprefix("loss/") for key in aux if key.startswith("loss/")]
        for name in sorted(self.recipe.aux_losses.keys() - returned):
            raise ValueError(unknown(f"the loss {name!r} of aux_losses", name, returned, "returned by the model"))
        return sum(weight * aux[f"loss/{name}"] for name, weight in self.recipe.aux_losses.items())

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
        return whole_state(self.accelerator.unwrap_model(self.model), self.optimizer.optimizer, sharded=self.sharded)

    def _restore(self) -> None:
        """Take over the state of the checkpoint to start at."""
        weights, state, facts = self._load()
        path, changed = self.start.checkpoint, self.start.record.get("changed")
        if self.start.record and self.step >= self.total:
            raise ValueError(
                f"{printable(path)} is at step {self.step}, and the recipe trains {self.total} in all: set "
                "train.duration to more"
            )
        model, optimizer = self.accelerator.unwrap_model(self.model), self.optimizer.optimizer
        try:
            if self.start.record:
                is_other = any(change.startswith("optim.name") for change in changed or ())
                state = None if is_other else with_options(state, optimizer)
            restore_state(model, optimizer, weights["model"], state, sharded=self.sharded)
            if self.ema is not None:
                self.ema.module.load_state_dict(weights.get("ema", weights["model"]))
        except Exception as error:  # of many kinds, by what does not fit
            raise ValueError(
                f"{printable(path)} cannot be resumed from, since it does not fit the model and the optimizer of the "
                f"recipe ({type(error).__name__}: {printable(error)}). {self.folder.remedy(path)}"
            ) from error
        self.unreadable = facts.get("unreadable", 0) if self._is_main else 0
        self.first_losses |= facts.get("first_losses", {})
        self._say(f"resumed {printable(self.folder.path)} at step {self.step}/{self.total}")
        if self.start.record:
            said = "what its recipe was is not known" if changed is None else "; ".join(changed) or "nothing is changed"
            anew = "" if state else "; the optimizer begins anew, as it is another"
            self._say(printable(f"from {path}: {said}{anew}"))

    def _load(self) -> Content:
        """Read the checkpoint to start at, or a later one if a run that is still trained has removed it meanwhile."""
        while True:
            path = self.start.checkpoint
            averaged = self.ema is not None and not (self.start.record and not (path / "ema.safetensors").exists())
            try:
                return self.folder.load_checkpoint(path, ["model", "ema"] if averaged else ["model"])
            except ValueError:
                self.start = self.folder.open(self.recipe, self.source)
                if self.start.checkpoint in (path, None):
                    raise
                self.step = self.start.step

    def _steps(self, duration: Duration) -> int:
        return duration.steps(self.batches.steps_per_epoch)

    def _due(self, every: Duration) -> bool:
        return self.step % self._steps(every) == 0 or self.step == self.total

    def _log(self, record: dict[str, Any]) -> None:
        if self._is_main:
            self.folder.log({"step": self.step} | record)

    def _say(self, line: str) -> None:
        if self._is_main:
            tqdm.write(line)
