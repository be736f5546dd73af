"""The command line of scripts that compare recipes with each other."""

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from zoo.storage.files import replacing
from zoo.training.recipe.reading import RecipeError


def command(
    about: str,
    compare: Callable[..., list[dict]],
    table: Callable[[list[dict]], str],
    output: str,
    argv: list[str] | None = None,
    **positional: Mapping[str, Any],
) -> None:
    """Run a comparison from the command line: print its table, and write its rows if a file is named.

    Args:
        about: The script's docstring.
        compare: Makes the rows of the positional arguments' values, the overrides and the folder of the runs.
        table: Makes Markdown of the rows.
        output: Default folder of the runs.
        argv: Arguments in place of the command line's.
        positional: Arguments before the overrides: what argparse's `add_argument` takes, by name.
    """
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, options in positional.items():
        parser.add_argument(name, **options)
    parser.add_argument("overrides", nargs="*", metavar="key.sub=value", help="change all recipes")
    parser.add_argument("--output", type=Path, default=Path(output), help="folder of the runs")
    parser.add_argument("--json", type=Path, help="write the rows into this file")
    args = parser.parse_intermixed_args(argv)
    try:
        rows = compare(*(vars(args)[name] for name in positional), args.overrides, args.output)
    except RecipeError as error:
        sys.exit(f"error: {error}")
    print(table(rows))
    if args.json:
        with replacing(args.json) as file:
            file.write_text(json.dumps(rows, indent=1) + "\n", "utf-8")
