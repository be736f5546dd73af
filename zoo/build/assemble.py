"""From a family's data to a model: check, build, load, resize, wrap."""

import dataclasses
import inspect
from collections.abc import Mapping
from typing import Any

import timm.models
from torch import nn

from zoo.build.arguments import (
    FEATURE_ARGUMENTS,
    check_arguments,
    check_complete,
    check_taken,
    given,
    in_memory,
)
from zoo.family import Family
from zoo.skeletons.features import FeatureMaps
from zoo.skeletons.model import short_value
from zoo.slots import copied, with_others
from zoo.slots.use import watched
from zoo.weights import load_weights


def assemble(
    arch: str,
    family: Family,
    arguments: Mapping[str, Any],
    cfg: timm.models.PretrainedCfg,
    overrides: Mapping[str, Any],
    *,
    load=None,
    own_layout: bool = False,
) -> nn.Module:
    """Build a model from its arguments, load weights into it, and wrap it if features are wanted.

    Args:
        arch: Name of the variant.
        family: Its family.
        arguments: Arguments of the class that the weights were made with.
        cfg: Its pretrained configuration.
        overrides: Arguments of the user.
        load: Gives the state dict and its source's name, or None for no weights.
        own_layout: The state dict is one that zoo saved, of a model with just these arguments: it has zoo's keys, and
            their classes and channels. Otherwise it has the published keys, and those of `cfg`.
    """
    overrides = {k: copied(v, f"{arch}: {k}") for k, v in given(family.model, overrides).items()}
    arguments = {k: copied(v, f"{arch}: {k}") for k, v in arguments.items()}
    check_arguments(family.model, overrides, arch, beside=FEATURE_ARGUMENTS)
    check_arguments(family.model, arguments, arch)
    check_complete(family.model, {**arguments, **overrides}, arch)
    takes = inspect.signature(family.model).parameters
    if family.model.vision and len(cfg.input_size) != 3:
        raise ValueError(f"{arch} takes images, so its input_size must be (channels, height, width)")
    own = lambda key: arguments.get(key, takes[key].default)
    asked = {k: v for k, v in overrides.items() if k in takes and v != own(k)}
    asked |= {
        k: v
        for k, v in overrides.items()
        if k in family.model.shorthands and v != short_value(family.model, k, arguments)
    }
    overrides = {  # where only some blocks are exchanged, the others stay what they are
        key: with_others(value, own(key)) if key in family.model.slots else value for key, value in overrides.items()
    }
    cfg = dataclasses.replace(cfg, architecture=arch, state_dict=None)
    facts = {}  # of the model that is built, for timm's tools; a configuration of timm's has the names of timm's layers

    def build(**final) -> nn.Module:
        with watched() as use, in_memory(arch):
            model = family.model(**final)
        check_taken(model, use, asked, arch)
        return model

    def make(**final) -> nn.Module:
        final = {**arguments, **final}
        if load is None:
            return build(**final)
        # Weights are loaded at the size that they were made for, and then the model is moved to the size asked for.
        size = overrides.get("img_size")
        if size is not None:
            final["img_size"] = arguments.get("img_size") or tuple(cfg.input_size[-2:])
        model = build(**final)
        state, name = load()
        classes = arguments.get("num_classes", cfg.num_classes) if own_layout else cfg.num_classes
        rules, head = () if own_layout else family.rules, not overrides.get("features_only")
        chans = arguments.get("in_chans", cfg.input_size[0]) if own_layout else cfg.input_size[0]
        load_weights(model, state, rules, name, source_classes=classes, source_chans=chans, head=head)
        if size is not None:
            model.set_input_size(size)
        return model

    if not family.model.vision:
        if features := [key for key in FEATURE_ARGUMENTS if overrides.get(key)]:
            raise ValueError(f"{arch} takes vectors and has no feature maps; leave {', '.join(features)} out")
        model = make(**overrides)
        sizes = {"num_classes": model.num_classes, "input_size": model.input_size}
        model.pretrained_cfg = dataclasses.replace(cfg, **sizes, **model.facts(model.input_size)).to_dict()
        return model
    # A variant's own sizes go before those of a configuration that was made up for it.
    sizes = {"img_size": tuple(cfg.input_size[-2:])}
    sizes |= {k: arguments[k] for k in ("num_classes", "in_chans", "img_size", "global_pool") if k in arguments}
    levels = family.model.count_levels({**arguments, **overrides})
    features = {"feature_cls": FeatureMaps, "out_indices": levels}
    if overrides.get("feature_cls", "getter") == "getter":  # timm's class of that name would lose the auxiliary outputs
        overrides = {k: v for k, v in overrides.items() if k != "feature_cls"}
        features["output_fmt"] = "NCHW"  # as timm's gives them, whatever the layout within

    def told(**given) -> nn.Module:
        model = make(**given)
        facts.update(model.facts(cfg.input_size))
        return model

    model = timm.models.build_model_with_cfg(
        told,
        arch,
        pretrained=False,
        pretrained_cfg=cfg.to_dict(),
        feature_cfg=features,
        **{**sizes, **overrides},
    )
    if overrides.get("features_only"):
        del facts["classifier"]  # as timm's builder leaves it out
    model.pretrained_cfg.update(facts)
    return model
