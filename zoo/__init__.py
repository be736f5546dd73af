"""zoo: efficient architectures from one set of blocks.

import zoo

model = zoo.create_model("mixer_s16_224", channel_mixer="glu", num_classes=10)
"""

import importlib as _importlib

from zoo.registry import register_with_timm as _register_with_timm

__version__ = "0.1.0"

_PUBLIC = {
    "create_model": "registry",
    "list_models": "registry",
    "model_info": "registry",
    "create_block": "slots",
    "list_blocks": "slots",
    "register_block": "slots",
    "block_info": "catalogue",
    "save_pretrained": "hub",
    "count_flops": "flops",
    "upcycle": "upcycling",
    "prune_experts": "surgery",
    "add_expert": "surgery",
    "add_task": "surgery",
    "expert_load": "blocks.channel.moe.plot",
    "plot_expert_load": "blocks.channel.moe.plot",
    "expert_parallel": "parallel",
}

__all__ = sorted(_PUBLIC)

_register_with_timm()


def __getattr__(name: str):
    if name not in _PUBLIC:
        raise AttributeError(f"module 'zoo' has no attribute {name!r}")
    return getattr(_importlib.import_module(f"zoo.{_PUBLIC[name]}"), name)


def __dir__() -> list[str]:
    return __all__
