"""The training loop: any recipe, on one CPU, one GPU or many processes (`accelerate launch`).

Everything random in step t is seeded by (recipe seed, t, process), and the learning rate is a function of t. So the
step, the weights and the optimizer's state are the whole state of a run, and a resumed run repeats the uninterrupted
one bit by bit (on a CPU; a GPU's own kernels may not be deterministic).
"""

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import DistributedType
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from zoo.blocks.protocol import after_step, own
from zoo.checks import printable, shown
from zoo.training.data.alternate import training_batches
from zoo.training.data.batches import loader, waiting_workers
from zoo.training.data.splits import Split
from zoo.training.divergence import check_state
from zoo.training.engine.best import BestSoFar
from zoo.training.engine.drop_path import DropPathSchedule
from zoo.training.engine.facts import tell_of_data
from zoo.training.engine.form import set_form, spread
from zoo.training.engine.freeze import freeze
from zoo.training.engine.methods import begin_methods
from zoo.training.engine.preflight import check_model, check_optimizer
from zoo.training.engine.signals import Asked, asked_to_end
from zoo.training.engine.step import Stepper
from zoo.training.evaluation import cpu_threads, evaluate_part, load_data, show
from zoo.training.optim import create_optimizer, create_scheduler
from zoo.training.phases import enter_phase, phases_by_step
from zoo.training.processes import in_main, join
from zoo.training.recipe.recipe import Recipe, measured_part
from zoo.training.recipe.schema import Duration
from zoo.training.runs.folder import RunFolder
from zoo.training.runs.records import as_numbers
from zoo.training.runs.resuming import load_start
from zoo.training.seeds import INIT, derive_seed, seeded_globals
from zoo.training.state import restore_state, whole_state, with_options, without
from zoo.training.watching.watch import Watch, unwatched_after, watch_of


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
        self.folder = RunFolder(output)
        self.accelerator = accelerator = join(several_tasks=bool(recipe.tasks))
        self.sharded = accelerator.distributed_type == DistributedType.FSDP
        self._is_main = accelerator.is_main_process
        self.share = {"rank": accelerator.process_index, "world": accelerator.num_processes}
        train, self.data = recipe.train, load_data(recipe)
        self.recipe = recipe = recipe.fitted(self.data)
        self.objectives = {
            name: replace(objective, task=objective.task.fitted(self.data[name]["train"]))
            for name, objective in recipe.objectives.items()
        }
        self.batches = training_batches(self.objectives, self.data, train, **self.share)
        check_optimizer(recipe, self.data, **self.share)
        self.total = self._steps(train.duration)
        self.source, self.start = source, self.folder.open(recipe, source)
        self.step = self.start.step
        self.watch: Watch | None = None  # while it trains
        self.first_losses: dict[str, float] = {}  # of each task, before its first update: what divergence is told by
        self.unreadable = 0  # pictures that this process left out, in training
        self._saved = self.start.checkpoint is not None and self.start.checkpoint.parent == self.folder.checkpoints
        model = self._create_model()
        check_model(model, self.objectives, self.data)
        recipe.check(self.data)
        self.phases = phases_by_step(model, train.phases, self._steps, self.total)
        frozen = freeze(model, train.freeze, linear_probe=train.linear_probe)
        schedule = train.drop_path
        self.drop_path = schedule and DropPathSchedule(model, schedule, self.batches.steps_per_epoch)
        self.best = train.best and BestSoFar(train.best, recipe.directions("validation", self.data))
        self.methods = begin_methods(recipe, model, self.data, self._steps, accelerator)
        self.beside = None if self.methods is None else self.methods.beside  # what is trained with the model
        spread(model, train, device=accelerator.device, world=accelerator.num_processes)
        set_form(model, train)
        whole = model if self.methods is None else self.methods.joint
        self.model, self.optimizer = accelerator.prepare(whole, create_optimizer(model, recipe.optim, self.beside))
        # Under FSDP with the shards of its parameters.
        self.plain_model = accelerator.unwrap_model(self.model) if self.methods is None else model
        self._has_after_step = any(own(module, "after_step") for module in self.plain_model.modules())
        self.stepper = Stepper(
            recipe,
            self.objectives,
            accelerator,
            self.model,
            self.optimizer.optimizer,
            frozen,
            self.folder.path,
            self.methods,
        )
        self.ema = None
        if train.ema is not None:
            if self.sharded or self.stepper.experts:
                raise ValueError(
                    "train.ema needs whole weights, which neither FSDP nor train.expert_parallel keeps: set it to "
                    "null, or use DDP"
                )
            self.ema = ModelEmaV3(self.plain_model, decay=train.ema, use_warmup=True)
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
        with self._writing(), self._watched():
            self.fit()
            self.save_model()
            metrics = self.evaluate(measured_part(self.data))
            self._log(metrics | {"final": True})
        return metrics

    def fit(self) -> None:
        """Train from the current step to the last; raises as `run`."""
        with self._writing(), self._watched():
            if not self._saved:
                self.save_checkpoint()  # a run that diverges at once can be gone on with, and a full disk shows now
            try:
                self._fit()
            except FloatingPointError as error:
                self._log({"diverged": str(error)})
                raise

    def _fit(self) -> None:
        train, device = self.recipe.train, self.accelerator.device
        steps = range(self.step, self.step if self._stopped else self.total)
        seeding = torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])
        with seeding, cpu_threads(self.recipe), waiting_workers(), asked_to_end() as asked:
            for step, batch in zip(steps, loader(self.batches, steps), strict=True):
                for phase in self.phases.get(step, ()):
                    averaged = None if self.ema is None else self.ema.module
                    enter_phase(self.plain_model, phase, averaged, self.optimizer)
                record = self._update(step, *batch)
                self.step = step + 1
                self.unreadable += self.batches.parts[self.batches.name(step)].share - sum(map(len, batch[::2]))
                self.watch.advance(self.step)
                if self._due(train.log_every):
                    self.stepper.settle(step)
                    self._log(as_numbers(record) | self._left_out())
                if self._due(train.checkpoint_every):
                    self.stepper.settle(step)
                    name = self.batches.name(step)
                    self.stepper.check_update(step, batch, name, self.first_losses.get(name))
                is_best = False
                if self._due(train.eval_every):
                    self.stepper.settle(step)
                    is_best = self._evaluate()
                # With the best model, too: a run that goes on from before it would not know what is in `best/`.
                if saved := self._due(train.checkpoint_every) or is_best or self._stopped:
                    self.save_checkpoint()
                if asked.by_any(self.accelerator, together=self._due(train.log_every) or self._stopped):
                    self._end(asked, saved=saved)
                if self._stopped:
                    break

    def _evaluate(self) -> bool:
        """Measure on the validation part, and keep the model if it is the best so far, which is the answer."""
        metrics = self.evaluate("validation")
        self._log(metrics)
        named = {name.removeprefix("validation/"): value for name, value in metrics.items()}
        self._say(f"step {self.step}/{self.total}  validation: {show(named)}")
        if self.best is None:
            return False
        if is_best := self.best.better(metrics, self.step):
            self._save_model(best=True)
        if self._stopped:
            self._log({"stopped": str(self.best)})
        return is_best

    @property
    def _stopped(self) -> bool:
        """Whether the training has ended before its time, as `train.best.patience` says."""
        return self.best is not None and self.best.exhausted

    def _end(self, asked: Asked, *, saved: bool) -> None:
        """Save what there is, and end as the signal asks."""
        if not saved:
            self.stepper.settle(self.step)
            self.save_checkpoint()
        signal = "another process was asked to end" if asked.by is None else asked.by.name
        self._say(
            f"{signal}: stopped at step {self.step}/{self.total}, which is saved in {printable(self.folder.path)}; run "
            "again to go on"
        )
        asked.end()

    def evaluate(self, split: str) -> dict[str, float]:
        """The metrics of a split as `split/name`, of the averaged weights if the recipe keeps them.

        Of several tasks they are called `split/task/name`.
        """
        model = self.model if self.ema is None else self.ema.module
        paused = contextlib.nullcontext() if self.watch is None else self.watch.paused(split)
        with paused as tell:
            progress = {} if tell is None else {"progress": tell}
            metrics = evaluate_part(model, self.recipe, self.data, split, **self.share, **progress)
        if model.training:
            self.stepper.train_mode()  # what is frozen stays as in evaluation
        return metrics

    def save_checkpoint(self) -> None:
        """Write the checkpoint of the current step.

        Raises:
            FloatingPointError: the state has diverged; the last checkpoint stays.
        """
        weights, optimizer = self._state()
        facts = {"first_losses": self.first_losses} | self._left_out() | self.stepper.scale.state()
        facts |= {} if self.best is None else self.best.state()
        facts |= {} if self.methods is None else self.methods.state()

        def write() -> None:
            parts = {"model": weights}
            parts |= {} if self.ema is None else {"ema": self.ema.module.state_dict()}
            parts |= {"methods": self.beside.state_dict()} if self._trains_beside else {}
            self._check_state(weights, optimizer)
            self.folder.save_checkpoint(self.step, parts, optimizer, facts)

        with self._writing():
            in_main(self.accelerator, write)
        self._saved = True

    def save_model(self) -> None:
        """Write the model, with the averaged weights if the recipe keeps them, as `model/`."""
        self._save_model(best=False)

    def _save_model(self, *, best: bool) -> None:
        weights, optimizer = self._state()

        def write() -> None:
            self._check_state(weights, optimizer)
            model = self._create_model()
            model.load_state_dict(weights if self.ema is None else self.ema.module.state_dict())
            if "" in self.data:
                tell_of_data(model, self.recipe.data, self.splits["train"])
            self.folder.save_model(model, best=best)

        with self._writing():
            in_main(self.accelerator, write)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Within it the folder is this run's; its main process holds the lock for all."""
        self.accelerator.wait_for_everyone()  # every process has looked into the folder before one writes
        with contextlib.ExitStack() as stack:
            in_main(self.accelerator, lambda: stack.enter_context(self.folder.held()))
            yield

    @contextlib.contextmanager
    def _watched(self) -> Iterator[None]:
        """Within it the folder is one of this recipe, and what happens is told; the outermost begins and ends it."""
        if self.watch is not None:
            yield
            return

        def begin() -> None:
            self.folder.begin(self.recipe, self.step, self.start.record)
            self.watch = watch_of(self)

        in_main(self.accelerator, begin)
        if not self._is_main:
            self.watch = watch_of(self, active=False)
        with unwatched_after(self):
            yield

    def _update(self, step: int, *batch: Tensor) -> dict[str, Any]:
        """One optimizer step on inputs and targets, or on those of one part after the other; what may be logged."""
        self.scheduler.step_update(step)
        if self.drop_path is not None:
            self.drop_path.enter(step)
        record, aux = self.stepper.step(step, batch, name := self.batches.name(step))
        if name not in self.first_losses:
            self.first_losses[name] = record["loss"].item()
        if self._has_after_step:
            after_step(self.plain_model, aux)
        if self.ema is not None:
            self.ema.update(self.plain_model, step=step)
        group = self.optimizer.param_groups[0]
        return record | {"lr": group["lr"] / group.get("lr_scale", 1.0)}

    def _check_state(self, weights: dict[str, Tensor], optimizer: dict[str, Any]) -> None:
        names = [name for name, _ in self.plain_model.named_parameters()]
        check_state(weights, names, optimizer, self.step, self.folder.path)

    def _left_out(self) -> dict[str, int]:
        """How many pictures were left out in training so far, where the recipe allows that; every process must ask."""
        if not any(splits["train"].skip for splits in self.data.values()):
            return {}
        count = torch.tensor(self.unreadable, device=self.accelerator.device)
        return {"unreadable": int(self.accelerator.reduce(count, "sum"))}

    def _create_model(self) -> nn.Module:
        with seeded_globals(derive_seed(self.recipe.train.seed, INIT)):
            return self.recipe.model.create()

    def _state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        return whole_state(self.plain_model, self.optimizer.optimizer, sharded=self.sharded, beside=self.beside)

    @property
    def _trains_beside(self) -> bool:
        """Whether checkpoints have more than the model: what its methods train."""
        return self.beside is not None and bool(self.beside.state_dict())

    def _restore(self) -> None:
        """Take over the state of the checkpoint to start at."""
        parts = {"ema": self.ema is not None, "methods": self._trains_beside}
        self.start, content = load_start(self.folder, self.start, self.recipe, self.source, parts)
        (weights, state, facts), self.step = content, self.start.step
        path, changed = self.start.checkpoint, self.start.record.get("changed")
        if self.methods is not None and not self.start.record:
            self.methods.check(facts)
        if self.start.record and self.step >= self.total:
            raise ValueError(
                f"{printable(path)} is at step {self.step}, and the recipe trains {self.total} in all: set "
                "train.duration to more"
            )
        model, optimizer = self.plain_model, self.optimizer.optimizer
        try:
            if self.start.record:
                is_other = any(change.startswith("optim.name") for change in changed or ())
                state = None if is_other else with_options(state, optimizer)
            if self.methods is not None:
                anew = self.methods.load(weights.get("methods", {}), is_other=bool(self.start.record))
                state = state and without(state, anew)
            restore_state(model, optimizer, weights["model"], state, sharded=self.sharded, beside=self.beside)
            if self.ema is not None:
                self.ema.module.load_state_dict(weights.get("ema", weights["model"]))
        except Exception as error:  # of many kinds, by what does not fit
            raise ValueError(
                f"{printable(path)} cannot be resumed from, since it does not fit the model and the optimizer of the "
                f"recipe ({type(error).__name__}: {printable(error)}). {self.folder.remedy(path)}"
            ) from error
        self.unreadable = facts.get("unreadable", 0) if self._is_main else 0
        self.first_losses |= facts.get("first_losses", {})
        self.stepper.scale.restore(facts)
        if self.best is not None and self._saved:
            self.best.restore(facts)
        self._say(f"resumed {printable(self.folder.path)} at step {self.step}/{self.total}")
        if self.start.record:
            said = "what its recipe was is not known" if changed is None else "; ".join(changed) or "nothing is changed"
            anew = "" if state else "; the optimizer begins anew, as it is another"
            self._say(printable(f"from {path}: {said}{anew}"))

    def _steps(self, duration: Duration) -> int:
        return duration.steps(self.batches.steps_per_epoch)

    def _due(self, every: Duration) -> bool:
        return self.step % self._steps(every) == 0 or self.step == self.total

    def _log(self, record: dict[str, Any]) -> None:
        if self._is_main:
            self.folder.log({"step": self.step} | record)
            if self.watch is not None:
                self.watch.log(self.step, record)

    def _say(self, line: str) -> None:
        if self._is_main:
            (print if self.watch is None else self.watch.say)(line)
