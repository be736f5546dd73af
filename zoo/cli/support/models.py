"""Models as a user names them: a name of zoo, a folder, or ``timm:<name>``; and what is known of them."""

import contextlib
import os
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from torch import nn

PREFIXES = ("local-dir:", "hf-hub:", "timm:")


def complete(incomplete: str) -> list[str]:
    """The names of models that begin so, for the shell; with their tags once a point is typed."""
    from zoo.tools.index import known

    models = known()["models"]
    arch, point, _ = incomplete.partition(".")
    if point and arch in models:
        names = [each["name"] for each in models[arch]["configurations"]]
    else:
        begun = any(incomplete.endswith("_test"[:length]) for length in range(2, 6))  # the tiny ones, if asked for
        names = [name for name in models if begun or not name.endswith("_test")]
    return [name for name in names if name.startswith(incomplete)]


Models = Annotated[
    list[str],
    typer.Argument(metavar="MODEL", help="Models of zoo list, folders, timm:<name> of timm.", autocompletion=complete),
]
NameOrFolder = Annotated[
    str,
    typer.Argument(
        metavar="NAME|FOLDER", help="A model of zoo list, or the folder of a saved one.", autocompletion=complete
    ),
]


def index() -> dict[str, Any]:
    """What is known of all models: `zoo.tools.index.known`."""
    from zoo.cli.support.output import waiting
    from zoo.tools.index import is_current, known

    with contextlib.nullcontext() if is_current() else waiting("Reading the families"):
        return known()


def entry_of(name: str) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """What the index has of a name: the architecture, its entry, and the configuration that is meant.

    Raises:
        ValueError: There is no such model, or it has no such tag; the message has the three nearest.
    """
    from zoo.checks import nearest, shown, some, unknown

    models = index()["models"]
    arch, point, tag = name.partition(".")
    if arch not in models:
        word = arch.lower().split("_")[0]
        narrower = f" {word}" if word and any(word in each for each in models) else ""
        raise ValueError(unknown(f"model {shown(name)}", arch, models, count=3, see=f"zoo list{narrower}"))
    entry = models[arch]
    if not point:
        return arch, entry, entry["configurations"][0]
    for configuration in entry["configurations"]:
        if configuration["name"] == name:
            return arch, entry, configuration
    names = [each["name"] for each in entry["configurations"]]
    near = some(map(shown, nearest(name, names, 3) or names[:3]))
    raise ValueError(f"{arch} has no weights with the tag {shown(tag)}; there are {near}")


def figures(row: dict[str, Any]) -> list[str]:
    """Cells of a table: parameters in millions, MACs in billions, size of the input, published accuracy in percent."""
    size = row["input_size"][1:] or row["input_size"]  # of an image its sides, of a vector its length
    return [
        "" if row["params"] is None else f"{row['params'] / 1e6:.2f}",
        "" if row["macs"] is None else f"{row['macs'] / 1e9:.3g}",
        "x".join(map(str, size)),
        "" if row["top1"] is None else f"{row['top1']:.2f}",
    ]


def resolve(name: str) -> str:
    """A name as `zoo.create_model` takes it, of what a user typed: a name, a folder, or either with its prefix.

    The folder of a run stands for the model in it.

    Raises:
        ValueError: It is no model's name.
        FileNotFoundError: It is a folder without a model.
    """
    from zoo.checks import printable

    if name.startswith(PREFIXES):
        return name
    if os.path.isdir(name) or any(mark in name for mark in "/\\"):
        for folder in (name, os.path.join(name, "model")):
            if os.path.exists(os.path.join(folder, "config.json")):
                return f"local-dir:{folder}"
        raise FileNotFoundError(
            f"{printable(name, 500)} holds no saved model: there is no config.json; give another folder, or a name of "
            "zoo list"
        )
    entry_of(name)
    return name


def load() -> None:
    """Import torch and timm, and tell timm's registry of zoo's models, as ``import zoo`` does elsewhere."""
    from zoo.cli.support.output import waiting

    with waiting("Loading PyTorch"):
        from zoo.timm_bridge import register_with_timm

        register_with_timm()


def create(name: str, **arguments: Any) -> "nn.Module":
    """The model that a user named, which may be timm's own; of a folder with its weights, else with new ones."""
    resolved = resolve(name)
    load()
    if resolved.startswith("timm:"):
        from zoo.bench.place import model_of

        return model_of(resolved)
    from zoo.create import create_model

    return create_model(resolved, **arguments)
