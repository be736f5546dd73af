"""Saving a model: safetensors for the weights, config.json for everything that builds the model again."""

import json
import math
import reprlib
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import save_file
from timm.models import PretrainedCfg
from torch import Tensor, nn

from zoo import version
from zoo.blocks.mixer import Part, trait
from zoo.blocks.moe.experts.base import Experts
from zoo.build import Variant, assemble
from zoo.checks import some
from zoo.checks.ranges import lifted
from zoo.hub.bounds import Metered, Sizes, check_size
from zoo.hub.config import CONFIG, read_config
from zoo.hub.folder import MODEL
from zoo.registry import classes_of, family_of
from zoo.skeletons.model import Model
from zoo.slots import Slot, dump_slots, parse_slot
from zoo.storage.files import folder_at
from zoo.weights import Resizable
from zoo.weights.pretrained import check_cfg


def save_pretrained(model: nn.Module, folder: Path | str) -> None:
    """Save a model so that ``zoo.create_model("local-dir:<folder>")`` gives it back: weights, arguments, slots.

    What is to be written is read back and compared with the model before anything is touched. The folder holds a whole
    model at every instant, for whoever reads and however many save at once: new weights get a name that was never
    given before, and it is the renaming of config.json, which names them, that exchanges the old model for the new one.
    Then the weights that the old config.json named are removed, which harms nobody who has opened them; other files
    stay. What a killed save leaves is hidden, and goes with the next save.

    Args:
        model: A model of `zoo.create_model` (on any device, in any precision).
        folder: Where to; made if it is not there. The weights of a first save are called model.safetensors.

    Raises:
        TypeError: It is no model of zoo, or the folder no path.
        ValueError: A slot or an argument has a value that a file cannot hold, such as a class, or the arguments no
            longer build the model, since a module of it was exchanged.
        FileExistsError: The folder has a config.json that zoo did not write.
        OSError: The folder cannot be written, or is full; the old model stays.
    """
    folder = folder_at(folder)
    _check_savable(model)
    config, state = _config_of(model), model.state_dict()
    _check_built_again(config, state)
    # Tensors that share memory would be refused, and views would drag their whole storage along.
    state = {k: v.detach().to("cpu").contiguous().clone() for k, v in state.items()}
    size = sum(value.nbytes for value in state.values())
    with MODEL.exchanging(folder, size) as (new, name):
        config["weights"] = name
        (new / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        if read_config(new / CONFIG) != config:
            raise OSError(f"{new / CONFIG} does not hold what was written to it; the old model stays. Check the disk")
        save_file(state, new / name, metadata={"format": "pt", "saved_as": name})


def _check_savable(model: nn.Module) -> None:
    """Check that a model is a whole one of zoo, with plain tensors.

    Raises:
        TypeError: It is no model of zoo.
        ValueError: It has no weights, or not all of them, or such as a file cannot hold.
    """
    if not isinstance(model, Model) or not trait(model, "pretrained_cfg", Part):
        raise TypeError(
            f"save_pretrained takes a model of zoo.create_model, not a {type(model).__name__}; for one wrapped for "
            "features, compiled or distributed, save the model inside it"
        )
    if any(isinstance(module, Experts) and module.exchange is not None for module in model.modules()):
        raise ValueError(
            "this process has a part of the model's experts alone; load zoo.tools.moe.parallel.whole_state_dict(model) "
            "into a model of the same arguments and save that"
        )
    if any(p.is_meta for p in model.parameters()):
        raise ValueError(
            "a model on the meta device has no weights to save; materialise it by to_empty() and init_weights()"
        )


def _config_of(model: Model) -> dict[str, Any]:
    """What config.json is to hold beside the name of the weights.

    Raises:
        ValueError: An argument or a key of the pretrained configuration has a value that JSON cannot hold.
    """
    arch = model.pretrained_cfg["architecture"]
    arguments = _arguments_of(model)
    cfg = {
        key: _as_json(f"pretrained_cfg: {key}", value)
        for key, value in model.pretrained_cfg.items()
        if key not in ("file", "state_dict", "source")
    }
    if cfg.get("num_classes") not in classes_of(arch):  # a configuration of the user's own
        cfg["num_classes"] = model.num_classes
    check_cfg(cfg, f"{arch} cannot be saved: pretrained_cfg")
    labels = cfg.get("label_names")
    if labels is not None and len(labels) not in (cfg["num_classes"], model.num_classes):  # of another classifier
        warnings.warn(
            f"label_names has {len(labels)} names and the model {model.num_classes} classes: they are not saved; set "
            "model.pretrained_cfg['label_names'] to names of its own",
            stacklevel=3,
        )
        cfg |= {"label_names": None, "label_descriptions": None}
    return {"zoo_version": version.__version__, "architecture": arch, "model_args": arguments, "pretrained_cfg": cfg}


def _check_built_again(config: Mapping[str, Any], state: Mapping[str, Tensor]) -> None:
    """Check that the model that a config.json builds has the same arguments, and a place for these tensors.

    Raises:
        ValueError: It has not, or a tensor is none that a file can hold.
    """
    arch, arguments = config["architecture"], config["model_args"]
    if odd := [f"{k} is a {type(v).__name__}" for k, v in state.items() if type(v) is not Tensor]:
        raise ValueError(
            f"{arch} cannot be saved: {some(odd, 4)}; quantised and distributed models are saved by what made them so"
        )
    again = _built_again(config, state)
    if (new := _arguments_of(again)) != arguments:
        changes = [f"{k}={v!r} becomes {new.get(k)!r}" for k, v in arguments.items() if new.get(k) != v]
        raise ValueError(f"{arch} cannot be saved: of its arguments {', '.join(changes)} when it is opened")
    sizes = {key: tuple(value.shape) for key, value in state.items()}
    built = {key: tuple(value.shape) for key, value in again.state_dict().items()}
    for name, module in again.named_modules():
        if isinstance(module, Resizable):
            built |= {key: sizes[key] for key in built if key.startswith(f"{name}.") and key in sizes}
    changes = [
        f"{key} is {sizes.get(key, 'gone')} and was {built.get(key, 'not there')}"
        for key in {**sizes, **built}
        if sizes.get(key) != built.get(key)
    ]
    if changes:
        raise ValueError(
            f"{arch} cannot be saved: since it was built, a part was exchanged, wrapped or compiled "
            f"({some(changes, 4)}). Change it by arguments of zoo.create_model or by reset_classifier, or save the "
            "state dict yourself"
        )


def _built_again(config: Mapping[str, Any], state: Mapping[str, Tensor]) -> Model:
    """The model on meta that a config.json builds, with a warning if opening it will need ``bounded=False``.

    Raises:
        ValueError: It builds none.
    """
    arch = config["architecture"]
    variant = Variant(arch, family_of(arch), config["model_args"], PretrainedCfg(**config["pretrained_cfg"]))

    def build(mode: Sizes) -> Model:
        with mode:
            return assemble(variant, {"device": "meta"})

    try:
        again = build(Metered(len(state)))
        check_size(again, sum(value.nbytes for value in state.values()))
        return again
    except (ValueError, TypeError) as beyond:
        try:
            with lifted():
                again = build(Sizes())
        except (ValueError, TypeError) as error:
            raise ValueError(f"{arch} cannot be saved: its arguments do not build it again ({error})") from error
        warnings.warn(f"{arch} is saved, and needs bounded=False to be opened: {beyond}", stacklevel=4)
        return again


def _arguments_of(model: Model) -> dict[str, Any]:
    """A model's arguments as config.json has them."""
    arguments = {**model.config}
    if "deploy" in arguments:
        arguments["deploy"] = model.deployed
    for key in model.slots:
        value = arguments.get(key)
        if isinstance(value, list) and value and isinstance(value[0], Slot):
            arguments[key] = dump_slots(value, key)
        elif not isinstance(value, (str, bool, type(None))):
            arguments[key] = dump_slots([parse_slot(value)], key)
    return {key: _as_json(key, value) for key, value in arguments.items()}


def _as_json(name: str, value: Any) -> Any:
    """A value as JSON has it.

    Raises:
        ValueError: JSON has nothing that is equal.
    """
    if isinstance(value, np.generic) and not isinstance(value.item(), np.generic):
        value = value.item()
    if isinstance(value, (list, tuple)):
        return [_as_json(f"{name}[{i}]", element) for i, element in enumerate(value)]
    if isinstance(value, Mapping) and all(type(key) is str for key in value):
        return {key: _as_json(f"{name}[{key!r}]", element) for key, element in value.items()}
    if not (value is None or type(value) in (bool, int, str) or (type(value) is float and math.isfinite(value))):
        raise ValueError(
            f"{name} is {reprlib.repr(value)}, a {type(value).__name__} that config.json cannot hold; give finite "
            "numbers, strings, lists or mappings of them"
        )
    return value
