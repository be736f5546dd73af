"""A model that is to be built: a variant, what its weights were made with, and what a user wants in its place."""

import dataclasses
import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from timm.models import PretrainedCfg

from zoo.build.arguments import FEATURE_ARGUMENTS, check_arguments, check_complete, passed_arguments
from zoo.checks import shown
from zoo.family import Family
from zoo.skeletons.model import Model, expanded, short_value, slot_of
from zoo.slots import copied, with_others


@dataclass(frozen=True)
class Variant:
    """A variant as its weights were made.

    Attributes:
        arch: Its name.
        family: Its family.
        arguments: Arguments of the class that the weights were made with.
        cfg: Its pretrained configuration.
    """

    arch: str
    family: Family
    arguments: Mapping[str, Any]
    cfg: PretrainedCfg


@dataclass(frozen=True)
class Request:
    """What is to be built, checked as far as it can be without building it.

    Attributes:
        arch: Name of the variant.
        model: Its class.
        cfg: Its pretrained configuration.
        arguments: Arguments of the class that the weights were made with.
        overrides: Arguments of the user in place of these.
        changed: Those of them that are not what the variant has by itself.
        features: Arguments of the user about feature maps; empty if none are wanted.
    """

    arch: str
    model: type[Model]
    cfg: PretrainedCfg
    arguments: Mapping[str, Any]
    overrides: Mapping[str, Any]
    changed: Mapping[str, Any]
    features: Mapping[str, Any]

    @property
    def all_arguments(self) -> dict[str, Any]:
        """The arguments of the class, with the user's."""
        return {**self.arguments, **self.overrides}

    @property
    def exchanged(self) -> list[str]:
        """The arguments whose slots the user exchanged, so that the variant's own weights do not fit there."""
        return [name for name in self.changed if name in self.model.slots and name != "init"]


def check_request(variant: Variant, overrides: Mapping[str, Any]) -> Request:
    """Check what is asked for, and take it apart.

    Args:
        variant: What is to be built.
        overrides: Arguments of the user.

    Raises:
        ValueError: An argument is unknown, missing, out of its range, or not for this kind of model.
        TypeError: It has the wrong type.
    """
    arch, model, cfg = variant.arch, variant.family.model, variant.cfg
    overrides = {k: copied(v, f"{arch}: {k}") for k, v in passed_arguments(model, overrides).items()}
    arguments = {k: copied(v, f"{arch}: {k}") for k, v in variant.arguments.items()}
    check_arguments(model, overrides, arch, beside=FEATURE_ARGUMENTS)
    check_arguments(model, arguments, arch)
    check_complete(model, {**arguments, **overrides}, arch)
    if model.vision and len(cfg.input_size) != 3:
        raise ValueError(f"{arch} takes images, so its input_size must be (channels, height, width)")
    features = {key: overrides.pop(key) for key in FEATURE_ARGUMENTS if key in overrides}
    _check_shorthands(arch, model, overrides)
    arguments = expanded(model, arguments)  # now, so that a slot of the user's own replaces all of it
    own = {key: p.default for key, p in inspect.signature(model).parameters.items()} | arguments
    own |= {key: short_value(model, key, arguments) for key in model.shorthands if key in overrides}
    return Request(
        arch,
        model,
        cfg=dataclasses.replace(cfg, architecture=arch, state_dict=None),
        arguments=arguments,
        # Where only some blocks are exchanged, the others stay what they are.
        overrides={k: with_others(v, own[k]) if k in model.slots else v for k, v in overrides.items()},
        changed={k: v for k, v in overrides.items() if v != own[k]},
        features=_checked_features(arch, model, features),
    )


def _check_shorthands(arch: str, model: type[Model], overrides: Mapping[str, Any]) -> None:
    """Check that a user does not set an option twice: in a slot, and under a name of its own.

    Raises:
        ValueError: The two differ.
    """
    for name in model.shorthands.keys() & overrides.keys():
        argument, option = model.shorthands[name].split(".")
        if argument in overrides:
            twice = slot_of(model, argument, overrides).options
            if twice.get(option, overrides[name]) != overrides[name]:
                raise ValueError(
                    f"{arch}: {name}={shown(overrides[name])} and {argument}={shown(overrides[argument])} are both "
                    f"given, and differ in {option}; leave one out"
                )


def _checked_features(arch: str, model: type[Model], features: Mapping[str, Any]) -> Mapping[str, Any]:
    """The arguments about feature maps, if such are wanted.

    Raises:
        ValueError: The model has none, or they are not wanted and something is said of them.
    """
    keys = ", ".join(key for key, value in features.items() if value is not False)
    if keys and not model.vision:
        raise ValueError(f"{arch} takes vectors and has no feature maps; leave {keys} out")
    if features.get("features_only"):
        return features
    if keys:
        raise ValueError(f"{arch}: {keys} is given, and needs features_only=True; set that, or leave it out")
    return {}
