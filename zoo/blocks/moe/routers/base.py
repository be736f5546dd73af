"""What all routers share: logits in fp32, noise, losses."""

from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.blocks.base import Aux
from zoo.blocks.linear import Linear, is_bare
from zoo.blocks.moe import losses
from zoo.blocks.moe.collectives import Processes
from zoo.blocks.moe.routing import Routing
from zoo.blocks.options import with_options_of
from zoo.checks import shown, unknown
from zoo.checks.ranges import Count, Width

Names = str | tuple[str, ...]  # of losses


class Router(nn.Module):
    """Base of the routers: a linear map to a logit for each expert, in fp32 whatever the model's precision.

    A router defines `route`, and is built as ``Router(dim, num_experts, top_k, *, options…, device, dtype)``. One whose
    `logits` take a keyword beside the tokens, names it in `keywords`; a model hands it on from its call.

    Args:
        dim: Number of channels.
        num_experts: Number of experts.
        top_k: Number of experts a token chooses, where the router does not decide that itself.
        losses: Names of the losses to report, of `LOSSES`.
        init: A scheme of `zoo.blocks.init`.

    Attributes:
        active: Number of experts that a token is worked on by, on average; an upper bound where the values decide.
        keywords: Optional keywords of `logits`.
        reports: What the layer gives an entry of, see `zoo.blocks.protocol`.
        sums_to_one: Whether the weights of every token have the sum 1, so that equal experts make a dense layer.

    Shape: ``(G, S, dim) ->`` a `Routing` of G * S tokens; the groups are routed independently of each other.
    Cost: dim x num_experts MACs a token.
    """

    follows = ("init",)

    sums_to_one = False
    reports = ("stat/load",)
    keywords: frozenset[str] = frozenset()
    LOSSES = ("balance", "importance", "z", "concentration")
    processes: Processes | None = None  # those whose tokens the losses are taken over in training

    @with_options_of(Linear)
    def __init__(self, dim: Width, num_experts: Count, top_k: Count, *, losses: Names = ("balance", "z"), **options):
        super().__init__()
        losses = (losses,) if isinstance(losses, str) else tuple(losses)
        for name in losses:
            if name not in self.LOSSES:
                raise ValueError(
                    unknown(f"{type(self).__name__}: losses: loss {shown(name)}", name, self.LOSSES, "losses")
                )
        if top_k > num_experts:
            raise ValueError(f"top_k is {top_k} of {num_experts} experts; it must be at most the number of experts")
        self.num_experts, self.top_k, self.losses = num_experts, top_k, losses
        self.active = top_k
        self.gate = self._make_gate(dim, **options)

    @property
    def over(self) -> Processes | None:
        """The processes whose tokens the losses are taken over: in evaluation, where one may be alone, its own."""
        return self.processes if self.training else None

    def _make_gate(self, dim: int, **options) -> nn.Module:
        """The map to the logits; `options` are init, device and dtype."""
        return Linear(dim, self.num_experts, False, **options)

    def forward(self, x: Tensor, **keywords) -> Routing:
        device = x.device.type
        with nullcontext() if device == "meta" else torch.autocast(device, enabled=False):
            return self.route(self.logits(x, **keywords))

    def logits(self, x: Tensor) -> Tensor:
        """A logit of each token for each expert, ``(G, S, dim) -> (G, S, E)``, at least fp32."""
        if not is_bare(self.gate, nn.Linear):  # a gate of another kind, or around which an adapter stands
            own = next(self.gate.parameters(), x)  # autocast, which would make the tokens fit, is off here
            return widen(self.gate(x.to(torch.promote_types(x.dtype, own.dtype))))
        x = widen(x)
        bias = None if self.gate.bias is None else self.gate.bias.to(x.dtype)
        return F.linear(x, self.gate.weight.to(x.dtype), bias)

    def route(self, logits: Tensor) -> Routing:
        """The choices of the tokens, from their logits ``(G, S, E)``."""
        raise NotImplementedError

    def routing(self, experts: Tensor, gates: Tensor, aux: Aux, **known) -> Routing:
        """What the layer gets of choices and weights ``(G, S, K)``, and of what else is known of them.

        Args:
            known: Fields of the `Routing`: `chosen`, `full`, and `priority`, ``(G, S, 1)``.
        """
        if known.get("priority") is not None:
            known["priority"] = known["priority"].flatten()
        flat = experts.flatten(0, 1), gates.flatten(0, 1)
        return Routing(*flat, self.num_experts, experts.shape[0], aux=aux, **known)

    def load(self, experts: Tensor, like: Tensor) -> Tensor:
        """Share of the choices ``(G, S, K)`` that each expert got, ``(G, E)``, in the dtype of `like`."""
        experts = experts.flatten(1)
        hits = like.new_zeros(experts.shape[0], self.num_experts + 1)
        hits = hits.scatter_add(1, experts, torch.ones_like(experts, dtype=like.dtype))[:, :-1]
        if self.over is not None:
            hits = self.over.mean(hits.sum(0, keepdim=True))
        return hits / hits.sum(-1, keepdim=True).clamp_min(1e-10)

    def common_losses(self, logits: Tensor, probs: Tensor, experts: Tensor, total: Tensor | None = None) -> Aux:
        """The losses that are asked for, of those that any router has.

        Args:
            logits, probs: ``(G, S, E)``.
            experts: The choices, ``(G, S, K)``.
            total: The `log_sum` of the logits, if it is known.
        """
        aux: Aux = {}
        if {"balance", "importance", "concentration"} & set(self.losses):
            mean = losses.token_mean(probs, self.over)
        if "balance" in self.losses:
            aux["loss/balance"] = losses.switch_balance(mean, self.load(experts, probs.detach()))
        if "importance" in self.losses:
            aux["loss/importance"] = losses.squared_variation(mean)
        if "concentration" in self.losses:
            aux["loss/concentration"] = losses.concentration(mean)
        if "z" in self.losses:
            aux["loss/z"] = losses.z_loss(log_sum(logits) if total is None else total)
        return aux


def widen(x: Tensor) -> Tensor:
    """In fp32, unless it is wider."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def log_sum(logits: Tensor) -> Tensor:
    """The log of the softmax's denominator, ``(*, E) -> (*, 1)``."""
    return logits.logsumexp(-1, keepdim=True)


def softmax(logits: Tensor, total: Tensor | None = None) -> Tensor:
    """``logits.softmax(-1)``, in a third of the time where there are few experts (torch 2.15, CPU).

    Args:
        total: The `log_sum` of the logits, if it is known.
    """
    return (logits - (log_sum(logits) if total is None else total)).exp()


def noisy(logits: Tensor, std: float, training: bool) -> Tensor:
    """Logits with Gaussian noise in training, of the standard deviation ``std / num_experts`` as in V-MoE and Tutel."""
    if not training or std == 0:
        return logits
    return logits + torch.randn_like(logits) * (std / logits.shape[-1])
