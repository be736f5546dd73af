"""From a family's data to a model: check, build, load, resize, wrap."""

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

from timm.models import build_model_with_cfg
from torch import nn

from zoo.blocks.images import to_pair
from zoo.build.effect import check_effect
from zoo.build.recombine import Twins, recombine
from zoo.build.request import Request, Variant, check_request
from zoo.checks import printable
from zoo.skeletons.features import FeatureMaps
from zoo.skeletons.model import Model
from zoo.slots.use import watched
from zoo.weights import Loaded, WeightSource, load_weights


def assemble(variant: Variant, overrides: Mapping[str, Any], source: WeightSource | None = None) -> nn.Module:
    """Build a model from its arguments, load weights into it, and wrap it if features are wanted.

    Args:
        variant: What is built.
        overrides: Arguments of the user.
        source: The weights; None for none.

    Raises:
        ValueError: An argument is unknown, has no effect or cannot be, or weights do not fit.
        TypeError: An argument has the wrong type.
    """
    request = check_request(variant, overrides)
    return _with_images(request, source) if request.model.vision else _with_vectors(request, source)


def _with_vectors(request: Request, source: WeightSource | None) -> Model:
    """A model of vectors, which is none of timm's: its configuration says what it was built as."""
    model = _with_weights(request, request.all_arguments, source)
    sizes = {"num_classes": model.num_classes, "input_size": model.input_size}
    model.pretrained_cfg = dataclasses.replace(request.cfg, **sizes, **model.facts(model.input_size)).to_dict()
    return model


def _with_images(request: Request, source: WeightSource | None) -> nn.Module:
    """A model of images, by timm's builder: with timm's attributes, and wrapped for features if they are wanted."""
    loaded: list[Loaded | None] = []
    facts = {}  # for timm's tools; a configuration of timm's has the names of timm's layers

    def model_cls(**arguments) -> Model:
        model = _with_weights(request, {**request.arguments, **arguments}, source)
        loaded.append(model.loaded)
        facts.update(model.facts(request.cfg.input_size))  # now: for features a part of it is removed
        return model

    model = build_model_with_cfg(
        model_cls,
        request.arch,
        pretrained=False,
        pretrained_cfg=request.cfg.to_dict(),
        features_only=bool(request.features),
        feature_cfg=_feature_cfg(request),
        **_before_timms_defaults(request),
        **request.overrides,
    )
    if request.features:
        del facts["classifier"]  # as timm's builder leaves it out
    model.pretrained_cfg.update(facts)
    model.loaded = loaded[-1]  # of what is wrapped for features too
    return model


def _before_timms_defaults(request: Request) -> dict[str, Any]:
    """The variant's own sizes, where timm's builder would take those of the configuration, which may be made up."""
    own = {"img_size": tuple(request.cfg.input_size[-2:])}
    own |= {k: v for k, v in request.arguments.items() if k in ("num_classes", "in_chans", "img_size", "global_pool")}
    return {k: v for k, v in own.items() if k not in request.overrides}


def _feature_cfg(request: Request) -> dict[str, Any]:
    """How timm's builder is to wrap a model for features; nothing if none are wanted."""
    if not request.features:
        return {}
    levels = request.model.count_levels(request.all_arguments)
    wrapping = {"feature_cls": "getter", "out_indices": levels, **request.features}
    if wrapping["feature_cls"] == "getter":  # timm's class of that name would lose the auxiliary outputs
        # In timm's layout of feature maps, whatever the layout within.
        wrapping |= {"feature_cls": FeatureMaps, "output_fmt": "NCHW"}
    del wrapping["features_only"]
    return wrapping


def _with_weights(request: Request, arguments: Mapping[str, Any], source: WeightSource | None) -> Model:
    """A model with the weights of a source, at the size of images that the user asks for.

    Weights are loaded at the size that they were made for, and then the model is moved.
    """
    if source is None:
        return _build(request, arguments)
    size = request.overrides.get("img_size")
    trained_size = request.arguments.get("img_size") or tuple(request.cfg.input_size[-2:])
    arguments = arguments if size is None else {**arguments, "img_size": trained_size}
    model = _build(request, arguments)
    load = partial(recombine, twins=_twins(request, arguments)) if request.exchanged else load_weights
    model.loaded = load(model, source=source, head=not request.features)
    if size is not None:
        before = {key: value.shape for key, value in model.state_dict().items()}
        model.set_input_size(size)
        changed = {key: v.numel() for key, v in model.state_dict().items() if before.get(key) not in (None, v.shape)}
        sizes = [" x ".join(map(str, to_pair(each, "img_size"))) for each in (trained_size, size)]
        model.loaded = model.loaded.resampled(changed, f"resampled, images {' -> '.join(sizes)}")
    return model


def _twins(request: Request, arguments: Mapping[str, Any]) -> Twins:
    """On meta, the model of a request, and the one whose slots the user did not exchange, of the same other arguments.

    That one need not pool as a recombined one that has a class token of its own.
    """
    own = {*request.exchanged, *(["global_pool"] if "embed" in request.exchanged else [])}
    others = {key: value for key, value in arguments.items() if key not in own}
    plain = others | {key: value for key, value in request.arguments.items() if key in own}
    return Twins(*(request.model(**given | {"device": "meta"}) for given in (arguments, plain)))


def _build(request: Request, arguments: Mapping[str, Any]) -> Model:
    """A model without weights, in which everything that the user asks for has an effect."""
    with watched() as use, _within_memory(request.arch):
        model = request.model(**arguments)
    check_effect(model, use, request.changed, request.arch)
    return model


@contextmanager
def _within_memory(name: str) -> Iterator[None]:
    """What torch raises for weights of more memory than there can be, of a model that is built, becomes a ValueError.

    Raises:
        ValueError: A weight does not fit.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        reason = str(error).strip()
        if isinstance(error, RuntimeError) and not any(word in reason for word in ("allocate", "overflow")):
            raise
        raise ValueError(
            f"{name}: a weight does not fit into memory ({printable(reason, 200)}); give smaller sizes, or "
            'device="meta" for a model without values'
        ) from error
