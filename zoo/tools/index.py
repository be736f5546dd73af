"""An index of the models, `models.json` beside this file: what the command line knows without importing torch.

`python -m zoo.tools.index [MODEL_CARD.md]` prints it, and `make card` writes it. Costs are counted when it is written;
all else is what the registry says. Nothing above the functions here is imported but the standard library.
"""

import functools
import hashlib
import json
import sys
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from zoo.discovery import GROUP

FILE = Path(__file__).parent / "models.json"
SOURCES = Path(__file__).parent.parent / "models"
COSTS = ("params", "active_params", "macs")
Costs = Callable[[str, str, Any], Mapping[str, int | None]]  # of an architecture, a name and its configuration


@functools.cache
def known() -> dict[str, Any]:
    """The index: the file's, unless there are models that it cannot know; then the registry is asked, which is slower.

    Example:
        >>> known()["models"]["mixer_s16_224"]["family"]
        'mixer'
    """
    return stored() if is_current() else index(functools.partial(_stored_costs, _by_name(stored())))


@functools.cache
def stored() -> dict[str, Any]:
    """What the file says."""
    return json.loads(FILE.read_text("utf-8")) if FILE.exists() else {"sources": "", "models": {}}


@functools.cache
def is_current() -> bool:
    """Whether zoo's families are those that the index was written of, and no package from outside may have others."""
    return stored()["sources"] == digest() and not metadata.entry_points(group=GROUP)


def digest() -> str:
    """A hash of the files of zoo's families."""
    found = hashlib.sha256()
    for path in sorted(SOURCES.rglob("*.py")):
        found.update(f"{path.relative_to(SOURCES).as_posix()}\n{path.read_text('utf-8')}".encode())
    return found.hexdigest()


def index(costs: Costs | None = None) -> dict[str, Any]:
    """The index as the registry gives it.

    Args:
        costs: Where the costs of a model come from; by default it is built on meta and counted.
    """
    from zoo.registry import families
    from zoo.timm_bridge import register_with_timm

    register_with_timm()  # which configuration is the default, timm says
    costs, archs = costs or _counted, [arch for family in families().values() for arch in family.variants]
    return {
        "sources": digest(),
        "families": {name: family.about for name, family in families().items()},
        "models": {arch: model_entry(arch, costs) for arch in _in_order(archs)},
    }


def model_entry(arch: str, costs: Costs) -> dict[str, Any]:
    """What the index says of a variant, and of each of its configurations; the first one is the default."""
    from zoo.registry import cfgs_of, family_of, model_info, resolve_cfg

    family, info, cfgs = family_of(arch), model_info(arch), cfgs_of(arch)
    default = f"{arch}.{resolve_cfg(arch).tag}"
    names = sorted(_in_order(cfgs), key=lambda name: name != default)
    return {
        "family": family.name,
        "tasks": list(info.tasks),
        "arguments": {name: repr(value) for name, value in info.arguments.items()},
        "published": {name: str(row) for name, row in info.published.items() if str(row)},
        "counted": {name: str(row) for name, row in info.counted.items() if str(row)},
        "configurations": [_configuration(arch, name, cfgs[name], costs) for name in names],
    }


def _configuration(arch: str, name: str, cfg: Any, costs: Costs) -> dict[str, Any]:
    from zoo.registry import boxed, family_of
    from zoo.registry.box import PLACE

    published = family_of(arch).published.get(name)
    place = (f"hf-hub:{cfg.hf_hub_id}" if cfg.hf_hub_id else cfg.url) if cfg.has_weights else None
    place = PLACE if boxed(arch) else place
    return {
        "name": name,
        **costs(arch, name, cfg),
        "input_size": list(cfg.input_size),
        "classes": cfg.num_classes,
        "top1": published and published.top1,
        "weights": place,
        "licence": (cfg.license or "not stated") if cfg.has_weights else None,
    }


def _in_order(names) -> list[str]:
    from zoo.weights import natural_key

    return sorted(names, key=natural_key)


def _counted(arch: str, name: str, cfg: Any) -> dict[str, int]:
    from zoo.tools.card import costs_of

    *_, report = costs_of(arch, cfg.num_classes, tuple(cfg.input_size))
    return {key: getattr(report, key) for key in COSTS}


def _by_name(index: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The configurations of an index by their names."""
    return {each["name"]: each for entry in index["models"].values() for each in entry["configurations"]}


def _stored_costs(configurations: Mapping[str, Mapping], arch: str, name: str, cfg: Any) -> dict[str, int | None]:
    """The costs that the file has; of a model that it does not have, those that its family's file says, if any."""
    from zoo.registry import family_of

    if name in configurations:
        return {key: configurations[name][key] for key in COSTS}
    family = family_of(arch)
    rows = [rows[key] for rows in (family.published, family.counted) for key in (name, arch) if key in rows]
    first = lambda figure: next((value for row in rows if (value := getattr(row, figure)) is not None), None)
    figures = {"params": (1e6, first("params")), "active_params": (1, None), "macs": (1e9, first("macs"))}
    return {key: None if value is None else round(unit * value) for key, (unit, value) in figures.items()}


def main(card_file: str | None = None) -> None:
    """Print the index, and write the model card into a file if one is named: what both count is counted once."""
    print(json.dumps(index(), indent=1))
    if card_file is not None:
        from zoo.tools.card import card

        Path(card_file).write_text(card(), "utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
