"""zoo: efficient architectures from one set of blocks.

import zoo

model = zoo.create_model("mixer_s16_224", channel_mixer="glu", num_classes=10)
"""

import os as _os
import sys as _sys

from zoo.discovery import lazily as _lazily
from zoo.version import __version__ as __version__

_PUBLIC = {
    "create_model": "create",
    "create_transform": "create",
    "list_models": "registry",
    "model_info": "registry",
    "create_block": "slots",
    "list_blocks": "slots",
    "register_block": "slots",
    "block_info": "tools.catalogue",
    "save_pretrained": "hub",
    "bench": "",
    "count_costs": "costs",
    "count_flops": "costs",
    "upcycle": "tools.moe.upcycle",
    "prune_experts": "tools.moe.surgery",
    "add_expert": "tools.moe.surgery",
    "add_task": "tools.moe.surgery",
    "export_model": "export",
    "expert_load": "tools.moe.plot",
    "plot_expert_load": "tools.moe.plot",
    "expert_parallel": "tools.moe.parallel",
}

__all__ = sorted(_PUBLIC)


__getattr__, __dir__ = _lazily("zoo", _PUBLIC)


def _is_command_line() -> bool:
    """Whether this process is the command ``zoo`` or ``python -m zoo``, as far as that can be told this early."""
    program = (getattr(_sys, "argv", None) or [""])[0]
    if program == "-m":  # Python has not found the module's file yet; its name stands before the arguments
        return _sys.orig_argv[-len(_sys.argv)] == "zoo"
    return _os.path.splitext(_os.path.basename(program))[0] == "zoo"


if not _is_command_line():  # there `zoo.cli.support.models.load` does it, for the commands that need models
    from zoo.timm_bridge import register_with_timm as _register_with_timm

    _register_with_timm()
