"""Balance without a loss: the biases of sigmoid routers, moved after each step of an optimizer.

A training of zoo needs no call of this: the routers do it themselves, see `zoo.blocks.protocol`.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from zoo.blocks.protocol import own, reporters, sum_over_processes


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
        >>> from zoo.blocks.moe.routers.sigmoid import Sigmoid
        >>> router = Sigmoid(8, 3, 1, rate=0.5)
        >>> rebalance(router, {"stat/load": torch.tensor([0.5, 0.25, 0.25])})
        >>> router.bias
        tensor([-0.5000,  0.5000,  0.5000])

    Source: Wang et al., "Auxiliary-Loss-Free Load Balancing Strategy for Mixture-of-Experts" (arXiv 2408.15664),
        algorithm 1.

    Raises:
        ValueError: The loads in `aux` are not those of the model's routers.
    """
    routers = reporters(model, "stat/load")
    if not any(own(router, "balance") for router in routers):
        return
    loads = aux.get("stat/load", ())
    loads = (loads,) if isinstance(loads, Tensor) else loads
    loaded, known = [len(load) for load in loads], [router.num_experts for router in routers]
    if loaded != known:
        raise ValueError(
            f"aux has the loads of layers with {loaded} experts and the model has layers with {known}; give what "
            "model(x, return_aux=True) returned"
        )
    routers, loads = zip(*(pair for pair in zip(routers, loads, strict=True) if own(pair[0], "balance")), strict=True)
    for router, load in zip(routers, sum_over_processes(loads), strict=True):
        router.balance(load, rate)
