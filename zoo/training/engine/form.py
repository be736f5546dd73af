"""How a model computes, and where, which changes nothing of what it computes."""

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh

from zoo.tools.moe.parallel import expert_parallel, share_losses
from zoo.training.recipe.train import Train


def set_form(model: nn.Module, train: Train) -> None:
    """Let a model compute as a recipe says: in programs, in less memory, in another layout.

    Raises:
        ValueError: The model cannot compute its blocks again in the backward pass.
    """
    if train.grad_checkpointing:
        able = [module for module in model.modules() if hasattr(module, "set_grad_checkpointing")]
        if not able:
            raise ValueError(
                f"train.grad_checkpointing: {type(model).__name__} has no blocks that it could compute again "
                "(set_grad_checkpointing): set it to false"
            )
        for module in able:
            module.set_grad_checkpointing(True)
    if train.channels_last:
        model.to(memory_format=torch.channels_last)
    if train.compile:
        model.compile()


def spread(model: nn.Module, train: Train, *, device: torch.device, world: int) -> None:
    """Make a model one of several processes', before it is wrapped: what is of all tokens is, and who has the experts.

    Raises:
        ValueError: The experts cannot be split.
    """
    if world == 1:
        return
    if train.expert_parallel:
        expert_parallel(model, init_device_mesh(device.type, (world,)))
    else:
        share_losses(model)
