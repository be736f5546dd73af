"""Saving and loading models: safetensors for the weights, config.json for everything that builds the model again."""

import json
import re
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from timm.models import PretrainedCfg
from torch import nn

import zoo
from zoo.files import replacing
from zoo.models.model import Model
from zoo.registry import assemble, check_cfg_keys, family_of
from zoo.slots import Slot, dump_slots, unknown
from zoo.weights import read_state_dict

CONFIG = "config.json"
WEIGHTS = "model.safetensors"

# What a config.json may hold, and the type of each.
KEYS = {"zoo_version": str, "architecture": str, "model_args": dict, "pretrained_cfg": dict, "weights": str}


def save_pretrained(model: nn.Module, folder: Path | str) -> None:
    """Save a model so that ``zoo.create_model("local-dir:<folder>")`` gives it back: weights, arguments, slots.

    The folder holds a whole model at every instant: new weights are written under a name of their own, and it is the
    renaming of config.json, which names them, that exchanges the old model for the new one.

    Args:
        model: A model of `zoo.create_model` (on any device, in any precision).
        folder: Where to; made if it is not there.

    Raises:
        TypeError: It is no model of zoo.
        ValueError: A slot was given as a class, which a file cannot hold.
    """
    if not isinstance(model, Model):
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
    cfg = {k: v for k, v in model.pretrained_cfg.items() if k not in ("file", "state_dict", "source")}
    config = {
        "zoo_version": zoo.__version__,
        "architecture": cfg["architecture"],
        "model_args": {k: model.deployed if k == "deploy" else _plain(k, v) for k, v in model.config.items()},
        "pretrained_cfg": cfg,
        "weights": WEIGHTS,
    }
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    old = [path.name for path in folder.glob("model*.safetensors")]
    if old:
        config["weights"] = f"model-{uuid.uuid4().hex[:8]}.safetensors"
    # Tensors that share memory would be refused, and views would drag their whole storage along.
    state = {k: v.detach().to("cpu").contiguous().clone() for k, v in model.state_dict().items()}
    with replacing(folder / config["weights"]) as new:
        save_file(state, new, metadata={"format": "pt"})
    with replacing(folder / CONFIG) as new:
        new.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    for name in old:
        (folder / name).unlink(missing_ok=True)


def _plain(name: str, value: Any) -> Any:
    """An argument as JSON has it."""
    if isinstance(value, list) and value and isinstance(value[0], Slot):
        return dump_slots(value, name)
    return list(value) if isinstance(value, tuple) else value


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
    folder = Path(place)
    path = folder / CONFIG
    if not path.is_file():
        raise FileNotFoundError(
            f"{folder} holds no saved model: there is no {path}; zoo.save_pretrained(model, folder) makes one"
        )
    config = read_config(path)
    where = f"{path}: "
    arch = config["architecture"]
    family = family_of(arch, where)
    weights = folder / config["weights"]
    return assemble(
        arch,
        family,
        config["model_args"],
        PretrainedCfg(**config["pretrained_cfg"]),
        overrides,
        load=(lambda: (read_state_dict(weights), str(weights))) if pretrained else None,
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
