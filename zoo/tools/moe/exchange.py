"""Experts split over processes: the rows of tokens travel to them, and what they make of the rows comes back."""

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor
from torch.nn import functional as F

from zoo.blocks.moe.collectives import AllToAll, Owned, Processes
from zoo.blocks.moe.experts.base import Experts, combine
from zoo.blocks.moe.experts.grouped import GroupedLinear
from zoo.blocks.moe.experts.mixers import MixerExperts
from zoo.blocks.moe.routing import Plan


class Exchange(Processes):
    """Carries the rows of tokens to the processes that hold their experts, and the experts' outputs back.

    Each process holds as many experts, in the order of the processes. What the experts make of the rows is the same as
    in one process; so are the gradients of the experts if the loss of one process is the mean of those of all.

    Args:
        mesh: All processes.
        dim: Index of the mesh's dimension over which the experts are split; over the others they are repeated.

    Cost: two exchanges of rows in the forward and two in the backward pass. The host waits once, for the sizes.
    """

    def __init__(self, mesh: DeviceMesh, dim: int):
        super().__init__(mesh.get_group(dim))
        self.size, self.rank = mesh.size(dim), mesh.get_local_rank(dim)
        self.all = mesh.size()
        self.replicas = [mesh.get_group(i) for i in range(mesh.ndim) if i != dim and mesh.size(i) > 1]

    def __call__(self, experts: Experts, x: Tensor, plan: Plan) -> Tensor:
        """What ``experts(x, plan)`` is in one process."""
        self.check()
        counts = plan.ends.diff(prepend=plan.ends.new_zeros(1))
        here = AllToAll.apply(counts, [len(counts) // self.size] * self.size, None, self.group)  # (processes, experts)
        sent, received = torch.stack([counts.view(self.size, -1).sum(1), here.view(self.size, -1).sum(1)]).tolist()
        plan = Plan(plan.token[: sum(sent)], plan.gate[: sum(sent)], plan.ends)
        device = x.device.type
        wire = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
        rows = AllToAll.apply(x.index_select(0, plan.token).to(wire), sent, received, self.group)
        order = _by_expert(here.view(self.size, -1), len(rows))
        y = self._run(experts, rows.index_select(0, order), here.view(self.size, -1).sum(0)).to(wire)
        back = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))
        return combine(AllToAll.apply(y.index_select(0, back), received, sent, self.group), plan, len(x))

    def split(self, num_experts: int) -> range:
        """The experts of this process."""
        each = num_experts // self.size
        return range(self.rank * each, (self.rank + 1) * each)

    def _run(self, experts: Experts, x: Tensor, counts: Tensor) -> Tensor:
        """What the experts of this process make of rows sorted by expert, of which each has so many."""
        if isinstance(experts, MixerExperts):  # the others have left a gap
            mine = self.split(experts.num_experts)
            counts = F.pad(counts, (mine.start, experts.num_experts - mine.stop))
        ends = counts.cumsum(0).to(torch.int32)
        parameters = {f"experts.{name}": self._local(p, x) for name, p in owned_parameters(experts).items()}
        return torch.func.functional_call(_Rows(experts), parameters, (x, ends))

    def _local(self, parameter: nn.Parameter, x: Tensor) -> Tensor:
        local = parameter.to_local() if isinstance(parameter, DTensor) else parameter
        if torch.is_grad_enabled() and local.requires_grad:
            local = Owned.apply(local, self.all, self.replicas)
        # FSDP gives its modules' inputs the precision it has for their parameters, which does not reach these.
        return local if torch.is_autocast_enabled(x.device.type) else local.to(x.dtype)


def owned_parameters(experts: Experts) -> dict[str, nn.Parameter]:
    """The parameters that belong to one expert each, by name."""
    if isinstance(experts, MixerExperts):
        return dict(experts.named_parameters())
    return {
        f"{prefix}.{name}": parameter
        for prefix, module in experts.named_modules()
        if isinstance(module, GroupedLinear)
        for name, parameter in module.named_parameters(recurse=False)
    }


class _Rows(nn.Module):
    """`Experts.rows` as a module, which is what torch can call with other parameters."""

    def __init__(self, experts: Experts):
        super().__init__()
        self.experts = experts

    def forward(self, x: Tensor, ends: Tensor) -> Tensor:
        return self.experts.rows(x, ends)


def _by_expert(counts: Tensor, rows: int) -> Tensor:
    """The order that sorts rows by expert, which are sorted by process and then by expert, ``(P, E) -> (rows,)``."""
    expert = torch.arange(counts.shape[1], device=counts.device).repeat(len(counts))
    return expert.repeat_interleave(counts.flatten(), output_size=rows).argsort(stable=True)
