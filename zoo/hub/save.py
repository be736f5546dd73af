"""Saving a model: safetensors for the weights, config.json for everything that builds the model again."""

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from timm.models import PretrainedCfg
from torch import Tensor, nn

from zoo import version
from zoo.blocks.mixer import Part, trait
from zoo.blocks.moe.experts.base import Experts
from zoo.build import Variant, assemble
from zoo.checks import some
from zoo.checks.ranges import lifted
from zoo.hub.arguments import arguments_of, as_json
from zoo.hub.bounds import Metered, Sizes, check_size
from zoo.hub.config import CONFIG, read_config
from zoo.hub.folder import MODEL
from zoo.hub.plain import AsTimm, as_timm
from zoo.hub.shards import read_weights, write_weights
from zoo.registry import family_of
from zoo.skeletons.model import Model
from zoo.storage.files import folder_at
from zoo.weights import Resizable, read_state_dict
from zoo.weights.inverse import same
from zoo.weights.pretrained import OPENED_BY_ZOO, check_cfg

OF_ITS_SOURCE = ("file", "state_dict", "source", "hf_hub_filename", "label_offset")  # not of what is saved here
OF_ITS_WEIGHTS = ("license", "url", "hf_hub_id", "tag", "paper_ids", "paper_name", "notes", "origin_url")


def save_pretrained(model: nn.Module, folder: Path | str, max_shard_size: int | str = "5GB") -> None:
    """Save a model so that ``zoo.create_model("local-dir:<folder>")`` gives it back: weights, arguments, slots.

    A model that timm has too, of the same name and with no slot exchanged, is written so that timm and transformers
    load it without zoo: ``timm.create_model("local-dir:<folder>", pretrained=True)``, and
    ``AutoModelForImageClassification.from_pretrained("<folder>")``. Any other opens in timm after ``import zoo``.
    That is so where the weights are called model.safetensors: in a folder that had no model before. After another save
    into the same folder their name has eight digits more, which zoo follows, and transformers and timm do not; for
    these save into a new folder, or by `zoo.push_to_hub`, which always sends the plain name.

    What is to be written is compared with the model before anything is touched, and what was written is read back
    before it takes its place. The folder holds a whole model at every instant, for whoever reads and however many save
    at once: new weights get a name that was never given before, and it is the renaming of config.json, which names
    them, that exchanges the old model for the new one. Then the weights that the old config.json named are removed,
    which harms nobody who has opened them; other files stay. What a killed save leaves is hidden, and goes with the
    next save.

    Args:
        model: A model of `zoo.create_model` (on any device, in any precision).
        folder: Where to; made if it is not there. The weights of a first save are called model.safetensors.
        max_shard_size: Weights of more bytes, a number or such as ``"500MB"``, become several files and
            model.safetensors.index.json. timm reads no such weights without zoo; transformers does.

    Raises:
        TypeError: It is no model of zoo, or the folder no path.
        ValueError: A slot or an argument has a value that a file cannot hold, such as a class, or the arguments no
            longer build the model, since a module of it was exchanged.
        FileExistsError: The folder has a config.json that zoo did not write.
        OSError: The folder cannot be written, or is full; the old model stays.
    """
    folder = folder_at(folder)
    _check_savable(model)
    arch, arguments, cfg = model.pretrained_cfg["architecture"], arguments_of(model), _cfg_of(model)
    state = model.state_dict()
    _check_built_again(Variant(arch, family_of(arch), arguments, PretrainedCfg(**cfg)), state)
    # Tensors that share memory would be refused, and views would drag their whole storage along.
    state = {k: v.detach().to("cpu").contiguous().clone() for k, v in state.items()}
    known = as_timm(arch, arguments, state) if model.vision else None
    state = state if known is None else known.state
    own = {"version": version.__version__, "architecture": arch, "model_args": arguments}
    size = sum(value.nbytes for value in state.values())
    with MODEL.exchanging(folder, size) as (new, name):
        name = write_weights(state, new, name, max_shard_size)
        config = _config_of(model, cfg, known, {**own, "weights": name, "keys": "zoo" if known is None else "timm"})
        (new / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        _read_back(new, config, state)


def _read_back(folder: Path, config: Mapping[str, Any], state: Mapping[str, Tensor]) -> None:
    """Read what was written, and compare it with what should be there.

    Raises:
        OSError: It is something else.
    """
    found = read_config(folder / CONFIG)
    weights = read_weights(folder / found["weights"], read_state_dict)
    right = {key: found[key] for key in config["zoo"]} == config["zoo"]
    if not right or weights.keys() != state.keys() or not all(same(weights[key], state[key]) for key in state):
        raise OSError(f"{folder} does not hold what was written to it; the old model stays. Check the disk")


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


def _cfg_of(model: Model) -> dict[str, Any]:
    """The pretrained configuration of a model as it is now: its sizes, and nothing of where its weights once were.

    A model that was given none of the weights of its configuration says nothing of those, such as their licence.

    Raises:
        ValueError: A key has a value that JSON cannot hold.
    """
    arch, given = model.pretrained_cfg["architecture"], model.pretrained_cfg
    foreign = () if model.loaded else OF_ITS_WEIGHTS
    cfg = {
        key: as_json(f"pretrained_cfg: {key}", value)
        for key, value in given.items()
        if key not in ("architecture", *OF_ITS_SOURCE, *foreign)
        and value is not None
        and not str(value).startswith("file:")
    }
    cfg |= {"num_classes": model.num_classes, "custom_load": False}
    if (size := list(model.input_size)) != cfg.get("input_size"):
        cfg = {key: value for key, value in cfg.items() if key not in ("test_input_size", "pool_size")}
        cfg["input_size"] = size
    check_cfg(cfg, f"{arch} cannot be saved: pretrained_cfg")
    labels = cfg.get("label_names")
    if labels is not None and len(labels) != model.num_classes:  # of another classifier
        warnings.warn(
            f"label_names has {len(labels)} names and the model {model.num_classes} classes: they are not saved; set "
            "model.pretrained_cfg['label_names'] to names of its own",
            stacklevel=3,
        )
        del cfg["label_names"]
        cfg.pop("label_descriptions", None)
    return cfg


def _config_of(model: Model, cfg: Mapping[str, Any], known: AsTimm | None, own: Mapping[str, Any]) -> dict[str, Any]:
    """What config.json holds: all that timm and transformers read, and zoo's own part."""
    cfg, labels = {**cfg, **(known.cfg if known else {})}, ("label_names", "label_descriptions")
    pool = getattr(model, "global_pool", "")
    return {
        "architecture": own["architecture"] if known else OPENED_BY_ZOO,
        "num_classes": model.num_classes,
        **({"num_features": model.num_features} if model.vision else {}),
        **({"global_pool": pool} if pool else {}),
        **{key: cfg[key] for key in labels if key in cfg},
        **({"model_args": known.arguments} if known and known.arguments else {}),
        "pretrained_cfg": {key: value for key, value in cfg.items() if key not in labels},
        "zoo": own,
    }


def _check_built_again(variant: Variant, state: Mapping[str, Tensor]) -> None:
    """Check that the model that a variant builds has the same arguments, and a place for these tensors.

    Raises:
        ValueError: It has not, or a tensor is none that a file can hold.
    """
    arch, arguments = variant.arch, variant.arguments
    if odd := [f"{k} is a {type(v).__name__}" for k, v in state.items() if type(v) is not Tensor]:
        raise ValueError(
            f"{arch} cannot be saved: {some(odd, 4)}; quantised and distributed models are saved by what made them so"
        )
    again = _built_again(variant, state)
    if (new := arguments_of(again)) != arguments:
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


def _built_again(variant: Variant, state: Mapping[str, Tensor]) -> Model:
    """The model on meta that a variant builds, with a warning if opening it will need ``bounded=False``.

    Raises:
        ValueError: It builds none.
    """
    arch = variant.arch

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
