"""The methods of a recipe in the training loop: where they stand beside the model, and when each has its turn."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from accelerate import Accelerator, DistributedType
from torch import Tensor, nn

from zoo.blocks.base import Aux
from zoo.blocks.protocol import own
from zoo.skeletons.model import DecayMarks
from zoo.training.engine.precision import autocast
from zoo.training.methods.base import Effect, Pass, Setting
from zoo.training.recipe.recipe import Data, Recipe
from zoo.training.recipe.schema import Duration
from zoo.training.seeds import METHOD, derive_seed, seeded_globals
from zoo.training.state import BESIDE
from zoo.training.tasks.base import Task

Loss = Callable[[Tensor, Aux], Tensor]  # of outputs and auxiliary outputs
Steps = Callable[[Duration], int]  # of a duration


class Effects(DecayMarks, nn.ModuleDict):
    """The effects of methods by the recipe's names for them."""


class Joint(nn.Module):
    """A model and the effects of methods as one module, which is what an accelerator prepares.

    It is called as the model is; with ``taught`` it also gives what the effects make of the model's feature maps.
    """

    def __init__(self, model: nn.Module, methods: Mapping[str, Effect]):
        super().__init__()
        self.model, self.methods = model, Effects(methods)

    def forward(self, x: Tensor, taught: bool = False, **keywords) -> Any:
        if not taught:
            return self.model(x, **keywords)
        levels = sorted({level for effect in self.methods.values() for level in effect.levels})
        if not levels:
            return *self.model(x, return_aux=True, **keywords), {}
        features, maps, aux = self.model.forward_intermediates(
            x, indices=levels, output_fmt="NHWC", return_aux=True, **keywords
        )
        at = dict(zip(levels, maps, strict=True))
        beside = {
            name: effect([at[level] for level in effect.levels])
            for name, effect in self.methods.items()
            if effect.levels
        }
        return self.model.forward_head(features), aux, beside


class Methods:
    """The methods of a training, in the order of the recipe.

    Attributes:
        joint: The model with them, which is what an accelerator prepares.
        teachers: The digests of the teachers of each.
        silent: Losses that the model returns, and a network in its place does not where it lacks the blocks.
    """

    def __init__(
        self,
        model: nn.Module,
        effects: Mapping[str, Effect],
        precision: str,
        teachers: Mapping[str, list[str]],
        silent: Sequence[str],
    ):
        self.effects, self.joint, self.precision = dict(effects), Joint(model, effects), precision
        self.teachers, self.silent = dict(teachers), silent

    @property
    def beside(self) -> Effects:
        """What is trained, and written into checkpoints, beside the model."""
        return self.joint.methods

    def state(self) -> dict[str, Any]:
        """What a checkpoint has of them beside weights: the digests of their teachers."""
        return {"teachers": self.teachers}

    def load(self, weights: Mapping[str, Tensor], *, is_other: bool) -> list[str]:
        """Take over what the methods have trained.

        Args:
            weights: As a checkpoint has them.
            is_other: Whether it is of a run by another recipe, of which each method keeps what fits it whole.

        Returns:
            The beginnings of the names of parameters that begin anew, as the optimizer knows them.
        """
        if not is_other:
            self.beside.load_state_dict(weights)
            return []
        anew = []
        for name, effect in self.effects.items():
            own = {key: (f"{name}.{key}", tensor.shape) for key, tensor in effect.state_dict().items()}
            if all(saved in weights and weights[saved].shape == shape for saved, shape in own.values()):
                effect.load_state_dict({key: weights[saved] for key, (saved, _) in own.items()})
            else:
                anew.append(f"{BESIDE}.{name}.")
        return anew

    def check(self, state: Mapping[str, Any]) -> None:
        """Check that a run goes on with the teachers of `state`.

        Raises:
            ValueError: One has other weights now.
        """
        before = state.get("teachers", self.teachers)
        for name, digests in self.teachers.items():
            if before.get(name) != digests:
                raise ValueError(
                    f"methods.{name} has a teacher with other weights than when this run was begun: put the old ones "
                    "back, or train into another folder"
                )

    def loss(
        self, model: nn.Module, step: int, batch: tuple[Tensor, Tensor], objective: Loss, keywords: Mapping[str, Any]
    ) -> tuple[Tensor, Aux]:
        """The loss of a part of a batch, and what the network returned beside its outputs.

        Args:
            model: `joint`, as the accelerator has prepared it.
            step: The number of the step.
            batch: Inputs and targets.
            objective: The loss without methods, of outputs and auxiliary outputs.
            keywords: For the model.
        """
        inputs, targets = batch
        losses, auxes = [], []
        for network in self._networks(step) or [None]:
            with autocast(self.precision, inputs.device):
                if network is None:
                    outputs, aux, beside = model(inputs, taught=True, **keywords)
                else:
                    (outputs, aux), beside = network(inputs), {}
                    aux = {name: outputs.new_zeros(()) for name in self.silent} | aux  # without the blocks that give it
            outputs = outputs.float()
            loss = objective(outputs, aux)
            for name, effect in self.effects.items():
                loss = effect.loss(loss, Pass(step, inputs, targets, outputs, network, beside.get(name)))
            losses.append(loss)
            auxes.append(aux)
        return losses[0] if len(losses) == 1 else torch.stack(losses).mean(), auxes[0]

    def change_gradients(self, step: int, parameters: Sequence[nn.Parameter]) -> None:
        """Let each method change the gradients of a step in place."""
        for effect in self.effects.values():
            effect.change_gradients(step, parameters)

    def _networks(self, step: int) -> Sequence[Any]:
        return next(filter(None, (effect.networks(step) for effect in self.effects.values())), ())


def begin_methods(
    recipe: Recipe, model: nn.Module, data: Data, steps: Steps, accelerator: Accelerator
) -> Methods | None:
    """The methods of a recipe, begun; None if it has none.

    Args:
        recipe: The recipe, its tasks fitted to their data.
        model: What is trained.
        data: The splits of each task.
        steps: Makes steps of a duration.
        accelerator: Of the processes.

    Raises:
        ValueError, FileNotFoundError: A method does not fit the training.
    """
    if not recipe.methods:
        return None
    sharded, processes = accelerator.distributed_type == DistributedType.FSDP, accelerator.num_processes
    if sharded or (recipe.train.expert_parallel and processes > 1):
        how = "FSDP" if sharded else "train.expert_parallel"
        raise ValueError(f"methods need whole weights, which {how} does not keep: use DDP, or remove methods")
    task, objective = next(iter(recipe.objectives.items()))
    split = data[task]["train"]
    is_of_classes = split.kind == "image" and type(objective.task).example is Task.example
    has_after_step = any(own(module, "after_step") for module in model.modules())
    effects: dict[str, Effect] = {}
    teachers: dict[str, list[str]] = {}
    for number, (name, method) in enumerate(recipe.methods.items()):
        key = f"methods.{name}"
        if not method.any_task and not is_of_classes:
            raise ValueError(
                f"{key}: {method.name} needs a task of one class an image, and {objective.task.name} is none: remove "
                "one of them"
            )
        if not method.any_form and processes > 1:
            raise ValueError(f"{key}: {method.name} trains in one process: start one")
        seed = derive_seed(recipe.train.seed, METHOD, number)
        setting = Setting(key, model, split, recipe.train, accelerator.device, seed, steps)
        effects[name] = effect = method.begin(setting).to(setting.device)
        if has_after_step and type(effect).networks is not Effect.networks:
            raise ValueError(
                f"{key}: {method.name} trains other networks in the model's place, and parts of this one change by "
                "what the whole model did in a step: take a model without such, as sigmoid routers are"
            )
        teachers[name] = [teacher.digest() for teacher in setting.teachers]
    _check_together(effects)
    replaced = any(type(effect).networks is not Effect.networks for effect in effects.values())
    return Methods(model, effects, recipe.train.precision, teachers, _losses_of(setting) if replaced else ())


def _losses_of(setting: Setting) -> list[str]:
    """The names of the losses that the model returns beside its outputs."""
    with torch.no_grad(), seeded_globals(setting.seed):
        # Some of it may be there already, as parts of an effect.
        aux = setting.model.to(setting.device).eval()(setting.example(), return_aux=True)[1]
    setting.model.train()
    return [key for key in aux if key.startswith("loss/")]


def _check_together(effects: Mapping[str, Effect]) -> None:
    """Check that at most one method says which networks are trained, and none then looks into the model.

    Raises:
        ValueError: They do not go together.
    """
    replacing = [name for name, effect in effects.items() if type(effect).networks is not Effect.networks]
    looking = [name for name, effect in effects.items() if effect.levels]
    if len(replacing) > 1 or (replacing and looking):
        first, second, *_ = [*replacing, *looking]
        raise ValueError(
            f"methods.{first} trains networks in the place of the model, which methods.{second} needs for itself: "
            "remove one of them"
        )
