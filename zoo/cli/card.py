"""``zoo card``: the page of all models, from the registry."""

from typing import Annotated

import typer

from zoo.cli.support.parse import Json

EXAMPLE = "zoo card mixer > mixers.md"


def complete(incomplete: str) -> list[str]:
    """The families that begin so."""
    from zoo.tools.index import known

    return [name for name in known()["families"] if name.startswith(incomplete)]


def run(
    families: Annotated[
        list[str] | None,
        typer.Argument(metavar="FAMILY", help="Families; without any, all.", autocompletion=complete),
    ] = None,
    json: Json = False,
) -> None:
    """Print the model card: every model with its costs, counted now, and every set of weights with its licence."""
    from zoo.checks import shown, unknown
    from zoo.cli.support.models import index, load
    from zoo.cli.support.output import print_json, progress

    there = index()["families"]
    for name in families or []:
        if name not in there:
            raise ValueError(unknown(f"family {shown(name)}", name, there, count=3, see="zoo list --json"))
    load()
    from zoo.registry import families as registered
    from zoo.registry import list_models
    from zoo.tools import card

    names, sections, rows = families or sorted(there), [], []
    with progress("Counting families") as tell:
        for number, name in enumerate(names):
            tell(number, len(names))
            family = registered()[name]
            if json:
                models = list_models(family=name, include_tags=True)
                rows += [dict(zip(card.COLUMNS, card.cells(family, model), strict=True)) for model in models]
            else:
                sections.append(card.section(family))
    if json:
        print_json(rows)
    else:
        print(card.HEADER + "".join(sections), end="")
