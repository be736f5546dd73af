"""Saving and loading models: safetensors for the weights, config.json for everything that builds the model again."""

import functools
import inspect
import json
import math
import re
import reprlib
import warnings
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from timm.models import PretrainedCfg
from torch import Tensor, nn

from zoo.build import assemble
from zoo.build.arguments import SLOT_ARGUMENTS
from zoo.checks import printable, some
from zoo.checks.ranges import lifted
from zoo.hub.bounds import UNKNOWN, Metered, Sizes, check_size, culprit
from zoo.hub.config import CONFIG, naming, read_config, read_json
from zoo.registry import family_of
from zoo.registry.cfgs import classes_of
from zoo.registry.discovery import Family
from zoo.skeletons.model import Model
from zoo.slots import Slot, dump_slots, parse_slot
from zoo.storage.files import folder_at, is_file
from zoo.storage.pointers import Pointer, steady
from zoo.version import __version__
from zoo.weights import check_fit, read_shapes, read_state_dict
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
    config, state = _savable(model)
    size = sum(value.nbytes for value in state.values())
    with MODEL.exchanging(folder, size) as (new, name):
        config["weights"] = name
        (new / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        if read_config(new / CONFIG) != config:
            raise OSError(f"{new / CONFIG} does not hold what was written to it; the old model stays. Check the disk")
        save_file(state, new / name, metadata={"format": "pt", "saved_as": name})


def is_saved(folder: Path) -> bool:
    """Whether a folder holds what `save_pretrained` has written."""
    with suppress(OSError):
        return (name := _named_weights(folder / CONFIG)) is not None and is_file(folder / name)
    return False


def remove_saved(folder: Path) -> None:
    """Remove a folder of `save_pretrained`, but not what somebody else has put into it."""
    if folder.is_symlink() or not folder.is_dir():
        return
    with suppress(FileExistsError):
        MODEL.clear(folder)
        if (name := _named_weights(folder / CONFIG)) is not None:
            _remove_weights(folder / name)
            (folder / CONFIG).unlink()
    with suppress(OSError):  # it is not empty
        folder.rmdir()


def _named_weights(path: Path) -> str | None:
    """The weights that a config.json names, if it is there and they can be those of `save_pretrained`.

    One that is damaged is put right by saving, if it is empty or has beside it weights that say themselves that they
    were saved so; then it is these.

    Raises:
        FileExistsError: It is somebody's own.
    """
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError):
        saved = [one for one in path.parent.iterdir() if MODEL.owns(one.name) and _saved_as(one) == one.name]
        if saved or not path.stat().st_size:
            return max(saved, key=lambda one: one.stat().st_mtime).name if saved else None
        config = None
    if not isinstance(config, dict) or "zoo_version" not in config:
        raise FileExistsError(
            f"{printable(path)} was not written by zoo and would be lost; choose another folder, or remove it"
        )
    name = config.get("weights")
    return name if isinstance(name, str) and MODEL.owns(name) else None


def _saved_as(path: Path) -> str | None:
    """The name under which a file of weights was saved."""
    with suppress(SafetensorError, OSError), safe_open(path, "pt") as file:
        return (file.metadata() or {}).get("saved_as")
    return None


def _remove_weights(path: Path) -> None:
    if path.is_file() and not path.is_symlink():
        path.unlink()


MODEL = Pointer(CONFIG, "model.safetensors", _named_weights, _remove_weights)


def _savable(model: nn.Module) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What config.json is to hold beside the name of the weights, and these: compared with a model that it builds."""
    if not isinstance(model, Model) or not getattr(model, "pretrained_cfg", None):
        raise TypeError(
            f"save_pretrained takes a model of zoo.create_model, not a {type(model).__name__}; for one wrapped for "
            "features, compiled or distributed, save the model inside it"
        )
    if any(getattr(module, "exchange", None) is not None for module in model.modules()):
        raise ValueError(
            "this process has a part of the model's experts alone; load zoo.tools.moe.parallel.whole_state_dict(model) "
            "into a model of the same arguments and save that"
        )
    if any(p.is_meta for p in model.parameters()):
        raise ValueError(
            "a model on the meta device has no weights to save; materialise it by to_empty() and init_weights()"
        )
    arch = model.pretrained_cfg["architecture"]
    config = {
        "zoo_version": __version__,
        "architecture": arch,
        "model_args": _arguments(model),
        "pretrained_cfg": {
            key: _plain(f"pretrained_cfg: {key}", value)
            for key, value in model.pretrained_cfg.items()
            if key not in ("file", "state_dict", "source")
        },
    }
    cfg = config["pretrained_cfg"]
    if cfg.get("num_classes") not in classes_of(arch):  # a configuration of the user's own
        cfg["num_classes"] = model.num_classes
    check_cfg(cfg, f"{arch} cannot be saved: pretrained_cfg")
    names = cfg.get("label_names")
    if names is not None and len(names) not in (cfg["num_classes"], model.num_classes):  # of another classifier
        warnings.warn(
            f"label_names has {len(names)} names and the model {model.num_classes} classes: they are not saved; set "
            "model.pretrained_cfg['label_names'] to names of its own",
            stacklevel=3,
        )
        cfg |= {"label_names": None, "label_descriptions": None}
    state = model.state_dict()
    if odd := [f"{k} is a {type(v).__name__}" for k, v in state.items() if type(v) is not Tensor]:
        raise ValueError(
            f"{arch} cannot be saved: {some(odd, 4)}; quantised and distributed models are saved by what made them so"
        )
    again = _built_again(arch, config, state)
    if (found := _arguments(again)) != config["model_args"]:
        told = [f"{k}={v!r} becomes {found.get(k)!r}" for k, v in config["model_args"].items() if found.get(k) != v]
        raise ValueError(f"{arch} cannot be saved: of its arguments {', '.join(told)} when it is opened")
    sizes = {key: tuple(value.shape) for key, value in state.items()}
    built = {key: tuple(value.shape) for key, value in again.state_dict().items()}
    for name, module in again.named_modules():
        if hasattr(module, "take_sizes"):  # it takes the sizes of what is loaded
            built |= {key: sizes[key] for key in built if key.startswith(f"{name}.") and key in sizes}
    told = [
        f"{key} is {sizes.get(key, 'gone')} and was {built.get(key, 'not there')}"
        for key in {**sizes, **built}
        if sizes.get(key) != built.get(key)
    ]
    if told:
        raise ValueError(
            f"{arch} cannot be saved: since it was built, a part was exchanged, wrapped or compiled ({some(told, 4)}). "
            "Change it by arguments of zoo.create_model or by reset_classifier, or save the state dict yourself"
        )
    # Tensors that share memory would be refused, and views would drag their whole storage along.
    return config, {k: v.detach().to("cpu").contiguous().clone() for k, v in state.items()}


def _built_again(arch: str, config: Mapping[str, Any], state: Mapping[str, Tensor]) -> Model:
    """The model on meta that a config.json builds, with a warning if opening it will need ``bounded=False``.

    Raises:
        ValueError: It builds none.
    """
    family, cfg = family_of(arch), PretrainedCfg(**config["pretrained_cfg"])

    def build(mode: Sizes) -> Model:
        with mode:
            return assemble(arch, family, config["model_args"], cfg, {"device": "meta"})

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


def _arguments(model: Model) -> dict[str, Any]:
    """A model's arguments as config.json has them."""
    return {k: model.deployed if k == "deploy" else _plain(k, v) for k, v in model.config.items()}


def _plain(name: str, value: Any) -> Any:
    """An argument as JSON has it.

    Raises:
        ValueError: JSON has nothing that is equal.
    """
    if isinstance(value, list) and value and isinstance(value[0], Slot):
        return dump_slots(value, name)
    if name in SLOT_ARGUMENTS and not isinstance(value, (str, bool, type(None))):
        return dump_slots([parse_slot(value)], name)
    if isinstance(value, np.generic) and not isinstance(value.item(), np.generic):
        value = value.item()
    if isinstance(value, (list, tuple)):
        return [_plain(f"{name}[{i}]", one) for i, one in enumerate(value)]
    if isinstance(value, Mapping) and all(type(key) is str for key in value):
        return {key: _plain(f"{name}[{key!r}]", one) for key, one in value.items()}
    if not (value is None or type(value) in (bool, int, str) or (type(value) is float and math.isfinite(value))):
        raise ValueError(
            f"{name} is {reprlib.repr(value)}, a {type(value).__name__} that config.json cannot hold; give finite "
            "numbers, strings, lists or mappings of them"
        )
    return value


def open_model(name: str, pretrained: bool = True, **overrides) -> nn.Module:
    """Build the model that ``local-dir:<folder>`` holds, and load its weights.

    Args:
        name: With its prefix.
        pretrained: Load the weights.
        overrides: Arguments in place of the saved ones; with ``bounded=False`` the folder is trusted, whatever it asks
            for.

    Raises:
        FileNotFoundError: The folder holds no model.
        ValueError: A file is damaged, or config.json has a key, name or value that zoo cannot take.
    """
    source, _, place = name.partition(":")
    if source != "local-dir":
        raise ValueError(
            f"{printable(name)}: models cannot be opened from the Hub by this version; download the repository and "
            "open it as local-dir:<folder>"
        )
    path = Path(place) / CONFIG
    if not is_file(path):
        raise FileNotFoundError(
            f"{printable(place, 500)} holds no saved model: there is no {printable(path, 500)}; "
            "zoo.save_pretrained(model, folder) makes one"
        )
    try:
        return steady(path, lambda: _open(path, pretrained, overrides))
    except (ValueError, TypeError, FileNotFoundError) as error:
        if (version := _newer(path)) is None:
            raise
        kind = next(kind for kind in (ValueError, TypeError, FileNotFoundError) if isinstance(error, kind))
        raise kind(
            f"{error}. The model was saved by zoo {printable(version, 60)}, which is newer than this zoo "
            f"{__version__}: update zoo"
        ) from error


def _newer(path: Path) -> str | None:
    """The version of zoo that wrote a config.json, if it is newer than this one."""
    try:
        version = read_json(path)["zoo_version"]
        return version if _release(version) > _release(__version__) else None
    except (ValueError, TypeError, KeyError, FileNotFoundError):
        return None


def _release(version: str) -> tuple[int, ...]:
    """The numbers of a version, without zeros at the end."""
    numbers = re.match(r"[\d.]*", version)[0].strip(".")
    return tuple(map(int, re.sub(r"(\.0+)+$", "", numbers).split("."))) if numbers else ()


def _open(path: Path, pretrained: bool, overrides: Mapping[str, Any]) -> nn.Module:
    config = read_config(path)
    overrides = dict(overrides)
    bounded = overrides.pop("bounded", True)
    arch, arguments, cfg = config["architecture"], config["model_args"], PretrainedCfg(**config["pretrained_cfg"])
    weights = path.parent / config["weights"]
    # At once, since a save may remove what is not open yet; that maps the file, and no more.
    state = read_state_dict(weights) if pretrained else None
    with naming(path):
        family = family_of(arch)
        _check_agrees(arch, arguments, config["pretrained_cfg"])
    if bounded:
        _check_bounded(path, family, arch, arguments, cfg, weights, state, overrides)
    with lifted(not bounded), naming(path, any_error=not overrides):
        return assemble(
            arch,
            family,
            arguments,
            cfg,
            overrides,
            load=(lambda: (state, str(weights))) if pretrained else None,
            own_layout=True,
        )


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
    names = cfg.get("label_names")
    if names is not None and said is not None and len(names) not in (said, own):
        raise ValueError(
            f"pretrained_cfg: label_names has {len(names)} names, and the model has {said if own is None else own} "
            "classes; give one for each, or remove them"
        )


def _check_bounded(
    path: Path,
    family: Family,
    arch: str,
    arguments: Mapping[str, Any],
    cfg: PretrainedCfg,
    weights: Path,
    state: Mapping[str, Tensor] | None,
    overrides: Mapping[str, Any],
) -> None:
    """Check what a folder asks for before anything is allocated: by bounds, and against the header of its weights.

    Args:
        path: Its config.json.
        family, arch, arguments, cfg: What that says.
        weights: The weight file.
        state: What was read of it; None if it is not asked for, and then it need not be there.
        overrides: Arguments of the user. They are not bounded; a classifier that they exchange need not fit.

    Raises:
        ValueError: It asks for more; the message says what, and how the bounds are lifted.
    """

    def build(arguments: Mapping[str, Any], mode: Sizes) -> nn.Module:
        with mode:
            return assemble(arch, family, arguments, cfg, {"device": "meta"})

    def fit(model: nn.Module) -> None:
        head = not any(key in overrides for key in ("num_classes", "features_only"))
        check_fit(model, shapes, str(weights), head=head)

    def key_of(message: str, fits: bool = False) -> str | None:
        own = {key: p.default for key, p in inspect.signature(family.model).parameters.items()} | family.arguments(arch)
        check = lambda changed: fit(build(changed, Metered(tensors))) if fits else build(changed, Metered(tensors))
        return culprit(message, arguments, own, check, alone=fits)

    if state is not None:
        shapes = {key: torch.empty(value.shape, device="meta") for key, value in state.items()}
        size = sum(value.nbytes for value in state.values())
    else:
        shapes, size = read_shapes(weights) if weights.is_file() else ({}, None)
    tensors = UNKNOWN if size is None else len(shapes)
    with naming(path, key_of, any_error=True):
        model = build(arguments, Metered(tensors))
        check_size(model, size)
    if shapes:
        with naming(path, functools.partial(key_of, fits=True)):
            fit(model)
