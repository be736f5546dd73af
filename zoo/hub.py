"""Saving and loading models: safetensors for the weights, config.json for everything that builds the model again."""

import json
import math
import re
import reprlib
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
from torch.overrides import TorchFunctionMode

import zoo
from zoo.checks import unknown
from zoo.models.model import Model
from zoo.pointers import Pointer, steady
from zoo.registry import SLOT_ARGUMENTS, assemble, check_cfg_keys, family_of
from zoo.slots import Slot, dump_slots, parse_slot
from zoo.weights import read_state_dict

CONFIG = "config.json"

# What a config.json may hold, and the type of each.
KEYS = {"zoo_version": str, "architecture": str, "model_args": dict, "pretrained_cfg": dict, "weights": str}


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
        TypeError: It is no model of zoo.
        ValueError: A slot or an argument has a value that a file cannot hold, such as a class, or the arguments no
            longer build the model, since a module of it was exchanged.
        FileExistsError: The folder has a config.json that zoo did not write.
        OSError: The folder cannot be written, or is full; the old model stays.
    """
    config, state = _savable(model)
    size = sum(value.nbytes for value in state.values())
    with MODEL.exchanging(folder, size) as (new, name):
        config["weights"] = name
        (new / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        if read_config(new / CONFIG) != config:
            raise OSError(f"{new / CONFIG} does not hold what was written to it; the old model stays. Check the disk")
        save_file(state, new / name, metadata={"format": "pt", "saved_as": name})


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

    Of a damaged one, which is put right by saving, those that say themselves that they were saved so.
    """
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError):
        saved = [one for one in path.parent.iterdir() if MODEL.owns(one.name) and _saved_as(one) == one.name]
        return max(saved, key=lambda one: one.stat().st_mtime).name if saved else None
    if not isinstance(config, dict) or "zoo_version" not in config:
        raise FileExistsError(f"{path} was not written by zoo and would be lost; choose another folder, or remove it")
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
            "this process has a part of the model's experts alone; load zoo.parallel.whole_state_dict(model) into a "
            "model of the same arguments and save that"
        )
    if any(p.is_meta for p in model.parameters()):
        raise ValueError(
            "a model on the meta device has no weights to save; materialise it by to_empty() and init_weights()"
        )
    arch = model.pretrained_cfg["architecture"]
    config = {
        "zoo_version": zoo.__version__,
        "architecture": arch,
        "model_args": _arguments(model),
        "pretrained_cfg": {
            key: _plain(f"pretrained_cfg: {key}", value)
            for key, value in model.pretrained_cfg.items()
            if key not in ("file", "state_dict", "source")
        },
    }
    family, cfg = family_of(arch), PretrainedCfg(**config["pretrained_cfg"])
    try:
        with torch.random.fork_rng(devices=[]), _Sizes():
            again = assemble(arch, family, config["model_args"], cfg, {"device": "meta"})
    except (ValueError, TypeError) as error:
        raise ValueError(f"{arch} cannot be saved: its arguments do not build it again ({error})") from error
    if (found := _arguments(again)) != config["model_args"]:
        told = [f"{k}={v!r} becomes {found.get(k)!r}" for k, v in config["model_args"].items() if found.get(k) != v]
        raise ValueError(f"{arch} cannot be saved: of its arguments {', '.join(told)} when it is opened")
    state = model.state_dict()
    if odd := [f"{k} is a {type(v).__name__}" for k, v in state.items() if type(v) is not Tensor]:
        raise ValueError(
            f"{arch} cannot be saved: {_some(odd)}; quantised and distributed models are saved by what made them so"
        )
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
            f"{arch} cannot be saved: since it was built, a part was exchanged, wrapped or compiled ({_some(told)}). "
            "Change it by arguments of zoo.create_model or by reset_classifier, or save the state dict yourself"
        )
    # Tensors that share memory would be refused, and views would drag their whole storage along.
    return config, {k: v.detach().to("cpu").contiguous().clone() for k, v in state.items()}


class _Sizes(TorchFunctionMode):
    """Spares tensors on the meta device the values that they do not keep, which takes most of the time there."""

    SKIPPED = (Tensor.uniform_, Tensor.normal_, Tensor.erfinv_, Tensor.mul_, Tensor.add_, Tensor.clamp_, Tensor.fill_)
    SKIPPED += (Tensor.zero_, Tensor.copy_, nn.init.uniform_, nn.init.normal_, nn.init.constant_, nn.init.trunc_normal_)
    SKIPPED += (nn.init.zeros_, nn.init.ones_, nn.init.kaiming_uniform_, nn.init.xavier_uniform_)

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        tensor = args[0] if args else kwargs.get("tensor")
        if func in self.SKIPPED and isinstance(tensor, Tensor) and tensor.is_meta:
            return tensor
        return func(*args, **kwargs)


def _some(told: list[str]) -> str:
    return "; ".join(told[:4]) + ("; …" if len(told) > 4 else "")


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
        overrides: Arguments in place of the saved ones.

    Raises:
        FileNotFoundError: The folder holds no model.
        ValueError: A file is damaged, or config.json has a key, name or value that zoo cannot take.
    """
    source, _, place = name.partition(":")
    if source != "local-dir":
        raise ValueError(
            f"{name}: models cannot be opened from the Hub by this version; download the repository and open "
            "it as local-dir:<folder>"
        )
    path = Path(place) / CONFIG
    if not path.is_file():
        raise FileNotFoundError(
            f"{place} holds no saved model: there is no {path}; zoo.save_pretrained(model, folder) makes one"
        )
    try:
        return steady(path, lambda: _open(path, pretrained, overrides))
    except (ValueError, TypeError, FileNotFoundError) as error:
        if (version := _newer(path)) is None:
            raise
        kind = next(kind for kind in (ValueError, TypeError, FileNotFoundError) if isinstance(error, kind))
        raise kind(
            f"{error}. The model was saved by zoo {version}, which is newer than this zoo {zoo.__version__}: update zoo"
        ) from error


def _newer(path: Path) -> str | None:
    """The version of zoo that wrote a config.json, if it is newer than this one."""
    try:
        version = json.loads(path.read_text(encoding="utf-8"))["zoo_version"]
        return version if _release(version) > _release(zoo.__version__) else None
    except (ValueError, TypeError, KeyError):
        return None


def _release(version: str) -> tuple[int, ...]:
    """The numbers of a version, without zeros at the end."""
    numbers = re.match(r"[\d.]*", version)[0].strip(".")
    return tuple(map(int, re.sub(r"(\.0+)+$", "", numbers).split("."))) if numbers else ()


def _open(path: Path, pretrained: bool, overrides: Mapping[str, Any]) -> nn.Module:
    config = read_config(path)
    where = f"{path}: "
    arch = config["architecture"]
    family = family_of(arch, where)
    weights = path.parent / config["weights"]
    state = read_state_dict(weights) if pretrained else None  # at once: a save may remove what is not open yet
    return assemble(
        arch,
        family,
        config["model_args"],
        PretrainedCfg(**config["pretrained_cfg"]),
        overrides,
        load=(lambda: (state, str(weights))) if pretrained else None,
        where=where,
    )


def read_config(path: Path | str) -> dict[str, Any]:
    """Read and check a config.json: it is input like any other.

    Raises:
        ValueError: It is no JSON mapping, or a key is unknown, missing or of the wrong type.
    """
    try:
        config = json.loads(Path(path).read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid JSON ({error}); save the model again") from error
    if not isinstance(config, Mapping):
        raise ValueError(
            f"{path} holds a {type(config).__name__}; it must be a mapping with the keys {', '.join(KEYS)}"
        )
    for key, kind in KEYS.items():
        if key not in config:
            raise ValueError(f"{path} has no key {key!r}; it must have {', '.join(KEYS)}")
        if not isinstance(config[key], kind):
            raise ValueError(f"{path}: {key} is {config[key]!r}; it must be a {kind.__name__}")
    for key in config:
        if key not in KEYS:
            raise ValueError(f"{path}: " + unknown(f"key {key!r}", key, KEYS, "keys"))
    check_cfg_keys(config["pretrained_cfg"], f"{path}: pretrained_cfg")
    if not re.fullmatch(r"[\w.-]+\.safetensors", config["weights"]):
        raise ValueError(
            f"{path}: weights is {config['weights']!r}; it must be the name of a .safetensors file in the same folder"
        )
    return config
