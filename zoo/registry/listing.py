"""What there is: names of models, and what is known of each without building it."""

import fnmatch
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import timm.models

from zoo.checks import check_type, shown, unknown
from zoo.family import Counted, Published, thawed
from zoo.registry.box import Boxed, boxed
from zoo.registry.cfgs import cfgs_of, resolve_cfg
from zoo.registry.discovery import families, family_of
from zoo.weights import natural_key


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
        >>> list_models(["mixer_b*", "gmlp_*"], exclude_filters=["*_b*", "*_digits"])
        ['gmlp_s16_224', 'gmlp_ti16_224']

    Args:
        filter: Wildcards as in a shell, one or several, of which one has to fit; matched with and without the tag. None
            at all, or an empty one, stands for every name, as in timm.
        exclude_filters: Likewise; names that one of them fits are left out.
        family: Only this family.
        task: Only models for this task: ``classification`` or ``image-to-image``.
        pretrained: Only those with weights, released or in the box (``*_digits``).
        include_tags: Names as ``architecture.tag``, one for each set of weights; by default the value of `pretrained`.
        include_tests: The tiny ``*_test`` variants too.

    Raises:
        ValueError: The family or the task is unknown.
        TypeError: A filter is no string.
    """
    included, excluded = _patterns(filter, "filter"), _patterns(exclude_filters, "exclude_filters")
    tasks = {t for f in families().values() for t in f.tasks}
    check_type("family", family, str | None)
    check_type("task", task, str | None)
    if family is not None and family not in families():
        raise ValueError(unknown(f"family {shown(family)}", family, families()))
    if task is not None and task not in tasks:
        raise ValueError(unknown(f"task {shown(task)}", task, tasks))
    names = []
    for candidate in families().values():
        if family not in (None, candidate.name) or (task is not None and task not in candidate.tasks):
            continue
        for arch in candidate.variants:
            if arch.endswith("_test") and not include_tests:
                continue
            tags = [name for name, cfg in cfgs_of(arch).items() if cfg.has_weights or not pretrained]
            if include_tags if include_tags is not None else pretrained:
                matches = tags
            else:
                matches = [arch] if tags or not pretrained else []
            names += [n for n in matches if _fits(n, included or ["*"]) and not _fits(n, excluded)]
    return sorted(names, key=natural_key)


def _fits(name: str, patterns: Iterable[str]) -> bool:
    """Whether a name, with or without its tag, is what one of the patterns says."""
    return any(fnmatch.fnmatch(n, pattern) for n in {name, name.split(".")[0]} for pattern in patterns)


def _patterns(value: str | Iterable[str], argument: str) -> list[str]:
    """One pattern or several, without empty ones."""
    patterns = [value] if isinstance(value, str) else list(value) if isinstance(value, Iterable) else [value]
    if not all(isinstance(p, str) for p in patterns):
        raise TypeError(f"{argument} is {shown(value)}; it must be a name with wildcards, or several in a list")
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
    boxed: Boxed | None

    def __str__(self) -> str:
        lines = [f"{self.name}  (family {self.family}; {', '.join(self.tasks)})", "", self.about, "", "Arguments:"]
        lines += [f"  {k} = {v!r}" for k, v in self.arguments.items()]
        lines += ["", "Weights (tag: licence):"]
        lines += [f"  {tag}: {licence}" for tag, licence in self.tags.items()] or [f"  {self._untagged()}"]
        for title, rows in (("Published:", self.published), ("Counted:", self.counted)):
            lines_of_rows = [f"  {name}: {row}" for name, row in rows.items() if str(row)]
            lines += ["", title, *lines_of_rows] if lines_of_rows else []
        return "\n".join(lines)

    def _untagged(self) -> str:
        """What is said of weights that have no tag."""
        licence = self.pretrained_cfg.get("license") or "not stated"
        if self.boxed is not None:
            return f"they come with zoo: {licence}; {self.boxed}"
        is_released = any(self.pretrained_cfg.get(key) for key in ("url", "hf_hub_id"))
        return f"without a tag: {licence}" if is_released else "none released"


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
            key.split(".", 1)[1]: tag_cfg.license or "not stated"
            for key, tag_cfg in cfgs_of(arch).items()
            if tag_cfg.has_weights and "." in key
        },
        published={n: thawed(row) for n, row in family.published.items() if n.split(".")[0] == arch},
        counted={n: row for n, row in family.counted.items() if n.split(".")[0] == arch},
        about=family.about,
        boxed=boxed(arch),
    )
