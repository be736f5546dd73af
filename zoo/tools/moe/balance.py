"""Balance without a loss: the biases of sigmoid routers, moved after each step of the optimizer."""

from collections.abc import Mapping

import torch
from torch import Tensor, distributed, nn

from zoo.blocks.moe.routers.base import Router
from zoo.blocks.moe.routers.remap import Remap
from zoo.blocks.moe.routers.sigmoid import Sigmoid


@torch.no_grad()
def rebalance(model: nn.Module, aux: Mapping[str, Tensor | tuple[Tensor, ...]], rate: float | None = None) -> None:
    """Move the biases of sigmoid routers towards even loads: by their rate, up or down, however large the difference.

    Called after an optimizer's step with what the model returned of that step. A model without such routers is left
    alone. Under `torch.distributed` every process calls this, and all move alike, by the load of all of them; processes
    are taken to have equal shares of the batch.

    Args:
        model: The model.
        aux: What ``model(x, return_aux=True)`` returned beside its output; ``stat/load`` is read.
        rate: Step of the biases, instead of the routers' own.

    Example:
        >>> router = Sigmoid(8, 3, 1, rate=0.5)
        >>> rebalance(router, {"stat/load": torch.tensor([0.5, 0.25, 0.25])})
        >>> router.bias
        tensor([-0.5000,  0.5000,  0.5000])

    Source: Wang et al., "Auxiliary-Loss-Free Load Balancing Strategy for Mixture-of-Experts" (arXiv 2408.15664),
        algorithm 1.

    Raises:
        ValueError: The loads in `aux` are not those of the model's routers.
    """
    modules = list(model.modules())
    if not any(isinstance(module, Sigmoid) for module in modules):
        return
    inside = {module.router for module in modules if isinstance(module, Remap)}
    routers = [module for module in modules if isinstance(module, (Router, Remap)) and module not in inside]
    loads = aux.get("stat/load", ())
    loads = (loads,) if isinstance(loads, Tensor) else loads
    given, known = [len(load) for load in loads], [router.num_experts for router in routers]
    if given != known:
        raise ValueError(
            f"aux has the loads of layers with {given} experts and the model has layers with {known}; give what "
            "model(x, return_aux=True) returned"
        )
    pairs = [_scored(router, load) for router, load in zip(routers, loads, strict=True)]
    pairs = [(router, load) for router, load in pairs if isinstance(router, Sigmoid)]
    total = torch.cat([load for _, load in pairs])
    if distributed.is_available() and distributed.is_initialized():
        distributed.all_reduce(total)
    for (router, _), load in zip(pairs, total.split([len(load) for _, load in pairs]), strict=True):
        router.bias.add_((load.mean() - load).sign(), alpha=router.rate if rate is None else rate)


def _scored(router: nn.Module, load: Tensor) -> tuple[nn.Module, Tensor]:
    """The router that scores, and the load of the experts that it knows, where some were removed or split since."""
    while isinstance(router, Remap):
        known = list(router.kept)
        for source in router.split:
            known.append(known[source])
        places = torch.tensor(known, device=load.device)
        router, load = router.router, load.new_zeros(router.router.num_experts).index_add(0, places, load)
    return router, load
