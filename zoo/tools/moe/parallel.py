"""Mixtures of experts on several processes: the experts split over them, the rest under DDP or FSDP2."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from zoo.blocks.kernels import private
from zoo.blocks.moe.collectives import Processes
from zoo.blocks.moe.experts.base import Experts
from zoo.blocks.moe.experts.mixers import MixerExperts
from zoo.blocks.moe.layer import MoE
from zoo.blocks.moe.routers.base import Router
from zoo.tools.moe.exchange import Exchange, owned_parameters


def expert_parallel(model: nn.Module, mesh: DeviceMesh, *, dim: str | int = -1) -> nn.Module:
    """Split the experts of every mixture in a model over processes; tokens travel to them and back.

    Each process keeps as many experts of a mixture; the weights are those of the first process. The rest of the model
    is left to DDP or FSDP2, whichever way it is given the same processes, and each process takes its share of a batch.
    Loss and gradients are then those of one process with the whole batch, if the processes' shares are equal: of
    experts the gradients are averaged here, and the routers' losses are of the tokens of all processes, of which one
    may have none. What lets tokens compete, as a capacity does, does so within a process; set ``group`` of the mixtures
    to a number of samples that divides a share, and it is the same on any number of processes. Noise of a router is
    each process's own.

    Statistics are those of the process. All processes must run the model equally often, in evaluation too. The experts'
    parameters become DTensors; what takes all parameters of a model together may have to be told to take them one by
    one (``timm.utils.ModelEmaV3(model, foreach=False)``).

    Args:
        model: A model, not yet wrapped or compiled, and not yet known to an optimizer. It is changed in place. It is
            this, not a module around it, that DDP is given afterwards.
        mesh: All processes.
        dim: Name or index of the dimension of the mesh over which the experts are split; over the others they are
            repeated.

    Returns:
        The model. Experts that are channel mixers of their own keep their names and numbers, and are in one process
        only (of each that the mesh repeats).

    Example:
        With DDP, on 8 processes of which 4 share a model's experts::

            mesh = init_device_mesh("cuda", (2, 4), mesh_dim_names=("dp", "ep"))
            model = DistributedDataParallel(expert_parallel(model, mesh))

        With FSDP2, which must be told of the experts, and takes the weights as each process has them::

            expert_parallel(model, mesh)
            for block in model.blocks:
                fully_shard(block, mesh=mesh, ignored_params=expert_parameters(model))
            fully_shard(model, mesh=mesh, ignored_params=expert_parameters(model))

        Then as ever, but that optimizers which take parameters together need the experts in a group of their own::

            experts = expert_parameters(model)
            parts = ([p for p in model.parameters() if (p in experts) == chosen] for chosen in (False, True))
            optimizer = torch.optim.AdamW([{"params": part} for part in parts])
            ...
            clip_grad_norm_(model, 1.0)
            weights = whole_state_dict(model)  # for the same model without processes; in the first process

    Source: Lepikhin et al., "GShard" (arXiv 2006.16668), section 3.2.
    Differs: rows are sent without places left empty, so nothing is dropped for want of room.
    Raises:
        ValueError: The model has no mixture, or experts that cannot be split, are split already, or of which the
            processes cannot have equally many; or the mesh does not have the dimension, or not all processes.
        RuntimeError: The model is wrapped already.
    """
    if isinstance(model, DistributedDataParallel):
        raise RuntimeError(
            "the model is wrapped by DDP already; split its experts first, or DDP takes them for the same"
        )
    index = _dimension(mesh, dim)
    exchange = Exchange(mesh, index)
    mixtures = {name: module for name, module in model.named_modules() if isinstance(module, MoE)}
    if not mixtures:
        raise ValueError("the model has no mixture of experts to split; build it with channel_mixer='moe(...)'")
    for name, moe in mixtures.items():
        _check(name, moe, exchange)
    leave_alone = private.exclude_from_ddp()
    for moe in mixtures.values():
        if isinstance(moe.experts, MixerExperts):
            _keep_mixers(moe.experts, mesh, exchange.split(moe.num_experts))
        else:
            _shard(moe.experts, mesh, index)
        moe.experts.exchange = exchange
    left = []  # names of all that differs between the processes
    for name, moe in mixtures.items():
        buffers = dict(moe.experts.named_buffers()) if isinstance(moe.experts, MixerExperts) else {}
        left += [f"{name}.experts.{tensor}" for tensor in (*owned_parameters(moe.experts), *buffers)]
    left += [f"_orig_mod.{name}" for name in left]  # as torch.compile calls them
    leave_alone(model, left)
    share_losses(model)
    return model


def share_losses(model: nn.Module, group: dist.ProcessGroup | None = None) -> None:
    """Take the routers' losses over the tokens of all processes, as one process with the whole batch does.

    `expert_parallel` does so itself. Where a mixture routes groups of samples, its losses are those of the groups, and
    nothing changes.

    Args:
        model: A model. It is changed in place.
        group: The processes, by default all. Their mean loss is what is trained on.
    """
    processes = Processes(dist.group.WORLD if group is None else group)
    for module in model.modules():
        if isinstance(module, MoE) and module.group is None:
            for router in module.router.modules():
                if isinstance(router, Router):
                    router.processes = processes


def expert_parameters(model: nn.Module) -> set[nn.Parameter]:
    """The parameters that `expert_parallel` has split, for ``fully_shard(..., ignored_params=…)`` and optimizers."""
    return {parameter for moe in _split(model) for parameter in owned_parameters(moe.experts).values()}


def clip_grad_norm_(model: nn.Module, max_norm: float) -> Tensor:
    """What `torch.nn.utils.clip_grad_norm_` does, for a model whose experts are split. All processes must call it.

    Returns:
        The norm of the whole gradient before, the same in all processes.
    """
    experts = expert_parameters(model)
    others = [p.grad for p in model.parameters() if p.grad is not None and p not in experts]
    local = [p.grad.to_local() for p in experts if p.grad is not None]
    rest = torch.nn.utils.get_total_norm(others)
    rest = rest.full_tensor() if isinstance(rest, DTensor) else rest
    squares = torch.nn.utils.get_total_norm(local).to(rest).square()
    if experts:
        dist.all_reduce(squares, group=next(_split(model)).experts.exchange.group)
    norm = (rest.square() + squares).sqrt()
    factor = (max_norm / (norm + 1e-6)).clamp(max=1.0)
    for gradient in others + local:
        (gradient.to_local() if isinstance(gradient, DTensor) else gradient).mul_(factor)
    return norm


def whole_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """The weights as the model has them in one process, whatever splits them. All processes must call it.

    Returns:
        The state dict in the first process, on the CPU; an empty one in the others.

    Example:
        Saving, in a form that any number of processes can load::

            state = whole_state_dict(model)
            if torch.distributed.get_rank() == 0:
                whole = zoo.create_model(...)  # with the arguments of the model
                whole.load_state_dict(state)
                zoo.save_pretrained(whole, folder)
    """
    if isinstance(model, DistributedDataParallel):
        model = model.module
    state = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    mixers = {
        f"{name}.experts.{key}": (tensor.to_local() if isinstance(tensor, DTensor) else tensor).cpu()
        for name, moe in model.named_modules()
        if isinstance(moe, MoE) and moe.experts.exchange is not None and isinstance(moe.experts, MixerExperts)
        for key, tensor in moe.experts.state_dict().items()
    }
    first = dist.get_rank() == 0
    everyone = [None] * dist.get_world_size() if first else None
    dist.gather_object(mixers, everyone)
    for theirs in everyone or ():
        state.update(theirs)
    return state


def _split(model: nn.Module) -> Iterator[MoE]:
    return (module for module in model.modules() if isinstance(module, MoE) and module.experts.exchange is not None)


def _dimension(mesh: DeviceMesh, dim: str | int) -> int:
    names = mesh.mesh_dim_names or ()
    index = names.index(dim) if dim in names else dim
    if not isinstance(index, int) or not -mesh.ndim <= index < mesh.ndim:
        raise ValueError(f"the mesh has no dimension {dim!r}: it has {mesh.ndim}, with the names {names or None}")
    if mesh.size() != dist.get_world_size():
        raise ValueError(
            f"the mesh has {mesh.size()} of {dist.get_world_size()} processes; give the mesh of all, and dim= to say "
            "over which of its dimensions the experts are split"
        )
    return index % mesh.ndim


def _check(name: str, moe: MoE, exchange: Exchange) -> None:
    if moe.experts.exchange is not None:
        raise ValueError(f"the experts of {name} are split over processes already; split those of a model once")
    owned = owned_parameters(moe.experts)
    if not owned:
        raise ValueError(
            f"{name} has {type(moe.experts).__name__}, of which nothing belongs to one expert alone; it cannot be "
            "split, take experts=mlp, glu or channel mixers"
        )
    if any(isinstance(parameter, DTensor) for parameter in owned.values()):
        raise RuntimeError(f"the parameters of {name} are split by FSDP or another; split the experts first")
    if moe.num_experts % exchange.size:
        raise ValueError(
            f"{name} has {moe.num_experts} experts for {exchange.size} processes; each process must get as many, so "
            "choose a number of experts that they divide, or a smaller dimension of the mesh"
        )


def _shard(experts: Experts, mesh: DeviceMesh, dim: int) -> None:
    """Leave to this process its part of stacked experts."""
    placements = [Shard(0) if i == dim else Replicate() for i in range(mesh.ndim)]
    for name, parameter in owned_parameters(experts).items():
        _replace(experts, name, distribute_tensor(parameter.detach(), mesh, placements))


def _keep_mixers(experts: MixerExperts, mesh: DeviceMesh, mine: range) -> None:
    """Leave to this process its mixers, and a gap for each of the others, so that the names stay.

    The parameters become DTensors all the same: what would take them for those of other processes, as DDP, FSDP or
    clipping that is not told of the experts, refuses these.
    """
    for tensor in experts.state_dict().values():
        dist.broadcast(tensor, 0)
    for i in set(range(experts.num_experts)) - set(mine):
        experts.mixers[i] = nn.Identity()
    for name, parameter in owned_parameters(experts).items():
        tensor = DTensor.from_local(parameter.detach(), mesh, [Replicate()] * mesh.ndim, run_check=False)
        _replace(experts, name, tensor)


def _replace(experts: Experts, name: str, tensor: Tensor) -> None:
    owner, _, own = name.rpartition(".")
    old = experts.get_parameter(name)
    setattr(experts.get_submodule(owner), own, nn.Parameter(tensor, old.requires_grad))
