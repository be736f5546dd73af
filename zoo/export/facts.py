"""What travels with an exported model: how its input is made, what its outputs mean, where it comes from."""

import json
from typing import Any

from timm.data import ImageNetInfo, infer_imagenet_subset
from torch import nn

from zoo.create import preparation_of
from zoo.version import __version__

KEY = "zoo"  # under which a format keeps it


def facts_of(model: nn.Module, name: str | None = None) -> dict[str, Any]:
    """What a runtime's user has to know of a model, as plain values.

    Args:
        model: Of zoo, of timm, or any with an ``input_size``.
        name: What to call it, in place of its architecture.

    Returns:
        ``model``, ``zoo`` (the version), ``input_size`` (without the batch), ``layout``; of images ``interpolation``,
        ``crop_pct``, ``crop_mode``, ``mean`` and ``std`` of values in [0, 1]; ``labels``, a name an output, where they
        are known; ``tag`` and ``license`` of the configuration, which are the weights' unless others were loaded.

    Example:
        >>> import zoo
        >>> facts = facts_of(zoo.create_model("mixer_test"))
        >>> facts["input_size"], facts["layout"], facts["labels"]
        ((3, 32, 32), 'NCHW', None)
    """
    cfg: dict[str, Any] = getattr(model, "pretrained_cfg", None) or {}
    size = tuple(getattr(model, "input_size", None) or cfg.get("input_size") or ())
    facts: dict[str, Any] = {"model": name or cfg.get("architecture") or type(model).__name__, "zoo": __version__}
    facts |= {"input_size": size, "layout": "NCHW" if len(size) == 3 else "NC", "labels": labels_of(model)}
    if len(size) == 3:
        prepared = preparation_of(model)
        facts |= {key: prepared[key] for key in ("interpolation", "crop_pct", "crop_mode", "mean", "std")}
    facts |= {key: cfg[key] for key in ("tag", "license") if cfg.get(key)}
    return facts


def labels_of(model: nn.Module) -> list[str] | None:
    """A name for each output of a classifier: the model's own, or of as many classes as an ImageNet has, its names."""
    cfg: dict[str, Any] = getattr(model, "pretrained_cfg", None) or {}
    names, described = cfg.get("label_names"), cfg.get("label_descriptions") or {}
    count = getattr(model, "num_classes", 0)
    if names:
        return [str(described.get(name, name)) for name in names] if len(names) == count else None
    subset = infer_imagenet_subset({"num_classes": count})
    return ImageNetInfo(subset).label_descriptions() if subset else None


def to_json(facts: dict[str, Any]) -> str:
    """The facts as they are written into a file."""
    return json.dumps(facts, ensure_ascii=False)
