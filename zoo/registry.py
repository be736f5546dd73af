"""Families and variants as data: create_model, list_models, model_info, and the bridge into timm's registry."""

import dataclasses
import fnmatch
import functools
import importlib
import inspect
import pkgutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm.models
from torch import nn

from zoo.blocks.embed import to_pair
from zoo.models.features import FeatureMaps
from zoo.models.model import Model
from zoo.models.published import Published
from zoo.slots import check_type, unknown, with_others
from zoo.weights import Rule, fetch_state_dict, load_weights, natural_key, read_state_dict

SLOT_ARGUMENTS = ("token_mixer", "channel_mixer", "norm", "final_norm", "act", "stem", "downsample", "layer")
SOURCES = ("local-dir", "hf-hub")
FEATURE_ARGUMENTS = ("features_only", "out_indices", "feature_cls")  # timm's builder takes these


@dataclass(frozen=True)
class Family:
    """A family's file as data."""

    name: str
    module: str
    model: type[Model]
    defaults: Mapping[str, Any]
    variants: Mapping[str, Mapping[str, Any]]
    published: Mapping[str, Published]
    rules: tuple[Rule, ...]
    tasks: tuple[str, ...]
    about: str
    cfg: Mapping[str, Any]

    def arguments(self, variant: str) -> dict[str, Any]:
        """The constructor's arguments of a variant."""
        return {**self.defaults, **self.variants[variant]}


@functools.lru_cache(maxsize=1)
def families() -> dict[str, Family]:
    """Every family by name: each module of `zoo.models` that has VARIANTS."""
    package = importlib.import_module("zoo.models")
    found = {}
    for info in pkgutil.iter_modules(package.__path__):
        module = importlib.import_module(f"zoo.models.{info.name}")
        if hasattr(module, "VARIANTS"):
            found[info.name] = Family(
                name=info.name,
                module=module.__name__,
                model=module.MODEL,
                defaults=module.DEFAULTS,
                variants=module.VARIANTS,
                published=module.PUBLISHED,
                rules=tuple(module.RULES),
                tasks=tuple(getattr(module, "TASKS", ("classification",))),
                about=module.__doc__.strip(),
                cfg=getattr(module, "CFG", {}),
            )
    return found


def family_of(arch: str, where: str = "") -> Family:
    """The family of a variant; `where` goes before the message if there is none."""
    known = {variant: family for family in families().values() for variant in family.variants}
    if arch not in known:
        names = [n for n in known if not n.endswith("_test")]
        raise ValueError(where + unknown(f"model {arch!r}", arch, names))
    return known[arch]


# --- Looking up -------------------------------------------------------------------------------------------------------


def list_models(
    filter: str = "*",
    *,
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

    Args:
        filter: Wildcards as in a shell; matched with and without the tag.
        family: Only this family.
        task: Only models for this task: ``classification`` or ``image-to-image``.
        pretrained: Only those with released weights.
        include_tags: Names as ``architecture.tag``, one for each set of weights; by default the value of `pretrained`.
        include_tests: The tiny ``*_test`` variants too.

    Raises:
        ValueError: The family or the task is unknown.
    """
    tasks = {t for f in families().values() for t in f.tasks}
    if family is not None and family not in families():
        raise ValueError(unknown(f"family {family!r}", family, families()))
    if task is not None and task not in tasks:
        raise ValueError(unknown(f"task {task!r}", task, tasks))
    names = []
    for one in families().values():
        if family not in (None, one.name) or (task is not None and task not in one.tasks):
            continue
        for arch in one.variants:
            if arch.endswith("_test") and not include_tests:
                continue
            tags = [name for name, cfg in _cfgs(arch).items() if cfg.has_weights or not pretrained]
            if include_tags if include_tags is not None else pretrained:
                names += [n for n in tags if fnmatch.fnmatch(n, filter) or fnmatch.fnmatch(arch, filter)]
            elif fnmatch.fnmatch(arch, filter) and (tags or not pretrained):
                names.append(arch)
    return sorted(names, key=natural_key)


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
    about: str

    def __str__(self) -> str:
        lines = [f"{self.name}  (family {self.family}; {', '.join(self.tasks)})", "", self.about, "", "Arguments:"]
        lines += [f"  {k} = {v!r}" for k, v in self.arguments.items()]
        lines += ["", "Weights (tag: licence):"]
        lines += [f"  {tag}: {licence}" for tag, licence in self.tags.items()] or ["  none released"]
        lines += ["", "Published:"]
        for name, row in self.published.items():
            top1 = "" if row.top1 is None else f", top-1 {row.top1} %"
            lines.append(f"  {name}: {row.params} M parameters, {row.macs} G MACs{top1}")
        return "\n".join(lines)


def model_info(name: str) -> ModelInfo:
    """What is known of a model: family, arguments, input, weights with their licences, published figures.

    Example:
        >>> model_info("mixer_s16_224").arguments["depth"]
        8

    Raises:
        ValueError: The model or its tag is unknown.
    """
    arch, tag = timm.models.split_model_name_tag(name)
    family = family_of(arch)
    cfg = _resolve_cfg(arch, tag)
    return ModelInfo(
        name=name,
        family=family.name,
        tasks=family.tasks,
        arguments=family.arguments(arch),
        pretrained_cfg=cfg.to_dict(),
        tags={
            n.split(".", 1)[1]: c.license or "not stated" for n, c in _cfgs(arch).items() if c.has_weights and "." in n
        },
        published={n: row for n, row in family.published.items() if n.split(".")[0] == arch},
        about=family.about,
    )


def _cfgs(arch: str) -> dict[str, timm.models.PretrainedCfg]:
    """All configurations of an architecture by ``architecture.tag``; timm's own for what timm knows."""
    family = family_of(arch)
    if not family.model.vision:
        return {name: timm.models.PretrainedCfg(**cfg) for name, cfg in _made_cfgs(family, arch).items()}
    return timm.models.get_arch_pretrained_cfgs(arch) or {arch: _resolve_cfg(arch)}


def _resolve_cfg(arch: str, cfg: Any = None, overlay: Mapping | None = None) -> timm.models.PretrainedCfg:
    family = family_of(arch)
    made = {} if family.model.vision else _made_cfgs(family, arch)  # timm's registry has those of images alone
    if isinstance(cfg, str) and cfg:
        known = made or timm.models.get_arch_pretrained_cfgs(arch)
        tags = [name.split(".", 1)[1] for name in known if "." in name]
        if cfg not in tags:
            raise ValueError(unknown(f"{arch} has no weights with the tag {cfg!r}", cfg, tags, "tags"))
    if isinstance(cfg, Mapping):
        check_cfg_keys(cfg, "pretrained_cfg")
    check_cfg_keys(overlay or {}, "pretrained_cfg_overlay")
    if made and not isinstance(cfg, Mapping):
        cfg = made[f"{arch}.{cfg}" if cfg else arch]
    return timm.models.resolve_pretrained_cfg(arch, pretrained_cfg=cfg or None, pretrained_cfg_overlay=overlay)


def check_cfg_keys(cfg: Mapping, what: str) -> None:
    """Check the keys of a pretrained configuration.

    Raises:
        ValueError: A key is none of timm's.
    """
    fields = [f.name for f in dataclasses.fields(timm.models.PretrainedCfg)]
    for key in cfg:
        if key not in fields:
            raise ValueError(unknown(f"{what} has no key {key!r}", key, fields, "keys"))


# --- Creating ---------------------------------------------------------------------------------------------------------


def create_model(
    model_name: str,
    pretrained: bool | None = None,
    pretrained_cfg: str | Mapping | None = None,
    pretrained_cfg_overlay: Mapping | None = None,
    checkpoint_path: str | Path | None = None,
    cache_dir: str | Path | None = None,
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
        kwargs: Any argument of the family's model class: sizes, slots, ``num_classes``, ``in_chans``, ``img_size``,
            ``drop_path_rate``, ``device``, …; ``features_only=True`` with ``out_indices`` gives feature maps. Weights
            for another ``img_size`` are resampled, a classifier for another ``num_classes`` starts anew, a first
            convolution for other ``in_chans`` is adapted. A slot such as ``{"every": {2: "moe"}}`` or
            ``{"at": {-1: "moe"}}`` exchanges these blocks' alone (see `zoo.slots.resolve_slots`).

    Raises:
        ValueError: A name, tag, argument, slot or option is unknown, or weights do not fit; the message says what
            would.
    """
    kwargs = {k: v for k, v in kwargs.items() if v is not None or k in SLOT_ARGUMENTS}
    if checkpoint_path and kwargs.get("features_only"):
        raise ValueError(
            "checkpoint_path fills a whole model, and features_only leaves parts out; use pretrained=True with "
            f'pretrained_cfg_overlay={{"file": {str(checkpoint_path)!r}}}'
        )
    source, _, rest = model_name.partition(":")
    if rest:
        if source not in SOURCES:
            raise ValueError(unknown(f"model source {source!r} of {model_name!r}", source, SOURCES))
        if pretrained_cfg or pretrained_cfg_overlay:
            raise ValueError(f"{model_name} brings its own configuration; leave pretrained_cfg and its overlay out")
        from zoo.hub import open_model  # the Hub's client is slow to import, and few models come from a folder

        model = open_model(model_name, pretrained=pretrained is not False, **kwargs)
    else:
        if any(mark in model_name for mark in "/\\"):
            raise ValueError(f"model {model_name!r} looks like a folder; write 'local-dir:{model_name}'")
        arch, tag = timm.models.split_model_name_tag(model_name)
        family = family_of(arch)
        cfg = _resolve_cfg(arch, pretrained_cfg or tag, pretrained_cfg_overlay)
        model = assemble(
            arch,
            family,
            family.arguments(arch),
            cfg,
            kwargs,
            load=functools.partial(fetch_state_dict, cfg.to_dict(), model_name, cache_dir) if pretrained else None,
        )
    if checkpoint_path:
        rules = family_of(model.pretrained_cfg["architecture"]).rules
        load_weights(model, read_state_dict(checkpoint_path), rules, str(checkpoint_path))
    return model


def assemble(
    arch: str,
    family: Family,
    arguments: Mapping[str, Any],
    cfg: timm.models.PretrainedCfg,
    overrides: Mapping[str, Any],
    *,
    load=None,
    where: str = "",
) -> nn.Module:
    """Build a model from its arguments, load weights into it, and wrap it if features are wanted.

    Args:
        arch: Name of the variant.
        family: Its family.
        arguments: Arguments of the class that the weights were made with.
        cfg: Its pretrained configuration.
        overrides: Arguments of the user.
        load: Gives the state dict and its source's name, or None for no weights.
        where: A prefix of error messages, such as the name of a configuration file.
    """
    check_arguments(family.model, {k: v for k, v in overrides.items() if k not in FEATURE_ARGUMENTS}, arch)
    check_arguments(family.model, arguments, arch, where)
    takes = inspect.signature(family.model).parameters
    overrides = {  # where only some blocks are exchanged, the others stay what they are
        key: with_others(value, arguments.get(key, takes[key].default)) if key in SLOT_ARGUMENTS else value
        for key, value in overrides.items()
    }
    cfg = dataclasses.replace(cfg, architecture=arch, state_dict=None)
    facts = {}  # of the model that is built, for timm's tools; a configuration of timm's has the names of timm's layers

    def make(**given) -> nn.Module:
        given = {**arguments, **given}
        if load is None:
            return family.model(**given)
        # Weights are loaded at the size that they were made for, and then the model is moved to the size asked for.
        size = overrides.get("img_size")
        if size is not None:
            given["img_size"] = arguments.get("img_size") or tuple(cfg.input_size[-2:])
        model = family.model(**given)
        state, name = load()
        classes = arguments.get("num_classes", cfg.num_classes) if where else cfg.num_classes
        load_weights(model, state, () if where else family.rules, name, source_classes=classes)
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


def check_arguments(model: type[nn.Module], arguments: Mapping[str, Any], name: str, where: str = "") -> None:
    """Check names and plain types of a model's arguments.

    Raises:
        ValueError: A name is none of the class's arguments.
        TypeError: A value has the wrong type.
    """
    takes = inspect.signature(model).parameters
    for key, value in arguments.items():
        if key not in takes:
            raise ValueError(where + unknown(f"{name} has no argument {key!r}", key, takes, "arguments"))
        if key not in SLOT_ARGUMENTS:
            check_type(f"{where}{name}: {key}", value, takes[key].annotation)


# --- timm -------------------------------------------------------------------------------------------------------------


def register_with_timm() -> None:
    """Make the names that timm does not have known to `timm.create_model`. A name that timm has stays timm's."""
    for family in families().values():
        if not family.model.vision:
            continue
        module = sys.modules[family.module]
        ours = [arch for arch in family.variants if not timm.models.is_model(arch)]
        module.default_cfgs = timm.models.generate_default_cfgs(
            {name: cfg for arch in ours for name, cfg in _made_cfgs(family, arch).items()}
        )
        for arch in ours:
            entry = functools.partial(_entry_point, arch)
            functools.update_wrapper(entry, _entry_point)
            entry.__name__, entry.__module__ = arch, family.module
            timm.models.register_model(entry)


def _entry_point(arch: str, pretrained: bool = False, **kwargs) -> nn.Module:
    return create_model(arch, pretrained, **kwargs)


def _made_cfgs(family: Family, arch: str) -> dict[str, dict]:
    """Configurations of an architecture that timm does not know, from what its family's file says."""
    arguments = family.arguments(arch)
    size = to_pair(arguments.get("img_size", 224), "img_size") if family.model.vision else ()
    base = {
        "num_classes": arguments.get("num_classes", 1000),
        "input_size": (arguments.get("in_chans", 3), *size),
        "fixed_input_size": True,
        **family.cfg,
    }
    rows = {n: row for n, row in family.published.items() if n.split(".")[0] == arch and row.weights}
    return {name: {**base, **_made_cfg(row, base["input_size"])} for name, row in rows.items()} or {arch: base}


def _made_cfg(row: Published, input_size: tuple[int, int, int]) -> dict[str, Any]:
    """Where a set of weights is, and what is special about it."""
    size = input_size if row.img_size is None else (input_size[0], row.img_size, row.img_size)
    found = {"num_classes": row.classes, "input_size": size, **row.cfg}
    if not row.weights.startswith("hf-hub:"):
        return {**found, "url": row.weights}
    owner, name, *file = row.weights.removeprefix("hf-hub:").split("/", 2)
    return {**found, "hf_hub_id": f"{owner}/{name}", **({"hf_hub_filename": file[0]} if file else {})}
