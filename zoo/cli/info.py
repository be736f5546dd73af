"""``zoo info``: what is known of one model."""

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from zoo.cli.support.models import NameOrFolder
from zoo.cli.support.parse import Json

EXAMPLE = "zoo info mixer_b16_224"


def run(
    name: NameOrFolder,
    resolved: Annotated[
        bool, typer.Option("--resolved", help="Build it without weights: every argument, and each block's slots.")
    ] = False,
    json: Json = False,
) -> None:
    """Show a model: its family and papers, arguments, costs, weights with their licences, published figures."""
    from zoo.cli.support.models import create, resolve
    from zoo.cli.support.output import print_json

    place = resolve(name)
    if place.startswith("timm:"):
        raise ValueError(f"{name}: info knows zoo's own models; zoo flops {name} counts what this one costs")
    if place.startswith("hf-hub:"):
        raise ValueError(f"{name}: info opens nothing on the Hub; zoo.create_model does, and its config says the rest")
    facts = _of_folder(place.partition(":")[2]) if ":" in place else _of_name(place)
    if resolved:
        model = create(place, device="meta", **({"pretrained": False} if ":" in place else {}))
        facts["resolved"] = {key: repr(value) for key, value in sorted(model.config.items())}
    if json:
        print_json(facts)
    else:
        print("\n".join(_lines(facts)))


def _of_name(name: str) -> dict[str, Any]:
    from zoo.cli.support.models import entry_of, index

    _, entry, configuration = entry_of(name)
    facts = {"name": name, "family": entry["family"], "tasks": entry["tasks"]}
    costs = {key: configuration[key] for key in ("params", "active_params", "macs", "input_size", "classes")}
    rest = {key: entry[key] for key in ("arguments", "configurations", "published", "counted")}
    return {**facts, **costs, "about": index()["families"][entry["family"]], **rest}


def _of_folder(folder: str) -> dict[str, Any]:
    from zoo.cli.support.models import load
    from zoo.cli.support.output import waiting

    load()
    with waiting("Reading the folder"):
        from zoo.hub.config import CONFIG, read_config
        from zoo.hub.shards import files_of
    config = read_config(os.path.join(folder, CONFIG))
    weights = os.path.join(folder, config["weights"])
    size = sum(path.stat().st_size for path in files_of(Path(weights)))
    cfg = config["pretrained_cfg"]
    return {
        "name": folder,
        "architecture": config["architecture"],
        "zoo_version": config["version"],
        "input_size": list(cfg.get("input_size", [])),
        "classes": cfg.get("num_classes"),
        "weights": {"file": weights, "bytes": size},
        "arguments": {key: repr(value) for key, value in config["model_args"].items()},
    }


def _lines(facts: dict[str, Any]) -> list[str]:
    """The facts as text: single ones first, each list under its title."""
    about = facts.get("about")
    lines = [facts["name"], *(["", about.strip()] if about else []), ""]
    for key in ("architecture", "family", "tasks", "zoo_version", "params", "active_params", "macs", "input_size"):
        if facts.get(key) is not None:
            lines.append(f"{key.replace('_', ' ')}: {_text(facts[key])}")
    lines.append(f"classes: {facts['classes']}")
    for title in ("arguments", "resolved", "published", "counted"):
        if facts.get(title):
            lines += ["", f"{title}:", *(f"  {key}: {value}" for key, value in facts[title].items())]
    if "weights" in facts:
        return [*lines, "", f"weights: {facts['weights']['file']}, {facts['weights']['bytes']:,} bytes"]
    released = [each for each in facts["configurations"] if each["weights"]]
    rows = [f"  {each['name']}: {each['licence']}, {each['weights']}" for each in released]
    return [*lines, "", "weights (name: licence, place):", *(rows or ["  none released"])]


def _text(value: Any) -> str:
    if isinstance(value, int):
        return f"{value:,}"
    return " x ".join(map(str, value)) if value and isinstance(value[0], int) else _words(value)


def _words(value: Any) -> str:
    return value if isinstance(value, str) else ", ".join(value)
