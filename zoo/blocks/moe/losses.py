"""Auxiliary losses of routers: functions of means over the tokens, so that means over several processes serve as well.

All are for one group of tokens or several, and give the mean over the groups.
"""

import torch
from torch import Tensor

from zoo.blocks.moe.collectives import Processes
from zoo.blocks.moe.sizes import mean, most


def token_mean(x: Tensor, over: Processes | None = None) -> Tensor:
    """Mean over the tokens ``(G, S, E) -> (G, E)``; with `over` also over those of other processes.

    With several processes all tokens make one group. A process counts by its tokens, of which it may have none.
    """
    if over is None:
        return mean(x, 1)
    tokens = x.flatten(0, 1)
    count = tokens.new_full((1, 1), tokens.shape[0])
    total = over.mean(torch.cat([tokens.sum(0, keepdim=True), count], 1))
    return total[:, :-1] / total[:, -1:].clamp_min(1 / over.group.size())


def switch_balance(probs: Tensor, load: Tensor) -> Tensor:
    """``E * sum_e f_e p_e``: 1 when balanced, at most E.

    Args:
        probs: Mean probability of each expert, ``(G, E)``; the gradient flows through these.
        load: Share of the choices that each expert got, ``(G, E)``, each row with the sum 1.

    Source: Fedus et al., "Switch Transformers" (arXiv 2101.03961), equations 4 to 6; with the first choices alone it is
        the loss of Lepikhin et al., "GShard" (arXiv 2006.16668), algorithm 1.
    """
    return mean((probs * load).sum(-1), 0) * probs.shape[-1]


def squared_variation(x: Tensor, unbiased: bool = False) -> Tensor:
    """Square of the coefficient of variation over the experts, ``(G, E) ->`` scalar: of sums or means alike.

    Source: Riquelme et al., "Scaling Vision with Sparse Mixture of Experts" (arXiv 2106.05974), appendix A: with the
        mean probabilities the importance loss, with the chances to be chosen the load loss. `unbiased` as in Tutel.
    """
    variance, count = x.var(-1, correction=0), x.shape[-1]
    if unbiased:
        variance = variance * (count / most(count - 1, 1))  # of one expert it is 0 as well
    return mean(variance / (x.mean(-1).square() + 1e-30), 0)


def z_loss(total: Tensor) -> Tensor:
    """Mean square of the log of the softmax's denominator, ``(G, S, 1) ->`` scalar: keeps logits small.

    Source: Zoph et al., "ST-MoE" (arXiv 2202.08906), equation 5.
    """
    return mean(total.square(), 0, 1, 2)


def concentration(probs: Tensor) -> Tensor:
    """``E * sum_e p_e^2`` of mean probabilities ``(G, E)``, scaled to the sum 1: 1 when balanced, at most E.

    Source: the Herfindahl index; zoo's choice where a loss through the probabilities alone is wanted.
    """
    shares = probs / probs.sum(-1, keepdim=True).clamp_min(1e-10)
    return mean(shares.square().sum(-1), 0) * probs.shape[-1]
