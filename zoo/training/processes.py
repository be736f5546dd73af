"""The processes of a run: how they find each other, and what one of them does for all."""

import os
from collections.abc import Callable
from typing import Any

from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.utils import broadcast_object_list
from torch import distributed as dist


def join(*, several_tasks: bool) -> Accelerator:
    """Join the processes that this one was started with, in fp32: the precision is the recipe's."""
    # torchrun keeps its store when it starts failed processes again, and with it the addresses of the dead: whoever is
    # the first to ask would knock at such a door. So each attempt has entries of its own. On several nodes each counts
    # its own restarts, so there it is torchrun that must be told (docs/cluster.md).
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    if attempt != "0" and os.environ.get("GROUP_WORLD_SIZE") == "1" and not dist.is_initialized():
        store, rank, world_size = next(dist.rendezvous("env://"))
        dist.init_process_group(store=dist.PrefixStore(f"attempt {attempt}", store), rank=rank, world_size=world_size)
    # A step of one task leaves the heads of the others without gradients.
    several = [DistributedDataParallelKwargs(find_unused_parameters=True)] if several_tasks else []
    return Accelerator(mixed_precision="no", kwargs_handlers=several)


def in_main(accelerator: Accelerator, action: Callable[[], Any]) -> None:
    """Let the main process act, while the others wait; what it raises of user and disk is raised in all of them."""
    problem = None
    if accelerator.is_main_process:
        try:
            action()
        except (ValueError, OSError, FloatingPointError) as error:
            if accelerator.num_processes == 1:
                raise
            problem = error
    if accelerator.num_processes > 1:
        problem = broadcast_object_list([problem])[0]
    if problem is not None:
        raise problem
