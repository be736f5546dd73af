"""Models that timm has too: what timm builds them of, and their weights under its keys."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import timm.models
from timm.models import PretrainedCfg
from torch import Tensor

from zoo.build import Variant, assemble
from zoo.hub.arguments import arguments_of
from zoo.hub.bounds import Sizes
from zoo.registry import family_of
from zoo.weights.inverse import NoWayBack, published_keys

SHARED = ("num_classes", "in_chans", "img_size", "global_pool")  # arguments that mean the same to timm and to zoo
POOLS = ("avg", "max", "token")


@dataclass(frozen=True)
class AsTimm:
    """A model as timm has it.

    Attributes:
        arguments: What `timm.create_model` takes beside the name and ``num_classes``.
        cfg: What timm's configuration says of its own layers.
        state: The weights under its keys.
    """

    arguments: Mapping[str, Any]
    cfg: Mapping[str, Any]
    state: Mapping[str, Tensor]


def as_timm(arch: str, arguments: Mapping[str, Any], state: Mapping[str, Tensor]) -> AsTimm | None:
    """A model as timm has it; None if timm has no model that computes the same.

    timm's are those of its own names whose arguments are the variant's, but for `SHARED` and rates of dropout.

    Args:
        arch: Name of the variant.
        arguments: All of the model's, as config.json has them.
        state: Its weights, on the CPU.
    """
    if not timm.models.is_model(arch) or timm.models.model_entrypoint(arch).__module__.startswith("zoo."):
        return None
    if arguments["global_pool"] not in POOLS or not _is_plain(arch, arguments):
        return None
    source = timm.models.get_pretrained_cfg(arch)
    pool = family_of(arch).arguments(arch).get("global_pool", "avg")
    theirs = {"in_chans": source.input_size[0], "global_pool": pool}
    if source.fixed_input_size:  # others take images of any size
        theirs["img_size"] = list(source.input_size[1:])
    changed = {key: arguments[key] for key, value in theirs.items() if arguments[key] != value}
    try:
        with Sizes():
            model = timm.create_model(arch, num_classes=arguments["num_classes"], device="meta", **changed)
        keys = published_keys(state, model.state_dict(), family_of(arch).rules)
    except (NoWayBack, ValueError, TypeError, AssertionError, RuntimeError):  # timm refuses some sizes by an assertion
        return None
    cfg = {key: model.pretrained_cfg.get(key) for key in ("first_conv", "classifier", "fixed_input_size")}
    return AsTimm(changed, cfg, keys)


def _is_plain(arch: str, arguments: Mapping[str, Any]) -> bool:
    """Whether arguments are those of the variant by itself, but for `SHARED` and what drops out."""
    family = family_of(arch)
    free = {key: value for key, value in arguments.items() if key in SHARED or "drop" in key}
    try:
        with Sizes():
            plain = assemble(Variant(arch, family, family.arguments(arch), PretrainedCfg()), {**free, "device": "meta"})
    except (ValueError, TypeError):
        return False
    return arguments_of(plain) == arguments
