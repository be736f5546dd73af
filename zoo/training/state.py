"""The whole state of a training, weights and optimizer, as a checkpoint has it and puts it back.

An optimizer numbers its parameters; a checkpoint says their names beside, `names`, so that it can be gone on with where
they are grouped in another way: by one process after several had the shards of them, or the other way round. A state
that was put together of several processes' is by name alone.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed.checkpoint import state_dict as sharding
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import LBFGS, Optimizer

from zoo.tools.moe.parallel import expert_parameters, whole_state_dict

WHOLE = sharding.StateDictOptions(full_state_dict=True, cpu_offload=True)
BESIDE = "methods"  # under which a state has what is trained beside the model
OPTIONS = ("lr", "initial_lr", "lr_scale", "weight_decay", "betas")  # of an optimizer, which a recipe sets


def whole_state(
    model: nn.Module, optimizer: Optimizer, *, sharded: bool, beside: nn.Module | None = None
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The weights and the optimizer's state, also of the parameters of what is trained `beside` the model.

    Under FSDP, and where experts are split, every process must call this, and the first gets the whole.
    """
    if expert_parameters(model):
        return whole_state_dict(model), _gathered(model, optimizer)
    if not sharded:
        return model.state_dict(), optimizer.state_dict() | {"names": _names(_both(model, beside), optimizer)}
    if not optimizer.state:  # torch would fill it by a step, which counts as one
        return sharding.get_model_state_dict(model, options=WHOLE), {"state": {}}
    return sharding.get_state_dict(model, optimizer, options=WHOLE)


def restore_state(
    model: nn.Module,
    optimizer: Optimizer,
    weights: dict[str, Tensor],
    state: dict[str, Any] | None,
    *,
    sharded: bool,
    beside: nn.Module | None = None,
) -> None:
    """Put back what `whole_state` gave, of however many processes; without a state the optimizer stays as it is."""
    experts = expert_parameters(model)
    if not sharded or experts:
        if state is not None and state["state"]:
            optimizer.load_state_dict(_numbered(state, _both(model, beside), optimizer))
        if not experts:
            model.load_state_dict(weights)
        else:
            own = model.state_dict()
            model.load_state_dict({name: _placed(weights[name], like) for name, like in own.items()})
        return
    # The optimizer first: torch fills an empty one by a step of rate zero, which may touch the weights.
    if state is not None and state["state"]:
        named = {"state": _by_name(state, model, optimizer)} | _groups_by_name(model, optimizer)
        sharding.set_optimizer_state_dict(model, optimizer, named, options=WHOLE)
    sharding.set_model_state_dict(model, weights, options=WHOLE)


def _both(model: nn.Module, beside: nn.Module | None) -> nn.Module:
    """A module with the parameters of both, those of the model under their own names."""
    if beside is None:
        return model
    both = nn.Module()
    for name, child in [*model.named_children(), (BESIDE, beside)]:
        both.add_module(name, child)
    for name, parameter in model.named_parameters(recurse=False):
        both.register_parameter(name, parameter)
    return both


def _names(model: nn.Module, optimizer: Optimizer) -> list[list[str]]:
    """The names of an optimizer's parameters, group after group."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    return [[names[parameter] for parameter in group["params"]] for group in optimizer.param_groups]


def _by_name(state: dict[str, Any], model: nn.Module, optimizer: Optimizer) -> dict[str, dict[str, Any]]:
    """What a state says of each parameter; one without names is of an optimizer with the groups of this one."""
    if all(isinstance(key, str) for key in state["state"]):
        return state["state"]
    names = sum(state.get("names") or _names(model, optimizer), [])
    return {names[number]: values for number, values in state["state"].items()}


def _groups_by_name(model: nn.Module, optimizer: Optimizer) -> dict[str, list[dict[str, Any]]]:
    """An optimizer's groups as they are, with names in the place of parameters."""
    groups = zip(optimizer.param_groups, _names(model, optimizer), strict=True)
    return {"param_groups": [group | {"params": names} for group, names in groups]}


def _numbered(state: dict[str, Any], model: nn.Module, optimizer: Optimizer) -> dict[str, Any]:
    """A state as this optimizer numbers its parameters, of which it may have a part alone."""
    own, names = optimizer.state_dict(), _names(model, optimizer)
    if state.get("names", names) == names and all(isinstance(key, int) for key in state["state"]):
        return {key: state[key] for key in ("state", "param_groups")}
    by_name, parameters = _by_name(state, model, optimizer), dict(model.named_parameters())
    placed = {
        number: {key: _placed(value, parameters[name]) for key, value in by_name[name].items()}
        for number, name in enumerate(sum(names, []))
        if name in by_name
    }
    return {"state": placed, "param_groups": own["param_groups"]}


def _placed(value: Any, like: Tensor) -> Any:
    """A whole tensor as a parameter lies on its processes; each of them has it, so nothing is sent."""
    if not isinstance(like, DTensor) or not isinstance(value, Tensor) or value.shape != like.shape:
        return value
    value = value.to(like.device)
    return distribute_tensor(value, like.device_mesh, like.placements, src_data_rank=None)


def _gathered(model: nn.Module, optimizer: Optimizer) -> dict[str, Any]:
    """An optimizer's state by name, of all processes, in the first; experts of their own are in one process each."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    mine = {
        names[parameter]: {key: _whole(value) for key, value in values.items()}
        for parameter, values in optimizer.state.items()
    }
    first = dist.get_rank() == 0
    everyone: list[Any] | None = [None] * dist.get_world_size() if first else None
    experts = {names[parameter] for parameter in expert_parameters(model)}
    dist.gather_object({name: values for name, values in mine.items() if first or name in experts}, everyone)
    state: dict[str, Any] = {}
    for theirs in everyone or ():
        state |= theirs
    return {"state": state, "param_groups": []}


def _whole(value: Any) -> Any:
    if isinstance(value, DTensor):
        value = value.full_tensor()
    return value.cpu() if isinstance(value, Tensor) else value


def with_options(state: dict[str, Any], optimizer: Optimizer) -> dict[str, Any] | None:
    """A state with the options of another recipe's optimizer of the same kind.

    Where that has other groups, as with other rates or frozen parts, each parameter keeps what the state says of its
    name. None if nothing says the names.
    """
    groups, saved_groups = optimizer.param_groups, state.get("param_groups", [])
    if [(len(group["params"]), group.keys()) for group in groups] == [
        (len(saved["params"]), saved.keys()) for saved in saved_groups
    ]:
        changed = [
            saved | {name: group[name] for name in OPTIONS if name in group}
            for group, saved in zip(groups, saved_groups, strict=True)
        ]
        return state | {"param_groups": changed}
    values, names = state["state"], sum(state.get("names", []), [])
    if isinstance(optimizer, LBFGS):  # which has the history of all parameters under its first
        return None
    if not all(isinstance(key, str) for key in values):
        values = {names[key]: value for key, value in values.items()} if names else None
    return None if values is None else {"state": values, "param_groups": []}


def without(state: dict[str, Any], beginnings: Sequence[str]) -> dict[str, Any]:
    """A state that says nothing of parameters whose names begin so."""
    names = sum(state.get("names", []), [])
    kept = {
        key: value
        for key, value in state["state"].items()
        if not (key if isinstance(key, str) else names[key] if names else "").startswith(tuple(beginnings))
    }
    return state | {"state": kept}
