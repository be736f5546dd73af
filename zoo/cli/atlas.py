"""``zoo atlas``: the static site of all models."""

from pathlib import Path
from typing import Annotated

import typer

from zoo.cli.card import complete
from zoo.cli.support.parse import Json

EXAMPLE = "zoo atlas mixer poolformer --out site"


def run(
    families: Annotated[
        list[str] | None,
        typer.Argument(metavar="FAMILY", help="Families that get pages; without any, all.", autocompletion=complete),
    ] = None,
    out: Annotated[
        Path,
        typer.Option(metavar="FOLDER", help="Where the site goes; replaces an atlas and all in its folder."),
    ] = Path("atlas"),
    recipes: Annotated[
        Path, typer.Option(metavar="FOLDER", help="Recipes that the families' pages name, if they are there.")
    ] = Path("recipes"),
    json: Json = False,
) -> None:
    """Write the atlas: models, weights, costs by stage, drawings of the blocks, how to train and cite, and the API.

    The pages need no server and no network. Writing them takes two or three minutes, and pip install 'zoo[atlas]'.
    """
    from zoo.cli.support.manual import page as manual
    from zoo.cli.support.models import index, load
    from zoo.cli.support.output import print_json, progress
    from zoo.tools.atlas.target import check_installed, checked_target

    check_installed()
    checked_target(out)
    index()
    load()
    from zoo.tools.atlas import write_atlas
    from zoo.training.recipe.reference import page as recipe_keys

    more = {"Command line": manual(), "Recipes": recipe_keys()}
    with progress("Counting families") as tell:
        first = write_atlas(out, families or None, _recipes(recipes), more, tell)
    if json:
        print_json({"page": str(first)})
    else:
        print(f"The atlas begins at {first}.")


def _recipes(folder: Path) -> dict[str, list[tuple[str, str]]]:
    """The recipes in a folder, by the architecture that they train: file and title, the first line of each."""
    from zoo.checks import printable
    from zoo.training import RecipeError, load_recipe

    found: dict[str, list[tuple[str, str]]] = {}
    for path in sorted(folder.glob("*.yaml")):
        try:
            arch = load_recipe(path).model.name.partition(".")[0]
        except (RecipeError, OSError, UnicodeDecodeError) as error:  # half written perhaps: no reason to write nothing
            typer.echo(f"left out: {printable(error, 500)}", err=True)
            continue
        first = path.read_text("utf-8").partition("\n")[0]
        title = first.lstrip("# ").rstrip(".:") if first.startswith("#") else path.stem
        found.setdefault(arch, []).append((path.as_posix(), title))
    return found
