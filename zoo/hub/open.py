"""Opening a saved model: its config.json is input, and what it asks for is bounded by the weights that it names."""

import inspect
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from timm.models import PretrainedCfg
from torch import Tensor, nn

from zoo import version
from zoo.build import Variant, assemble
from zoo.checks import printable
from zoo.checks.ranges import lifted
from zoo.hub.bounds import UNKNOWN, Metered, check_size, culprit
from zoo.hub.config import CONFIG, naming, read_config, read_json
from zoo.hub.timm_layout import is_timm_layout, open_timm_layout
from zoo.registry import classes_of, family_of
from zoo.storage.files import is_file
from zoo.storage.pointers import steady
from zoo.weights import WeightSource, check_fit, read_shapes, read_state_dict


def open_model(name: str, pretrained: bool = True, bounded: bool = True, **overrides) -> nn.Module:
    """Build the model that ``local-dir:<folder>`` holds, one that zoo has saved or in timm's layout, with its weights.

    Args:
        name: With its prefix.
        pretrained: Load the weights.
        bounded: Refuse a folder that asks for more than its weights hold; if not, it is trusted, whatever it asks for.
        overrides: Arguments in place of the saved ones.

    Raises:
        FileNotFoundError: The folder holds no model.
        ValueError: A file is damaged, or config.json has a key, name or value that zoo cannot take.
    """
    prefix, _, place = name.partition(":")
    if prefix != "local-dir":
        raise ValueError(
            f"{printable(name)} is no folder; write local-dir:<folder>. zoo.create_model opens hf-hub:<owner/name> too"
        )
    path = Path(place) / CONFIG
    if not is_file(path):
        raise FileNotFoundError(
            f"{printable(place, 500)} holds no saved model: there is no {printable(path, 500)}; "
            "zoo.save_pretrained(model, folder) makes one"
        )
    if is_timm_layout(path):
        return open_timm_layout(path, read_state_dict if pretrained else None, bounded, overrides)
    try:
        return steady(path, lambda: _open(path, pretrained, bounded, overrides))
    except (ValueError, TypeError, FileNotFoundError) as error:
        if (writer := _newer(path)) is None:
            raise
        kind = next(kind for kind in (ValueError, TypeError, FileNotFoundError) if isinstance(error, kind))
        raise kind(
            f"{error}. The model was saved by zoo {printable(writer, 60)}, which is newer than this zoo "
            f"{version.__version__}: update zoo"
        ) from error


def _newer(path: Path) -> str | None:
    """The version of zoo that wrote a config.json, if it is newer than this one."""
    try:
        writer = read_json(path)["zoo_version"]
        return writer if _release(writer) > _release(version.__version__) else None
    except (ValueError, TypeError, KeyError, FileNotFoundError):
        return None


def _release(name: str) -> tuple[int, ...]:
    """The numbers of a version, without zeros at the end."""
    numbers = re.match(r"[\d.]*", name)[0].strip(".")
    return tuple(map(int, re.sub(r"(\.0+)+$", "", numbers).split("."))) if numbers else ()


@dataclass(frozen=True)
class _Saved:
    """A saved model, as its config.json says it.

    Attributes:
        path: The config.json.
        variant: What it is; the arguments are all of its class that are not the default's.
        weights: Its weight file.
    """

    path: Path
    variant: Variant
    weights: Path

    def source(self, state: Mapping[str, Tensor]) -> WeightSource:
        """Its weights, given the tensors: they are in zoo's own layout, whatever published names look like."""
        arguments, cfg = self.variant.arguments, self.variant.cfg
        classes = arguments.get("num_classes", cfg.num_classes)
        chans = arguments.get("in_chans", cfg.input_size[0])
        return WeightSource(str(self.weights), lambda: state, classes=classes, chans=chans)


def _open(path: Path, pretrained: bool, bounded: bool, overrides: Mapping[str, Any]) -> nn.Module:
    config = read_config(path)
    weights = path.parent / config["weights"]
    # At once, since a save may remove what is not open yet; that maps the file, and no more.
    state = read_state_dict(weights) if pretrained else None
    arch, arguments, cfg = config["architecture"], config["model_args"], config["pretrained_cfg"]
    with naming(path):
        family = family_of(arch)
        _check_agrees(arch, arguments, cfg)
    saved = _Saved(path, Variant(arch, family, arguments, PretrainedCfg(**cfg)), weights)
    if bounded:
        _check_bounded(saved, state, overrides)
    with lifted(not bounded), naming(path, any_error=not overrides):
        return assemble(saved.variant, overrides, None if state is None else saved.source(state))


def _check_agrees(arch: str, arguments: Mapping[str, Any], cfg: Mapping[str, Any]) -> None:
    """Check the classes that a configuration says against the model's; they may be those of the variant's own weights.

    Raises:
        ValueError: It says another number than either.
    """
    said, own = cfg.get("num_classes"), arguments.get("num_classes")
    if said is not None and own is not None and said not in {own, *classes_of(arch)}:
        raise ValueError(
            f"pretrained_cfg: num_classes is {said}, and model_args: num_classes is {own}; write the number that the "
            "weights have into both"
        )
    labels = cfg.get("label_names")
    if labels is not None and said is not None and len(labels) not in (said, own):
        raise ValueError(
            f"pretrained_cfg: label_names has {len(labels)} names, and the model has {said if own is None else own} "
            "classes; give one for each, or remove them"
        )


def _check_bounded(saved: _Saved, state: Mapping[str, Tensor] | None, overrides: Mapping[str, Any]) -> None:
    """Check what a folder asks for before anything is allocated: by bounds, and against the header of its weights.

    Args:
        saved: What its config.json says.
        state: What was read of its weights; None if they are not asked for, and then they need not be there.
        overrides: Arguments of the user. They are not bounded; a classifier that they exchange need not fit.

    Raises:
        ValueError: It asks for more; the message says what, and how the bounds are lifted.
    """
    variant = saved.variant
    if state is not None:
        shapes = {key: torch.empty(value.shape, device="meta") for key, value in state.items()}
        size = sum(value.nbytes for value in state.values())
    else:
        shapes, size = read_shapes(saved.weights) if saved.weights.is_file() else ({}, None)
    tensors = UNKNOWN if size is None else len(shapes)

    def build(arguments: Mapping[str, Any]) -> nn.Module:
        with Metered(tensors):
            return assemble(replace(variant, arguments=arguments), {"device": "meta"})

    def fit(model: nn.Module) -> None:
        head = not any(key in overrides for key in ("num_classes", "features_only"))
        check_fit(model, shapes, str(saved.weights), head=head)

    parameters = inspect.signature(variant.family.model).parameters
    own = lambda: {key: p.default for key, p in parameters.items()} | variant.family.arguments(variant.arch)
    not_built = lambda message: culprit(message, variant.arguments, own(), build)
    not_fitting = lambda message: culprit(message, variant.arguments, own(), lambda args: fit(build(args)), alone=True)

    with naming(saved.path, not_built, any_error=True):
        model = build(variant.arguments)
        check_size(model, size)
    if shapes:
        with naming(saved.path, not_fitting):
            fit(model)
