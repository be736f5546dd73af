"""``zoo data``: what is in a data set of pictures."""

from typing import Annotated, Any, Literal

import typer

from zoo.cli.support.parse import Json

EXAMPLE = "zoo data check photographs"
SHOWN = 20  # classes, pictures and the like that are listed; --json has all


def run(
    action: Annotated[Literal["check"], typer.Argument(metavar="check", help="Read every picture.")],
    root: Annotated[
        str,
        typer.Argument(
            metavar="ROOT", help="A folder, a table (CSV, TSV), shards (.tar, or a pattern), or a saved data set."
        ),
    ],
    json: Json = False,
) -> None:
    """Say what is in a data set, and how a recipe would name it. What kind it is, is seen from what lies there.

    Folders of classes, tables with paths and labels, WebDataset's shards, and data sets of Hugging Face's are known.
    Every picture is read: what cannot be is named, and the exit status is 1. Pictures of the same bytes in several
    parts, or under several labels, are named too.
    """
    from zoo.cli.support.output import print_json, progress, waiting

    with waiting("Looking"):
        from zoo.training.data.inspection import inspect_data
        from zoo.training.data.recognise import recognise

        data = recognise(root)
    with progress("Reading pictures") as tell:
        report = inspect_data(data, tell)
    if json:
        print_json(report)
    else:
        _print(report)
    if report["unreadable"]:
        raise typer.Exit(1)


def _print(report: dict[str, Any]) -> None:
    from zoo.checks import printable
    from zoo.cli.support.output import print_table

    kind = "one class a picture" if report["kind"] == "image" else "several classes a picture"
    print(f"{report['format']}: {len(report['classes'])} classes, {kind}; widths and heights are least/median/largest")
    for said in report["warnings"]:
        print(f"note: {said}")
    parts = report["parts"]
    rows = [
        [
            name,
            f"{part['pictures']:,}",
            _span(part["width"]),
            _span(part["height"]),
            _counts(part["modes"]),
            _counts(part["formats"]),
        ]
        for name, part in parts.items()
    ]
    print()
    print_table(("part", "pictures", "width", "height", "modes", "formats"), rows, right=(1,))
    print()
    counts = [
        [printable(name), *(f"{part['classes'][name]:,}" for part in parts.values())] for name in report["classes"]
    ]
    print_table(("class", *parts), counts[:SHOWN], right=range(1, len(parts) + 1))
    _more(counts)
    for title, groups in (("in several parts", "duplicates"), ("under several labels", "conflicts")):
        if report[groups]:
            print(f"\n{len(report[groups]):,} pictures are {title}:")
            for group in report[groups][:SHOWN]:
                print("  " + " = ".join(f"{each['name']} ({each['part']})" for each in group[:4]))
            _more(report[groups])
    if report["unreadable"]:
        print(f"\n{len(report['unreadable']):,} cannot be read:")
        for each in report["unreadable"][:SHOWN]:
            print(f"  {each['problem']}")
        _more(report["unreadable"])
    print(f"\nIn a recipe:\n\n{report['recipe']}", end="")


def _span(spread: dict[str, float] | None) -> str:
    return "none" if spread is None else "/".join(f"{spread[key]:g}" for key in ("min", "median", "max"))


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items())


def _more(listed: list[Any]) -> None:
    if len(listed) > SHOWN:
        print(f"  … {len(listed) - SHOWN:,} more; --json lists all")
