"""Top-k with gates that know the task: the routers of M3ViT."""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.blocks.init import init_
from zoo.blocks.linear import Linear
from zoo.blocks.moe.experts.grouped import GroupedLinear
from zoo.blocks.moe.routers.base import widen
from zoo.blocks.moe.routers.top_k import TopK
from zoo.blocks.options import placement, with_options_of
from zoo.checks import shown
from zoo.checks.ranges import Count, Width
from zoo.slots.table import register


@register("router", "task")
class Task(TopK):
    """Top-k by the gate of the task that is asked for, so that each task runs its own experts and no others.

    The task is a keyword of the call, of the router's as of the whole model's: ``model(x, task=1)``. Without it that is
    task 0.

    Args:
        tasks: Number of tasks.
        design: ``multi``, a gate for each task; or ``embedding``, one gate that sees a learnt vector of the task beside
            the token.
        width: Width of that vector.
        noise: As in `TopK`.
        losses: As in `TopK`.
        init: A scheme of `zoo.blocks.init`, for the gates.

    Shape: ``(G, S, dim)``, ``task`` from 0 to ``tasks - 1 ->`` a `Routing` of G * S tokens.

    Example:
        >>> router, x = Task(8, 16, 2, tasks=3).eval(), torch.randn(1, 5, 8)
        >>> first = router(x).experts
        >>> (router(x, task=2).experts == first).all()
        tensor(False)

    Source: Liang et al., "M3ViT" (arXiv 2210.14793); VITA-Group/M3ViT, models/custom_moe_layer.py and
        models/gate_funs/noisy_gate_vmoe.py.
    Differs: the vector of a task is a parameter of its own in each layer, where the official code computes one for all
        layers by a small network from the task's number. The losses are those of V-MoE; the official load compares
        logits with a probability, and its importance is of the chosen weights alone.
    Cost: dim x num_experts MACs a token.
    Raises: ValueError as `TopK`, for an unknown design or less than one task; of a call, for a task that is not there.
    """

    keywords = frozenset({"task"})

    @with_options_of(TopK, without=["softmax"], noise=1.0, losses=("importance", "load"))
    def __init__(
        self, *args, tasks: Count = 2, design: Literal["multi", "embedding"] = "multi", width: Width = 64, **options
    ):
        self.tasks, self.design, self.width = tasks, design, width  # before super(): it makes the gate
        super().__init__(*args, softmax="before", **options)
        self.embedding = nn.Embedding(tasks, width, **placement(options)) if design == "embedding" else None
        owner = self.gate if self.embedding is None else self.embedding
        owner.active_fraction = 1 / tasks  # what zoo.count_flops reads

    def _make_gate(self, dim: int, **options) -> nn.Module:
        if self.design == "embedding":
            return Linear(dim + self.width, self.num_experts, False, **options)
        # In one tensor, so that the gates of the other tasks have a gradient too, of zeros, as DDP needs it.
        return GroupedLinear(self.tasks, dim, self.num_experts, False, **options)

    def logits(self, x: Tensor, task: int = 0) -> Tensor:
        if isinstance(task, bool) or not isinstance(task, int) or not 0 <= task < self.tasks:
            raise ValueError(
                f"task is {shown(task)}; the task router of {self.num_experts} experts has {self.tasks} tasks, "
                "numbered from 0"
            )
        x = widen(x)
        if self.design == "multi":
            return F.linear(x, self.gate.weight[task].to(x.dtype))
        token, vector = self.gate.weight.to(x.dtype).split([x.shape[-1], self.width], 1)
        return F.linear(x, token, vector @ self.embedding.weight[task].to(x.dtype))

    def keep_tasks(self, chosen: list[int]) -> None:
        """Keep these tasks, in this order, and remove the others; one that is named twice is copied."""
        if self.embedding is None:
            owner = self.gate
            owner.keep(chosen)
        else:
            owner, weight = self.embedding, self.embedding.weight
            owner.weight = nn.Parameter(weight.detach()[chosen].clone(), weight.requires_grad)
            owner.num_embeddings = len(chosen)
        self.tasks, owner.active_fraction = len(chosen), 1 / len(chosen)

    @torch.no_grad()
    def reset_task(self, task: int) -> None:
        """Initialise anew what belongs to one task alone."""
        if self.embedding is None:
            init_(self.gate.weight[task], None, self.gate.init)
        else:
            nn.init.normal_(self.embedding.weight[task])
