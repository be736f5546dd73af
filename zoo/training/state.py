"""The whole state of a training, weights and optimizer, as a checkpoint has it and puts it back."""

from typing import Any

from torch import Tensor, nn
from torch.distributed.checkpoint import state_dict as sharding
from torch.optim import Optimizer

WHOLE = sharding.StateDictOptions(full_state_dict=True, cpu_offload=True)
OPTIONS = ("lr", "initial_lr", "lr_scale", "weight_decay", "betas")  # of an optimizer, which a recipe sets


def whole_state(model: nn.Module, optimizer: Optimizer, *, sharded: bool) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The weights and the optimizer's state; under FSDP every process must call this."""
    if not sharded:
        return model.state_dict(), optimizer.state_dict()
    if not optimizer.state:  # torch would fill it by a step, which counts as one
        return sharding.get_model_state_dict(model, options=WHOLE), {"state": {}}
    return sharding.get_state_dict(model, optimizer, options=WHOLE)


def restore_state(
    model: nn.Module, optimizer: Optimizer, weights: dict[str, Tensor], state: dict[str, Any] | None, *, sharded: bool
) -> None:
    """Put back what `whole_state` gave; without a state the optimizer stays as it is."""
    if not sharded:
        if state is not None:
            optimizer.load_state_dict(state)
        model.load_state_dict(weights)
        return
    # The optimizer first: torch fills an empty one by a step of rate zero, which may touch the weights.
    if state is not None and state["state"]:
        sharding.set_optimizer_state_dict(model, optimizer, state, options=WHOLE)
    sharding.set_model_state_dict(model, weights, options=WHOLE)


def with_options(state: dict[str, Any], optimizer: Optimizer) -> dict[str, Any] | None:
    """A state with the options of another recipe's optimizer of the same kind; None if it cannot be for this one."""
    groups, saved_groups = optimizer.param_groups, state.get("param_groups", [])
    if [len(group["params"]) for group in groups] != [len(saved["params"]) for saved in saved_groups]:
        return None
    if any(group.keys() != saved.keys() for group, saved in zip(groups, saved_groups, strict=True)):
        return None
    changed = [
        saved | {name: group[name] for name in OPTIONS if name in group}
        for group, saved in zip(groups, saved_groups, strict=True)
    ]
    return state | {"param_groups": changed}
