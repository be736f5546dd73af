"""``zoo list``: the models there are, sorted and filtered."""

from fnmatch import fnmatch
from typing import Annotated, Any, Literal

import typer

from zoo.cli.support.parse import Json

EXAMPLE = "zoo list 'mixer*' swin --sort macs"
COLUMNS = ("name", "params (M)", "MACs (G)", "size", "top-1", "licence")
Sort = Literal["name", "macs", "params", "top1"]


def run(
    filters: Annotated[
        list[str] | None,
        typer.Argument(metavar="FILTER", help="Wildcards as in a shell; without any, a part of the name."),
    ] = None,
    family: Annotated[str | None, typer.Option(metavar="NAME", help="Only this family.")] = None,
    task: Annotated[str | None, typer.Option(metavar="NAME", help="Only models for this task.")] = None,
    pretrained: Annotated[bool, typer.Option("--pretrained", help="Only those with weights.")] = False,
    tags: Annotated[bool, typer.Option("--tags", help="A line for each set of weights.")] = False,
    tests: Annotated[bool, typer.Option("--tests", help="The tiny *_test variants too.")] = False,
    sort: Annotated[Sort, typer.Option(metavar="name|macs|params|top1", help="What to sort by.")] = "name",
    json: Json = False,
) -> None:
    """List models with their costs, the accuracy that was published, and the licence of the weights.

    Params and MACs are those of one input of the stated size. Top-1 is what is published for the weights, in percent.
    """
    from zoo.cli.support.models import figures
    from zoo.cli.support.output import print_json, print_table

    rows = _sorted(_rows(filters or ["*"], family, task, pretrained, tags, tests), sort)
    if json:
        print_json(rows)
    elif rows:
        print_table(COLUMNS, [[row["name"], *figures(row), row["licence"] or ""] for row in rows], right=(1, 2, 3, 4))
    else:
        typer.echo("no model fits; zoo list without filters shows all there are", err=True)


def _rows(patterns, family, task, pretrained, tags, tests) -> list[dict[str, Any]]:
    from zoo.checks import shown, unknown
    from zoo.cli.support.models import index

    there = index()
    tasks = {each for entry in there["models"].values() for each in entry["tasks"]}
    if family is not None and family not in there["families"]:
        raise ValueError(unknown(f"family {shown(family)}", family, there["families"], count=3, see="zoo list"))
    if task is not None and task not in tasks:
        raise ValueError(unknown(f"task {shown(task)}", task, tasks))
    patterns = [pattern if set("*?[") & set(pattern) else f"*{pattern}*" for pattern in patterns]
    rows = []
    for arch, entry in there["models"].items():
        if family not in (None, entry["family"]) or (task is not None and task not in entry["tasks"]):
            continue
        if arch.endswith("_test") and not tests:
            continue
        found = [each for each in entry["configurations"] if each["weights"] or not pretrained]
        for each in found if tags else found[:1]:
            name = each["name"] if tags else arch
            if any(fnmatch(candidate, pattern) for candidate in {name, arch} for pattern in patterns):
                rows.append({**each, "name": name, "family": entry["family"], "tasks": entry["tasks"]})
    return rows


def _sorted(rows: list[dict[str, Any]], sort: Sort) -> list[dict[str, Any]]:
    """The costs ascending and the accuracy descending; what is not known comes last. By name they come already."""
    if sort == "name":
        return rows
    sign = -1 if sort == "top1" else 1
    return sorted(rows, key=lambda row: (row[sort] is None, sign * (row[sort] or 0)))
