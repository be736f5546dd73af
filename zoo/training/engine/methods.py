"""The methods of a recipe in the training loop: where they stand beside the model, and when each has its turn."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from zoo.blocks.base import Aux
from zoo.skeletons.model import DecayMarks
from zoo.training.data.splits import Split
from zoo.training.engine.precision import autocast
from zoo.training.methods.base import Effect, Pass, Setting
from zoo.training.recipe.recipe import Objective, Recipe
from zoo.training.recipe.schema import Duration
from zoo.training.seeds import METHOD, derive_seed
from zoo.training.tasks.base import Task


class Effects(DecayMarks, nn.ModuleDict):
    """The effects of methods by the recipe's names for them."""


class Joint(nn.Module):
    """A model and the effects of methods as one module, so that processes share the gradients of both.

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
    """

    def __init__(self, model: nn.Module, effects: Mapping[str, Effect]):
        self.effects, self.joint = dict(effects), Joint(model, effects)

    @property
    def beside(self) -> Effects:
        """What is trained, and written into checkpoints, beside the model."""
        return self.joint.methods

    def loss(
        self,
        model: nn.Module,
        step: int,
        inputs: Tensor,
        targets: Tensor,
        objective: Callable[[Tensor, Aux], Tensor],
        precision: str,
        keywords: Mapping[str, Any],
    ) -> tuple[Tensor, Aux]:
        """The loss of a part of a batch, and what the network returned beside its outputs.

        Args:
            model: `joint`, as the accelerator has prepared it.
            step: The number of the step.
            inputs, targets: The part of the batch.
            objective: The loss without methods, of outputs and auxiliary outputs.
            precision: Of the recipe.
            keywords: For the model.
        """
        losses, auxes = [], []
        for network in self._networks(step) or [None]:
            with autocast(precision, inputs.device):
                if network is None:
                    outputs, aux, beside = model(inputs, taught=True, **keywords)
                else:
                    (outputs, aux), beside = network(inputs), {}
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
    recipe: Recipe,
    model: nn.Module,
    objectives: Mapping[str, Objective],
    data: Mapping[str, Mapping[str, Split]],
    *,
    device: torch.device,
    processes: int,
    sharded: bool,
    steps: Callable[[Duration], int],
) -> Methods | None:
    """The methods of a recipe, begun; None if it has none.

    Args:
        recipe, model, objectives: What is trained.
        data: The splits of each task.
        device: On which.
        processes: How many train together.
        sharded: Whether each has a part of the weights.
        steps: Makes steps of a duration.

    Raises:
        ValueError, FileNotFoundError: A method does not fit the training.
    """
    if not recipe.methods:
        return None
    if sharded or (recipe.train.expert_parallel and processes > 1):
        how = "FSDP" if sharded else "train.expert_parallel"
        raise ValueError(f"methods need whole weights, which {how} does not keep: use DDP, or remove methods")
    task, objective = next(iter(objectives.items()))
    effects: dict[str, Effect] = {}
    for number, (name, method) in enumerate(recipe.methods.items()):
        key = f"methods.{name}"
        split = data[task]["train"]
        is_of_classes = split.kind == "image" and type(objective.task).example is Task.example
        if not method.any_task and not is_of_classes:
            raise ValueError(
                f"{key}: {method.name} needs a task of one class an image, and {objective.task.name} is none: remove "
                "one of them"
            )
        if not method.any_form and processes > 1:
            raise ValueError(f"{key}: {method.name} trains in one process: start one")
        seed = derive_seed(recipe.train.seed, METHOD, number)
        effects[name] = method.begin(Setting(key, model, split, objective.task, recipe.train, device, seed, steps)).to(
            device
        )
    return Methods(model, effects)
