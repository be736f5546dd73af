"""Folders in timm's layout: a config.json of timm's, and weights in the keys that their authors published."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from timm.models import PretrainedCfg
from torch import nn

from zoo.blocks.images import to_pair
from zoo.build import Variant, assemble
from zoo.build.arguments import check_arguments
from zoo.checks import printable, shown, some
from zoo.checks.ranges import lifted
from zoo.hub.bounds import UNKNOWN, Metered, check_size
from zoo.hub.config import OF_THE_PLACE, naming, read_json
from zoo.registry import family_of
from zoo.storage.files import is_file
from zoo.weights import WeightSource
from zoo.weights.fetch import HUB_FILES
from zoo.weights.pretrained import FIELDS, OPENED_BY_ZOO, check_cfg
from zoo.weights.rules import StateDict

OF_ZOO = ("zoo", "zoo_version", "weights")  # keys that only a config.json of zoo has
LABELS = ("label_names", "label_descriptions")
# Where weights lie is not for a repository to say, nor what runs when they are read.
UNHEARD = ("url", "file", "state_dict", "hf_hub_id", "hf_hub_filename", "source", "custom_load", "architecture")


def is_timm_layout(path: Path) -> bool:
    """Whether a config.json is one of timm's."""
    with suppress(ValueError, FileNotFoundError):
        config = read_json(path)
        named = isinstance(config, Mapping) and config.get("architecture", OPENED_BY_ZOO) != OPENED_BY_ZOO
        return named and not any(key in config for key in OF_ZOO)
    return False


def open_timm_layout(
    path: Path, read: Callable[[Path], StateDict] | None, bounded: bool, overrides: Mapping[str, Any]
) -> nn.Module:
    """Build zoo's model of the name that a config.json of timm's has, and load the weights beside it.

    Args:
        path: The config.json.
        read: Reads a file of weights; None if they are not wanted.
        bounded: Refuse sizes that the weights do not hold.
        overrides: Arguments of the user.

    Raises:
        FileNotFoundError: There are no weights.
        ValueError: The name is none of zoo's, a value cannot be, or the weights do not fit.
    """
    config = read_json(path)
    with naming(path):
        variant = _variant(config)
    state = size = None
    if read is not None:
        weights = next((path.parent / name for name in HUB_FILES if is_file(path.parent / name)), None)
        if weights is None:
            raise FileNotFoundError(f"{printable(path.parent, 500)} has no weights: no {' and no '.join(HUB_FILES)}")
        state = read(weights)
        size = sum(value.nbytes for value in state.values())
    if bounded:
        with naming(path, any_error=True):
            with Metered(UNKNOWN if state is None else len(state)):
                model = assemble(variant, {"device": "meta"})
            check_size(model, size)
    source = None
    if state is not None:
        cfg = variant.cfg
        rules = tuple(variant.family.rules)
        source = WeightSource(str(weights), lambda: state, rules, classes=cfg.num_classes, chans=cfg.input_size[0])
    with lifted(not bounded), naming(path, any_error=not overrides):
        return assemble(variant, overrides, source)


def _variant(config: Mapping[str, Any]) -> Variant:
    """What a config.json of timm's says, as a variant of zoo.

    Raises:
        ValueError: It names no model of zoo's, or a value cannot be.
        TypeError: A value is of another type.
    """
    arch, arguments = config["architecture"], config.get("model_args") or {}
    cfg = config.get("pretrained_cfg", config)  # once all of it stood at the top
    for key, value, kind in (
        ("architecture", arch, str),
        ("model_args", arguments, dict),
        ("pretrained_cfg", cfg, dict),
    ):
        if not isinstance(value, kind):
            raise ValueError(f"{key} is {shown(value)}; it must be a {kind.__name__}")
    cfg = cfg | {key: config[key] for key in ("num_classes", *LABELS) if config.get(key) is not None}
    cfg = {key: value for key, value in cfg.items() if key in FIELDS and key not in UNHEARD and value is not None}
    if not isinstance(cfg.get("label_names", []), list):  # timm allows gaps
        cfg = {key: value for key, value in cfg.items() if key not in LABELS}
    check_cfg(cfg, "pretrained_cfg")
    family = family_of(arch)
    known = [name for name in family.model.argument_names() if name not in (*family.model.slots, *OF_THE_PLACE)]
    if unknown := [key for key in arguments if key not in known]:
        raise ValueError(
            f"model_args: {some(unknown)} mean nothing to zoo's {arch}, which takes {', '.join(known)}; build it by "
            "zoo.create_model with arguments of zoo's, and give the weights as checkpoint_path"
        )
    check_arguments(family.model, arguments, arch)
    cfg = PretrainedCfg(**_agreeing(cfg, arguments))
    if cfg.label_names is not None and len(cfg.label_names) != cfg.num_classes:  # they are of another classifier
        cfg = replace(cfg, label_names=None, label_descriptions=None)
    told = {"num_classes": cfg.num_classes, "in_chans": cfg.input_size[0], "img_size": tuple(cfg.input_size[1:])}
    own = family.arguments(arch)
    return Variant(arch, family, own | {key: told[key] for key in told if key in own} | arguments, cfg)


def _agreeing(cfg: Mapping[str, Any], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration that says what the arguments do, which are those that the weights were saved with."""
    channels, *size = cfg.get("input_size", (3, 224, 224))
    if arguments.get("img_size") is not None and cfg.get("fixed_input_size"):
        size = to_pair(arguments["img_size"], "img_size")
    agreed = {"input_size": (arguments.get("in_chans", channels), *size)}
    if "num_classes" in arguments:
        agreed["num_classes"] = arguments["num_classes"]
    return {**cfg, **agreed}
