"""The one door: a model by name, from a folder, or from the Hub; and how pictures are prepared for it."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import timm.data
import timm.models
from torch import nn

from zoo.build import Variant, assemble
from zoo.checks import check_type, shown, unknown
from zoo.checks.ranges import lifted
from zoo.registry import family_of, resolve_cfg
from zoo.weights import load_weights, published_weights, weights_in_file
from zoo.weights.repository import Repository

PLACES = ("local-dir", "hf-hub")  # prefixes of names that are no names of variants


def create_model(
    model_name: str,
    pretrained: bool | None = None,
    pretrained_cfg: str | Mapping | None = None,
    pretrained_cfg_overlay: Mapping | None = None,
    checkpoint_path: str | Path | None = None,
    cache_dir: str | Path | None = None,
    *,
    bounded: bool = True,
    **kwargs,
) -> nn.Module:
    """Create a model by name, with timm's signature.

    Example:
        >>> model = create_model("vit_test", num_classes=3, channel_mixer="glu", depth=2)
        >>> model(__import__("torch").randn(1, 3, 32, 32)).shape
        torch.Size([1, 3])

    Args:
        model_name: ``architecture``, ``architecture.tag``, ``local-dir:folder`` of `zoo.save_pretrained`, or
            ``hf-hub:owner/name`` or ``hf-hub:owner/name@revision`` on the Hub: of zoo's own layout, or of timm's.
        pretrained: Load the released weights. Those of a folder or a repository are loaded unless this is False.
        pretrained_cfg: A tag, or a whole configuration, in place of the name's.
        pretrained_cfg_overlay: Single keys of the configuration, e.g. ``{"file": "weights.safetensors"}``.
        checkpoint_path: A weight file to load into the finished model, in zoo's keys or the published ones; all of it
            must fit.
        cache_dir: Where downloads are kept; the folders of the Hub's client and of torch by default.
        bounded: Depth and sizes have upper ends (`zoo.checks.ranges`), and a folder is opened only if its
            configuration asks for no more than its weights hold; False lifts both, for a folder that you trust.
        kwargs: Any argument of the family's model class: sizes, slots, ``num_classes``, ``in_chans``, ``img_size``,
            ``drop_path_rate``, ``device``, …; ``features_only=True`` with ``out_indices`` gives feature maps. Weights
            for another ``img_size`` are resampled, a classifier for another ``num_classes`` starts anew with a warning,
            a first convolution for other ``in_chans`` is adapted. A slot such as ``{"every": {2: "moe"}}`` or
            ``{"at": {-1: "moe"}}`` exchanges these blocks' alone (see `zoo.slots.resolve_slots`). Where slots are
            exchanged, weights go to all that is left, to what can be converted (see `zoo.build.conversions`), and the
            rest starts anew; ``model.loaded`` tells which, as a table. None is a value for
            slots and for what can be None, such as ``layer_scale``; elsewhere it means "not given", as in timm.

    Raises:
        ValueError: A name, tag, argument, slot or option is unknown, an argument is one that nothing in the model
            takes, or weights do not fit; the message says what would.
        TypeError: The name, or an option, is of the wrong type.
    """
    check_type("model_name", model_name, str)
    check_type("pretrained", pretrained, bool | None)
    check_type("bounded", bounded, bool)
    if checkpoint_path and kwargs.get("features_only"):
        raise ValueError(
            "checkpoint_path fills a whole model, and features_only leaves parts out; use pretrained=True with "
            f'pretrained_cfg_overlay={{"file": {shown(str(checkpoint_path))}}}'
        )
    prefix, _, place = model_name.partition(":")
    if place:
        if prefix not in PLACES:
            raise ValueError(unknown(f"model source {shown(prefix)} of {shown(model_name)}", prefix, PLACES))
        if pretrained_cfg or pretrained_cfg_overlay:
            raise ValueError(
                f"{shown(model_name)} brings its own configuration; leave pretrained_cfg and its overlay out"
            )
        from zoo.hub import open_from_hub, open_model  # few models come from a folder

        wanted = pretrained is not False
        if prefix == "hf-hub":
            model = open_from_hub(Repository.of(place, cache_dir), wanted, bounded, kwargs)
        else:
            model = open_model(model_name, wanted, bounded, **kwargs)
    else:
        if any(mark in model_name for mark in "/\\"):
            raise ValueError(f"model {shown(model_name)} looks like a folder; write {shown(f'local-dir:{model_name}')}")
        arch, tag = timm.models.split_model_name_tag(model_name)
        family = family_of(arch)
        cfg = resolve_cfg(arch, pretrained_cfg or tag, pretrained_cfg_overlay)
        source = published_weights(cfg, model_name, family.rules, cache_dir) if pretrained else None
        with lifted(not bounded):
            model = assemble(Variant(arch, family, family.arguments(arch), cfg), kwargs, source)
    if checkpoint_path:
        family, chans = family_of(model.pretrained_cfg["architecture"]), model.pretrained_cfg["input_size"][0]
        try:
            model.loaded = load_weights(model, weights_in_file(checkpoint_path, family.rules, chans))
        except ValueError as error:
            if not any(key in model.slots for key in kwargs):
                raise
            raise ValueError(
                f"{error}. What fits a model whose slots were exchanged is loaded by pretrained=True with "
                f'pretrained_cfg_overlay={{"file": {shown(str(checkpoint_path))}}}'
            ) from error
        model.pretrained_cfg["license"] = None  # it is of other weights
    return model


def create_transform(model: nn.Module, training: bool = False) -> Callable:
    """What makes a tensor of a picture as a model's weights want it, by timm: size, crop, interpolation, mean, std.

    Example:
        >>> from PIL import Image
        >>> model = create_model("vit_test")
        >>> create_transform(model)(Image.new("RGB", (100, 80))).shape
        torch.Size([3, 32, 32])

    Args:
        model: Of zoo or of timm. The size is the one that it was created with, the rest is its ``pretrained_cfg``'s.
        training: Crop and turn pictures at random, as timm does by default.

    Raises:
        ValueError: The model takes no pictures.
    """
    if len(size := _input_size(model)) != 3:
        raise ValueError(f"{type(model).__name__} takes inputs of {size}, no pictures: there is nothing to prepare")
    return timm.data.create_transform(**preparation_of(model), is_training=training)


def preparation_of(model: nn.Module) -> dict[str, Any]:
    """How pictures are prepared for a model, as `timm.data.create_transform` takes it.

    Of a model for grey images whose configuration has a mean for each colour, their mean is taken.
    """
    cfg: dict[str, Any] = getattr(model, "pretrained_cfg", None) or {}
    args: dict[str, Any] = {"input_size": (size := _input_size(model))}
    for key in ("mean", "std"):
        values = tuple(cfg.get(key) or ())
        if values and len(values) != size[0]:
            args[key] = (sum(values) / len(values),)
    return timm.data.resolve_model_data_config(model, args=args)


def _input_size(model: nn.Module) -> tuple[int, ...]:
    cfg = getattr(model, "pretrained_cfg", None) or {}
    return tuple(getattr(model, "input_size", None) or cfg.get("input_size") or ())
