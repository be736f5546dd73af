"""zoo: efficient architectures from one set of blocks.

import zoo

model = zoo.create_model("mixer_s16_224", channel_mixer="glu", num_classes=10)
"""

from zoo.discovery import lazily as _lazily
from zoo.timm_bridge import register_with_timm as _register_with_timm
from zoo.version import __version__ as __version__

_PUBLIC = {
    "create_model": "create",
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


_register_with_timm()
