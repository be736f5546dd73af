"""Families and variants as data: create_model, list_models, model_info, and the bridge into timm's registry."""

import dataclasses
import fnmatch
import functools
import inspect
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm.models
from torch import nn

from zoo.arguments import (
    FEATURE_ARGUMENTS,
    SLOT_ARGUMENTS,
    check_arguments,
    check_complete,
    check_taken,
    given,
    in_memory,
)
from zoo.cfgs import cfgs_of, made_cfgs, resolve_cfg
from zoo.checks import check_type, shown, unknown
from zoo.families import Family, families, family_of
from zoo.models.features import FeatureMaps
from zoo.models.published import Counted, Published
from zoo.ranges import lifted
from zoo.slots import copied, with_others
from zoo.use import watched
from zoo.weights import fetch_state_dict, load_weights, natural_key, read_state_dict

SOURCES = ("local-dir", "hf-hub")


# --- Looking up -------------------------------------------------------------------------------------------------------


def list_models(
    filter: str | Iterable[str] = "*",
    *,
    exclude_filters: str | Iterable[str] = (),
    family: str | None = None,
    task: str | None = None,
    pretrained: bool = False,
    include_tags: bool | None = None,
    include_tests: bool = False,
) -> list[str]:
    """Names of models, in natural order.

    Example:
        >>> list_models("mixer_b*")
        ['mixer_b16_224', 'mixer_b32_224']
        >>> list_models(["mixer_b*", "gmlp_*"], exclude_filters="*_b*")
        ['gmlp_s16_224', 'gmlp_ti16_224']

    Args:
        filter: Wildcards as in a shell, one or several, of which one has to fit; matched with and without the tag. None
            at all, or an empty one, stands for every name, as in timm.
        exclude_filters: Likewise; names that one of them fits are left out.
        family: Only this family.
        task: Only models for this task: ``classification`` or ``image-to-image``.
        pretrained: Only those with released weights.
        include_tags: Names as ``architecture.tag``, one for each set of weights; by default the value of `pretrained`.
        include_tests: The tiny ``*_test`` variants too.

    Raises:
        ValueError: The family or the task is unknown.
        TypeError: A filter is no string.
    """
    wanted, unwanted = _patterns(filter, "filter"), _patterns(exclude_filters, "exclude_filters")
    tasks = {t for f in families().values() for t in f.tasks}
    check_type("family", family, str | None)
    check_type("task", task, str | None)
    if family is not None and family not in families():
        raise ValueError(unknown(f"family {shown(family)}", family, families()))
    if task is not None and task not in tasks:
        raise ValueError(unknown(f"task {shown(task)}", task, tasks))
    names = []
    for one in families().values():
        if family not in (None, one.name) or (task is not None and task not in one.tasks):
            continue
        for arch in one.variants:
            if arch.endswith("_test") and not include_tests:
                continue
            tags = [name for name, cfg in cfgs_of(arch).items() if cfg.has_weights or not pretrained]
            if include_tags if include_tags is not None else pretrained:
                found = tags
            else:
                found = [arch] if tags or not pretrained else []
            names += [n for n in found if _fits(n, wanted or ["*"]) and not _fits(n, unwanted)]
    return sorted(names, key=natural_key)


def _fits(name: str, patterns: Iterable[str]) -> bool:
    """Whether a name, with or without its tag, is what one of the patterns says."""
    return any(fnmatch.fnmatch(n, pattern) for n in {name, name.split(".")[0]} for pattern in patterns)


def _patterns(value: str | Iterable[str], what: str) -> list[str]:
    """One pattern or several, without empty ones."""
    patterns = [value] if isinstance(value, str) else list(value) if isinstance(value, Iterable) else [value]
    if not all(isinstance(p, str) for p in patterns):
        raise TypeError(f"{what} is {shown(value)}; it must be a name with wildcards, or several in a list")
    return [p for p in patterns if p]


@dataclass(frozen=True)
class ModelInfo:
    """What zoo knows of a model without building it."""

    name: str
    family: str
    tasks: tuple[str, ...]
    arguments: Mapping[str, Any]
    pretrained_cfg: Mapping[str, Any]
    tags: Mapping[str, str]
    published: Mapping[str, Published]
    counted: Mapping[str, Counted]
    about: str

    def __str__(self) -> str:
        lines = [f"{self.name}  (family {self.family}; {', '.join(self.tasks)})", "", self.about, "", "Arguments:"]
        lines += [f"  {k} = {v!r}" for k, v in self.arguments.items()]
        lines += ["", "Weights (tag: licence):"]
        lines += [f"  {tag}: {licence}" for tag, licence in self.tags.items()] or ["  none released"]
        for title, rows in (("Published:", self.published), ("Counted:", self.counted)):
            told = [f"  {name}: {row}" for name, row in rows.items() if str(row)]
            lines += ["", title, *told] if told else []
        return "\n".join(lines)


def model_info(name: str) -> ModelInfo:
    """What is known of a model: family, arguments, input, weights with their licences, published and counted figures.

    It is the caller's to keep and to change; nothing in it is shared with a model or with another answer.

    Example:
        >>> model_info("mixer_s16_224").arguments["depth"]
        8

    Raises:
        ValueError: The model or its tag is unknown.
        TypeError: The name is no string.
    """
    check_type("name", name, str)
    arch, tag = timm.models.split_model_name_tag(name)
    family = family_of(arch)
    cfg = resolve_cfg(arch, tag)
    return ModelInfo(
        name=name,
        family=family.name,
        tasks=family.tasks,
        arguments=family.arguments(arch),
        pretrained_cfg=cfg.to_dict(),
        tags={
            key.split(".", 1)[1]: one.license or "not stated"
            for key, one in cfgs_of(arch).items()
            if one.has_weights and "." in key
        },
        published={
            n: dataclasses.replace(row, cfg=copied(row.cfg))
            for n, row in family.published.items()
            if n.split(".")[0] == arch
        },
        counted={n: row for n, row in family.counted.items() if n.split(".")[0] == arch},
        about=family.about,
    )


# --- Creating ---------------------------------------------------------------------------------------------------------


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
        model_name: ``architecture``, ``architecture.tag`` or ``local-dir:folder`` of `zoo.save_pretrained`.
        pretrained: Load the released weights. A folder's weights are loaded unless this is False.
        pretrained_cfg: A tag, or a whole configuration, in place of the name's.
        pretrained_cfg_overlay: Single keys of the configuration, e.g. ``{"file": "weights.safetensors"}``.
        checkpoint_path: A weight file to load into the finished model, in zoo's keys or the published ones.
        cache_dir: Where downloads are kept.
        bounded: Depth and sizes have upper ends (`zoo.ranges`), and a folder is opened only if its configuration asks
            for no more than its weights hold; False lifts both, for a folder that you trust.
        kwargs: Any argument of the family's model class: sizes, slots, ``num_classes``, ``in_chans``, ``img_size``,
            ``drop_path_rate``, ``device``, …; ``features_only=True`` with ``out_indices`` gives feature maps. Weights
            for another ``img_size`` are resampled, a classifier for another ``num_classes`` starts anew with a warning,
            a first convolution for other ``in_chans`` is adapted. A slot such as ``{"every": {2: "moe"}}`` or
            ``{"at": {-1: "moe"}}`` exchanges these blocks' alone (see `zoo.slots.resolve_slots`). None is a value for
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
    source, _, rest = model_name.partition(":")
    if rest:
        if source not in SOURCES:
            raise ValueError(unknown(f"model source {shown(source)} of {shown(model_name)}", source, SOURCES))
        if pretrained_cfg or pretrained_cfg_overlay:
            raise ValueError(
                f"{shown(model_name)} brings its own configuration; leave pretrained_cfg and its overlay out"
            )
        from zoo.hub import open_model  # the Hub's client is slow to import, and few models come from a folder

        model = open_model(model_name, pretrained=pretrained is not False, bounded=bounded, **kwargs)
    else:
        if any(mark in model_name for mark in "/\\"):
            raise ValueError(f"model {shown(model_name)} looks like a folder; write {shown(f'local-dir:{model_name}')}")
        arch, tag = timm.models.split_model_name_tag(model_name)
        family = family_of(arch)
        cfg = resolve_cfg(arch, pretrained_cfg or tag, pretrained_cfg_overlay)
        with lifted(not bounded):
            model = assemble(
                arch,
                family,
                family.arguments(arch),
                cfg,
                kwargs,
                load=functools.partial(fetch_state_dict, cfg.to_dict(), model_name, cache_dir) if pretrained else None,
            )
    if checkpoint_path:
        rules, chans = family_of(model.pretrained_cfg["architecture"]).rules, model.pretrained_cfg["input_size"][0]
        load_weights(model, read_state_dict(checkpoint_path), rules, str(checkpoint_path), source_chans=chans)
    return model


def assemble(
    arch: str,
    family: Family,
    arguments: Mapping[str, Any],
    cfg: timm.models.PretrainedCfg,
    overrides: Mapping[str, Any],
    *,
    load=None,
    own_layout: bool = False,
) -> nn.Module:
    """Build a model from its arguments, load weights into it, and wrap it if features are wanted.

    Args:
        arch: Name of the variant.
        family: Its family.
        arguments: Arguments of the class that the weights were made with.
        cfg: Its pretrained configuration.
        overrides: Arguments of the user.
        load: Gives the state dict and its source's name, or None for no weights.
        own_layout: The state dict is one that zoo saved, of a model with just these arguments: it has zoo's keys, and
            their classes and channels. Otherwise it has the published keys, and those of `cfg`.
    """
    overrides = {k: copied(v, f"{arch}: {k}") for k, v in given(family.model, overrides).items()}
    arguments = {k: copied(v, f"{arch}: {k}") for k, v in arguments.items()}
    check_arguments(family.model, overrides, arch, beside=FEATURE_ARGUMENTS)
    check_arguments(family.model, arguments, arch)
    check_complete(family.model, {**arguments, **overrides}, arch)
    takes = inspect.signature(family.model).parameters
    if family.model.vision and len(cfg.input_size) != 3:
        raise ValueError(f"{arch} takes images, so its input_size must be (channels, height, width)")
    own = lambda key: arguments.get(key, takes[key].default)
    asked = {k: v for k, v in overrides.items() if k in takes and v != own(k)}
    overrides = {  # where only some blocks are exchanged, the others stay what they are
        key: with_others(value, own(key)) if key in SLOT_ARGUMENTS else value for key, value in overrides.items()
    }
    cfg = dataclasses.replace(cfg, architecture=arch, state_dict=None)
    facts = {}  # of the model that is built, for timm's tools; a configuration of timm's has the names of timm's layers

    def build(**final) -> nn.Module:
        with watched() as use, in_memory(arch):
            model = family.model(**final)
        check_taken(model, use, asked, arch)
        return model

    def make(**final) -> nn.Module:
        final = {**arguments, **final}
        if load is None:
            return build(**final)
        # Weights are loaded at the size that they were made for, and then the model is moved to the size asked for.
        size = overrides.get("img_size")
        if size is not None:
            final["img_size"] = arguments.get("img_size") or tuple(cfg.input_size[-2:])
        model = build(**final)
        state, name = load()
        classes = arguments.get("num_classes", cfg.num_classes) if own_layout else cfg.num_classes
        rules, head = () if own_layout else family.rules, not overrides.get("features_only")
        chans = arguments.get("in_chans", cfg.input_size[0]) if own_layout else cfg.input_size[0]
        load_weights(model, state, rules, name, source_classes=classes, source_chans=chans, head=head)
        if size is not None:
            model.set_input_size(size)
        return model

    if not family.model.vision:
        if features := [key for key in FEATURE_ARGUMENTS if overrides.get(key)]:
            raise ValueError(f"{arch} takes vectors and has no feature maps; leave {', '.join(features)} out")
        model = make(**overrides)
        sizes = {"num_classes": model.num_classes, "input_size": model.input_size}
        model.pretrained_cfg = dataclasses.replace(cfg, **sizes, **model.facts(model.input_size)).to_dict()
        return model
    # A variant's own sizes go before those of a configuration that was made up for it.
    sizes = {"img_size": tuple(cfg.input_size[-2:])}
    sizes |= {k: arguments[k] for k in ("num_classes", "in_chans", "img_size", "global_pool") if k in arguments}
    levels = family.model.count_levels({**arguments, **overrides})
    features = {"feature_cls": FeatureMaps, "out_indices": levels}
    if overrides.get("feature_cls", "getter") == "getter":  # timm's class of that name would lose the auxiliary outputs
        overrides = {k: v for k, v in overrides.items() if k != "feature_cls"}
        features["output_fmt"] = "NCHW"  # as timm's gives them, whatever the layout within

    def told(**given) -> nn.Module:
        model = make(**given)
        facts.update(model.facts(cfg.input_size))
        return model

    model = timm.models.build_model_with_cfg(
        told,
        arch,
        pretrained=False,
        pretrained_cfg=cfg.to_dict(),
        feature_cfg=features,
        **{**sizes, **overrides},
    )
    if overrides.get("features_only"):
        del facts["classifier"]  # as timm's builder leaves it out
    model.pretrained_cfg.update(facts)
    return model


# --- timm -------------------------------------------------------------------------------------------------------------


def register_with_timm(include_tests: bool = False) -> None:
    """Make the names that timm does not have known to `timm.create_model`. A name that timm has stays timm's.

    The tiny ``*_test`` variants are left out, since timm lists whatever it can create; `zoo.create_model` knows them.
    With `include_tests` they are registered too, for whoever runs timm's own tests on them.
    """
    for family in families().values():
        if not family.model.vision:
            continue
        module = sys.modules[family.module]
        ours = [arch for arch in family.variants if include_tests or not arch.endswith("_test")]
        ours = [arch for arch in ours if not timm.models.is_model(arch)]
        cfgs = {name: cfg for arch in ours for name, cfg in made_cfgs(family, arch).items()}
        module.default_cfgs = timm.models.generate_default_cfgs(cfgs)  # where timm looks when a name is registered
        for arch in ours:
            entry = functools.partial(_entry_point, arch)
            functools.update_wrapper(entry, _entry_point)
            entry.__name__, entry.__module__ = arch, family.module
            timm.models.register_model(entry)


def _entry_point(arch: str, pretrained: bool = False, **kwargs) -> nn.Module:
    return create_model(arch, pretrained, **kwargs)
