"""What timm's registry is told of zoo's models."""

import functools
import sys
from collections.abc import Mapping
from typing import Any

import timm.models
from torch import nn

from zoo.create import create_model
from zoo.registry import cfgs_of_family, families
from zoo.weights.pretrained import OPENED_BY_ZOO


def register_with_timm(include_tests: bool = False) -> None:
    """Make the names that timm does not have known to `timm.create_model`. A name that timm has stays timm's.

    The tiny ``*_test`` variants are left out, since timm lists whatever it can create; `zoo.create_model` knows them.
    With `include_tests` they are registered too, for whoever runs timm's own tests on them.
    """
    for family in families().values():
        if not family.model.vision:
            continue
        module = sys.modules[family.module]
        variants = [arch for arch in family.variants if include_tests or not arch.endswith("_test")]
        ours = [arch for arch in variants if not timm.models.is_model(arch)]
        cfgs = {name: cfg for arch in ours for name, cfg in cfgs_of_family(family, arch).items()}
        module.default_cfgs = timm.models.generate_default_cfgs(cfgs)  # where timm looks when a name is registered
        for arch in ours:
            entry = functools.partial(_entry_point, arch)
            functools.update_wrapper(entry, _entry_point)
            entry.__name__, entry.__module__ = arch, family.module
            timm.models.register_model(entry)
    if not timm.models.is_model(OPENED_BY_ZOO):
        opener = functools.update_wrapper(functools.partial(_saved), _saved)
        opener.__name__ = OPENED_BY_ZOO
        timm.models.register_model(opener)


def _entry_point(arch: str, pretrained: bool = False, **kwargs) -> nn.Module:
    return create_model(arch, pretrained, **kwargs)


def _saved(pretrained: bool = False, pretrained_cfg: Any = None, cache_dir: str | None = None, **kwargs) -> nn.Module:
    """The model of a folder or a repository that timm was asked for and that zoo alone can open.

    Raises:
        ValueError: It was asked for by this name, which is none of a model.
    """
    cfg = pretrained_cfg if isinstance(pretrained_cfg, Mapping) else {}
    place = {"local-dir": cfg.get("file"), "hf-hub": cfg.get("hf_hub_id")}.get(cfg.get("source"))
    if place is None:
        raise ValueError(
            f"{OPENED_BY_ZOO!r} is no model but stands for those in folders and repositories that zoo opens; give "
            "timm.create_model or zoo.create_model 'local-dir:<folder>' or 'hf-hub:<owner>/<name>'"
        )
    overrides = {key: value for key, value in kwargs.items() if key != "pretrained_cfg_overlay" or value}
    return create_model(f"{cfg['source']}:{place}", pretrained, cache_dir=cache_dir, **overrides)
