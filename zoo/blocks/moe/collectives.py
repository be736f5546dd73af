"""What mixtures need of other processes, with its gradients: means, and rows that go from each to each."""

import torch
from torch import Tensor
from torch import distributed as dist

from zoo.blocks.kernels import guard


class Processes:
    """A group of processes as a model can hold it: copies of the model share it, while torch's own cannot be copied."""

    def __init__(self, group: "dist.ProcessGroup"):
        self.group = group

    def __deepcopy__(self, memo: dict) -> "Processes":
        return self

    def check(self) -> None:
        """Refuse what would not reach the other processes.

        Raises:
            RuntimeError: A transform of `torch.func` or forward-mode differentiation is going on.
        """
        if guard.transformed():
            raise RuntimeError(
                "mixtures that are split over processes or share their losses know no transforms of torch.func and no "
                "forward-mode derivatives; use the same model without zoo.expert_parallel and share_losses"
            )

    def mean(self, x: Tensor) -> Tensor:
        """Mean over the processes.

        Its gradient is such that the mean of the processes' gradients, as DDP and FSDP make it, is that of one process.
        """
        self.check()
        return Mean.apply(x, self.group)


class AllToAll(torch.autograd.Function):
    """To each process of a group its part of the rows; back come the parts that the others have for this one."""

    @staticmethod
    def forward(ctx, x: Tensor, sent: list[int], received: list[int] | None, group: "dist.ProcessGroup") -> Tensor:
        received = sent if received is None else received
        ctx.sent, ctx.received, ctx.group = sent, received, group
        out = x.new_empty(sum(received), *x.shape[1:])
        dist.all_to_all_single(out, x.contiguous(), received, sent, group=group)
        return out

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        return AllToAll.apply(grad, ctx.received, ctx.sent, ctx.group), None, None, None


class Mean(torch.autograd.Function):
    """Mean over the processes of a group, the same in each."""

    @staticmethod
    def forward(ctx, x: Tensor, group: "dist.ProcessGroup") -> Tensor:
        ctx.group = group
        x = x.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(x, group=group)
        return x / group.size()

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        return Mean.apply(grad, ctx.group), None


class Owned(torch.autograd.Function):
    """A parameter of an expert. The rows of all processes are in its gradient: their sum becomes the mean."""

    @staticmethod
    def forward(ctx, x: Tensor, processes: int, replicas: list["dist.ProcessGroup"]) -> Tensor:
        ctx.processes, ctx.replicas = processes, replicas
        return x.view_as(x)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        grad = grad / ctx.processes
        for group in ctx.replicas:
            grad = Mean.apply(grad, group) * group.size()
        return grad, None, None
