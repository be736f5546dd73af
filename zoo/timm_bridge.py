"""What timm's registry is told of zoo's models."""

import functools
import sys

import timm.models
from torch import nn

from zoo.create import create_model
from zoo.registry import cfgs_of_family, families


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


def _entry_point(arch: str, pretrained: bool = False, **kwargs) -> nn.Module:
    return create_model(arch, pretrained, **kwargs)
