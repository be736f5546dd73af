"""What one process does for all of a run."""

from collections.abc import Callable
from typing import Any

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list


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
