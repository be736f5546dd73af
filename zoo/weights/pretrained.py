"""Pretrained configurations, which say where weights are and what they were trained on: their keys and values."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from timm.models import PretrainedCfg

from zoo.checks import Interval, check_type, shown, unknown

SIZE = Sequence[Annotated[int, Interval(1)]]
NAMES = str | Sequence[str] | None
SHARE = Annotated[float, Interval(above=0, most=2)]  # above 1 an image is framed

# The architecture in the config.json of a model that zoo alone can open; `zoo.timm_bridge` tells timm of it.
OPENED_BY_ZOO = "zoo"

# What timm's own annotations leave open, or say otherwise than timm's configurations are.
VALUES = {
    "url": NAMES,
    "file": Any,  # a path of any kind
    "state_dict": Mapping | None,
    "custom_load": bool | str,
    "input_size": SIZE,
    "test_input_size": SIZE | None,
    "min_input_size": SIZE | None,
    "interpolation": Literal["nearest", "nearest-exact", "bilinear", "bicubic", "box", "hamming", "lanczos", "random"],
    "crop_pct": SHARE,
    "test_crop_pct": SHARE | None,
    "crop_mode": Literal["center", "squash", "border"],
    "mean": Sequence[float],
    "std": Sequence[Annotated[float, Interval(above=0)]],
    "num_classes": Annotated[int, Interval(0)],
    "label_names": Sequence[str] | None,
    "label_descriptions": Mapping | None,
    "pool_size": SIZE | None,
    "test_pool_size": SIZE | None,
    "first_conv": NAMES,
    "classifier": NAMES,
    "paper_ids": NAMES,
    "notes": NAMES,
}
FIELDS = {field.name: VALUES.get(field.name, field.type) for field in dataclasses.fields(PretrainedCfg)}


def check_cfg(cfg: Mapping[str, Any], name: str) -> None:
    """Check the keys of a pretrained configuration, their values, and these against each other.

    Example:
        >>> check_cfg({"input_size": [3, 32, 32], "std": [0.5, 0.0, 0.5]}, "pretrained_cfg")
        Traceback (most recent call last):
        ValueError: pretrained_cfg: std[1] is 0.0; it must be above 0

    Args:
        cfg: A whole one, or single keys.
        name: What errors call it.

    Raises:
        ValueError: A key is none of timm's, or a value cannot be.
        TypeError: A value is of another type.
    """
    for key, value in cfg.items():
        if key not in FIELDS:
            raise ValueError(unknown(f"{name} has no key {shown(key)}", key, FIELDS, "keys"))
        check_type(f"{name}: {key}", value, FIELDS[key])
    for key in ("input_size", "test_input_size", "min_input_size"):
        if cfg.get(key) is not None and len(cfg[key]) not in (1, 3):
            raise ValueError(
                f"{name}: {key} has {len(cfg[key])} numbers; it must be (channels, height, width), or the length of a "
                "vector alone"
            )
    for key in ("mean", "std"):
        if key in cfg and not cfg[key]:
            raise ValueError(f"{name}: {key} is empty; it must have a number for each channel, or one for all")
    if "mean" in cfg and "std" in cfg and len(cfg["mean"]) != len(cfg["std"]):
        raise ValueError(f"{name}: mean has {len(cfg['mean'])} numbers and std {len(cfg['std'])}; give as many of both")
