"""SortedNet: networks that lie in each other are trained together, and cut out afterwards as they are."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor, nn
from torch.func import functional_call

from zoo.blocks.base import Aux
from zoo.checks import Interval
from zoo.tools.nested import slices, smaller
from zoo.training.methods.base import Effect, Method, Network, Setting
from zoo.training.recipe.section import Misfit
from zoo.training.seeds import derive_seed, generator, seeded_globals


@dataclass(frozen=True)
class Sorted(Method):
    """SortedNet (arXiv 2309.00255): each step trains networks drawn among the model and some that lie in it.

    A cut is what `zoo.tools.nested.cut` takes: `depth` for the first blocks, `dim` for the first channels, a slot for
    the first hidden ones. That function cuts the networks out of the trained model; nothing is trained again. The step
    goes along the mean of the gradients of its networks.
    """

    name: ClassVar[str] = "sorted"
    cuts: tuple[dict[str, Any], ...]  # the arguments that are smaller, for each network beside the whole model
    samples: Annotated[int, Interval(1, 64)] = 1  # networks that are drawn for a step

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.cuts or not all(self.cuts):
            raise Misfit("cuts has no network, or one without a smaller argument: give such as [{depth: 2}]", "cuts")

    def begin(self, setting: Setting) -> Effect:
        model, train, key = setting.model, setting.train, setting.key
        refused = {
            "freeze": bool(train.freeze),
            "linear_probe": train.linear_probe,
            "drop_path": train.drop_path is not None,
            "phases": bool(train.phases),
            "grad_checkpointing": train.grad_checkpointing,
        }
        for name, is_set in refused.items():
            if is_set:
                raise ValueError(
                    f"{key}: train.{name} changes the model, and not the networks in it: remove one of both"
                )
        networks = []
        for number, arguments in enumerate(self.cuts):
            try:
                with seeded_globals(setting.seed):
                    networks.append(smaller(model, arguments).to(setting.device))
            except (ValueError, TypeError) as error:
                raise ValueError(f"{key}.cuts[{number}]: {error}") from error
        return Nested(self, model, networks, setting.seed)


class Nested(Effect):
    """The networks that lie in a model, which compute with its weights."""

    def __init__(self, method: Sorted, model: nn.Module, networks: Sequence[nn.Module], seed: int):
        super().__init__()
        self.method, self.seed = method, seed
        self.within = [Within(model, network) for network in networks]

    def networks(self, step: int) -> Sequence[Network | None]:
        everything = [*self.within, None]
        drawn = torch.randint(
            len(everything), (self.method.samples,), generator=generator(derive_seed(self.seed, step))
        )
        return [everything[number] for number in drawn.tolist()]


class Within:
    """A network in a model: called as the model is, it computes with the beginning of each of its weights.

    It is no module, since all that it has is the model's.
    """

    def __init__(self, model: nn.Module, network: nn.Module):
        self.model, self.network = model, network

    def __call__(self, x: Tensor) -> tuple[Tensor, Aux]:
        self.network.train(self.model.training)
        return functional_call(self.network, slices(self.model, self.network), (x,), {"return_aux": True})
