"""The pretrained configurations of a variant: timm's own where timm knows it, else made of its family's file."""

from collections.abc import Mapping
from typing import Any

import timm.models

from zoo.blocks.images import to_pair
from zoo.checks import shown, unknown
from zoo.family import Family, Published, thawed
from zoo.registry.box import boxed_of
from zoo.registry.discovery import family_of
from zoo.weights import take_state_dict
from zoo.weights.pretrained import check_cfg


def cfgs_of(arch: str) -> dict[str, timm.models.PretrainedCfg]:
    """All configurations of an architecture by ``architecture.tag``; timm's own for what timm knows."""
    family = family_of(arch)
    if not timm.models.is_model(arch):
        return {name: timm.models.PretrainedCfg(**cfg) for name, cfg in cfgs_of_family(family, arch).items()}
    return timm.models.get_arch_pretrained_cfgs(arch) or {arch: resolve_cfg(arch)}


def classes_of(arch: str) -> set[int]:
    """The numbers of classes of a variant itself, and of all its configurations."""
    own = family_of(arch).arguments(arch).get("num_classes")
    return {cfg.num_classes for cfg in cfgs_of(arch).values()} | ({own} if own is not None else set())


def resolve_cfg(arch: str, cfg: Any = None, overlay: Mapping | None = None) -> timm.models.PretrainedCfg:
    """One configuration of an architecture.

    Args:
        arch: Its name, without a tag.
        cfg: A tag, a whole configuration in place of its own, or None for its default.
        overlay: Single keys that replace those of the configuration.

    Raises:
        ValueError: The architecture, the tag or a key is unknown, or a value cannot be.
        TypeError: A value is of another type; the configuration is neither, or the overlay no mapping.
    """
    _check_kinds(cfg, overlay)
    cfg = cfg.to_dict() if isinstance(cfg, timm.models.PretrainedCfg) else cfg
    family = family_of(arch)
    own_cfgs = {} if timm.models.is_model(arch) else cfgs_of_family(family, arch)  # vectors, the tiny variants
    if isinstance(cfg, str) and cfg:
        known = own_cfgs or timm.models.get_arch_pretrained_cfgs(arch)
        tags = [name.split(".", 1)[1] for name in known if "." in name]
        if cfg not in tags:
            raise ValueError(unknown(f"{arch} has no weights with the tag {shown(cfg)}", cfg, tags, "tags"))
    if isinstance(cfg, Mapping):
        check_cfg(cfg, "pretrained_cfg")
    check_cfg(overlay or {}, "pretrained_cfg_overlay")
    for mapping in (cfg, overlay):
        if isinstance(mapping, Mapping) and mapping.get("state_dict"):  # timm copies what is in it
            take_state_dict(mapping["state_dict"], "the given state dict")
    if own_cfgs and not isinstance(cfg, Mapping):
        cfg = own_cfgs[f"{arch}.{cfg}" if cfg else arch]
    return timm.models.resolve_pretrained_cfg(arch, pretrained_cfg=cfg or None, pretrained_cfg_overlay=overlay)


def _check_kinds(cfg: Any, overlay: Any) -> None:
    if not (cfg is None or isinstance(cfg, (str, Mapping, timm.models.PretrainedCfg))):
        raise TypeError(
            f"pretrained_cfg is {shown(cfg)}, a {type(cfg).__name__}; it must be a tag, or a mapping of timm's keys"
        )
    if not (overlay is None or isinstance(overlay, Mapping)):
        raise TypeError(
            f"pretrained_cfg_overlay is {shown(overlay)}, a {type(overlay).__name__}; it must be a mapping of single "
            'keys, such as {"file": "weights.safetensors"}'
        )


def cfgs_of_family(family: Family, arch: str) -> dict[str, dict]:
    """Configurations of an architecture that timm does not know, from what its family's file says."""
    arguments = family.arguments(arch)
    size = to_pair(arguments.get("img_size", 224), "img_size") if family.model.vision else ()
    base = {
        "num_classes": arguments.get("num_classes", 1000),
        "input_size": (arguments.get("in_chans", 3), *size),
        "fixed_input_size": True,
        **thawed(family.cfg),
    }
    if box := boxed_of(family, arch):
        return {arch: {**base, **box.cfg, "file": str(box.file)}}
    rows = {n: row for n, row in family.published.items() if n.split(".")[0] == arch and row.weights}
    return {name: {**base, **_cfg_of_row(row, base["input_size"])} for name, row in rows.items()} or {arch: base}


def _cfg_of_row(row: Published, input_size: tuple[int, int, int]) -> dict[str, Any]:
    """Where a set of weights is, and what is special about it."""
    size = input_size if row.img_size is None else (input_size[0], row.img_size, row.img_size)
    cfg = {"num_classes": row.classes, "input_size": size, **thawed(row.cfg)}
    if not row.weights.startswith("hf-hub:"):
        return {**cfg, "url": row.weights}
    owner, name, *file = row.weights.removeprefix("hf-hub:").split("/", 2)
    return {**cfg, "hf_hub_id": f"{owner}/{name}", **({"hf_hub_filename": file[0]} if file else {})}
