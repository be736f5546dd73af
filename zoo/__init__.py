"""zoo: efficient architectures from one set of blocks.

import zoo

model = zoo.create_model("mixer_s16_224", channel_mixer="glu", num_classes=10)
"""

import importlib as _importlib

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
    "count_flops": "costs",
    "upcycle": "tools.moe.upcycle",
    "prune_experts": "tools.moe.surgery",
    "add_expert": "tools.moe.surgery",
    "add_task": "tools.moe.surgery",
    "expert_load": "tools.moe.plot",
    "plot_expert_load": "tools.moe.plot",
    "expert_parallel": "tools.moe.parallel",
}

__all__ = sorted(_PUBLIC)


def __getattr__(name: str):
    if name not in _PUBLIC:
        raise AttributeError(f"module 'zoo' has no attribute {name!r}")
    return getattr(_importlib.import_module(f"zoo.{_PUBLIC[name]}"), name)


def __dir__() -> list[str]:
    return __all__


_register_with_timm()
