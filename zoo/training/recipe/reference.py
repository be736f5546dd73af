"""The keys of a recipe as a page, docs/recipe.md, written from the dataclasses that read them.

`python -m zoo.training.recipe.reference` prints it; `make card` writes it.
"""

import ast
import dataclasses
import functools
import inspect
import itertools
import textwrap
import types
from collections.abc import Iterator
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from zoo.checks import Rule
from zoo.training.recipe.inheritance import FILES
from zoo.training.recipe.reading import CHARACTERS, DEPTH, NODES
from zoo.training.recipe.recipe import Recipe
from zoo.training.recipe.schema import BITS, Duration, plain
from zoo.training.recipe.section import OpenSection, hints, is_open

HEADER = f"""\
# Keys of a recipe

Written by `make card` from the dataclasses of `zoo/training/`; do not edit it by hand.

A recipe is a YAML file of the sections below; `key.sub=value` on the command line changes one value of it. A value of
another type, or out of its range, is an error with file, line and key, and so is a key that is not listed. A duration
is a whole number with a unit, `5ep` for epochs or `2000st` for optimizer steps; its range is that of the number.

`base: other.yaml`, a path as seen from the file itself, gives a recipe what it does not say: sections are merged key by
key, and one whose `name` is another than the base's replaces it whole, but for `optim` and `schedule`; `{{{{}}}}` takes
away what the base has. What the base's own runs gave (`expect`) is not taken over. A base may have one too, {FILES}
files at most. The recipe that a run keeps, and that `--print` shows, has all of it and no base.

A number is finite. Under `model.kwargs`, where the keys are the model's own, a whole number has at most {BITS} bits. A
text has no control characters but line breaks and tabs. What YAML 1.1 and 1.2 read differently is refused: `010`,
`1:30`, dates without quotes; so are tags and `<<`. Anchors are read. A recipe has at most {CHARACTERS:,} bytes and
{NODES:,} keys and values, every alias written out, and is nested at most {DEPTH} deep.

This one has no more than must be said, and `python recipes/train.py smallest.yaml` trains it in seconds:

```yaml
{{SMALLEST}}```
"""
SMALLEST = """\
task: {name: classify}
model: {name: mixer_test, kwargs: {img_size: 8, patch_size: 2, in_chans: 1}}
data: {name: digits}
train: {duration: 5ep, batch_size: 64, eval_every: 1ep, checkpoint_every: 1ep}
optim: {name: adamw, lr: 1e-3, weight_decay: 0.05}
schedule: {name: cosine}
expect: {metric: test/top1, status: untested}
"""
COLUMNS = ("key", "type", "range", "default", "meaning")


def page() -> str:
    """The whole text of docs/recipe.md."""
    return HEADER.format(SMALLEST=SMALLEST) + "".join(section(path, cls) for path, cls in sections())


def sections() -> list[tuple[str, type]]:
    """Every dataclass that a recipe may hold, under the highest key where it stands, in the order of the keys."""
    by_class, level = {Recipe: ""}, {Recipe: ""}
    while level:
        below = {}
        for cls, path in level.items():
            for name, hint in hints(cls).items():
                below |= {
                    inner: key for inner, key in _classes(hint, f"{path}.{name}".strip(".")) if inner not in by_class
                }
        by_class, level = by_class | below, below
    order = ["", *hints(Recipe)]
    return sorted(
        ((path, cls) for cls, path in by_class.items()), key=lambda item: order.index(item[0].partition(".")[0])
    )


def section(path: str, cls: type) -> str:
    """What the page says of one dataclass."""
    name = cls.name if issubclass(cls, OpenSection) else None  # that which says which of several it is
    title = f"`{path}`" + (f", name `{name}`" if name else "") if path else "All"
    about = inspect.cleandoc(cls.__doc__).partition("\n\n")[0].replace("\n", " ")
    lines = ["", f"## {title}", "", about]
    fields = sorted(
        dataclasses.fields(cls), key=lambda field: field.kw_only
    )  # those that several kinds share come last
    rows = [row(cls, field) for field in fields]
    if rows:
        lines += ["", "| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS), *rows]
    return "\n".join(lines) + "\n"


def row(cls: type, field: dataclasses.Field) -> str:
    """The line of one key."""
    hint = hints(cls)[field.name]
    ranges = dict.fromkeys(map(str, ranges_of(hint)))
    cells = (f"`{field.name}`", kind(hint), "; ".join(ranges), default(field), comments(cls).get(field.name, ""))
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"


def kind(hint: Any) -> str:
    """The type of a value in words.

    Example:
        >>> from zoo.checks import Interval
        >>> kind(tuple[Annotated[float, Interval(0, 1)], ...] | None), kind(Literal["ep", "st"])
        ('list of numbers, or null', 'one of `ep`, `st`')
    """
    arguments, origin = get_args(hint), get_origin(hint)
    if origin is Annotated:
        return kind(arguments[0])
    if origin in (Union, types.UnionType):
        options = " or ".join(kind(option) for option in arguments if option is not type(None))
        return options + (", or null" if type(None) in arguments else "")
    if is_open(hint):
        return "section with a `name`"
    if origin is Literal:
        return "one of " + ", ".join(f"`{option}`" for option in arguments)
    if origin is tuple:
        return f"list of {kind(arguments[0])}s"
    if origin is dict:
        return f"{kind(arguments[1])} by name"
    words = {int: "whole number", float: "number", bool: "true or false", str: "text", Duration: "duration", Any: "any"}
    return words.get(hint, "section")


def ranges_of(hint: Any) -> Iterator[Rule]:
    """The rules within an annotation: ranges, numbers of entries, and whatever else a value is held to."""
    if get_origin(hint) is Annotated:
        yield from (argument for argument in hint.__metadata__ if isinstance(argument, Rule))
    for argument in () if get_origin(hint) is Literal else get_args(hint):
        yield from ranges_of(argument)


def default(field: dataclasses.Field) -> str:
    """What a key has when it is left out."""
    if field.default_factory is not dataclasses.MISSING:
        return "none"
    if field.default is dataclasses.MISSING:
        return "must be given"
    return f"`{'null' if field.default is None else plain(field.default)}`"


@functools.cache
def comments(cls: type) -> dict[str, str]:
    """What is said of each field in its source: in a comment on its line, or in the lines of comment above it."""
    by_field = {}
    for base in filter(dataclasses.is_dataclass, reversed(cls.__mro__)):
        try:
            lines = textwrap.dedent(inspect.getsource(base)).splitlines()
        except OSError:  # of a class from outside, whose source is not there
            continue
        for statement in ast.parse("\n".join(lines)).body[0].body:
            if isinstance(statement, ast.AnnAssign):
                above = [
                    *itertools.takewhile(
                        lambda line: line.lstrip().startswith("#"), lines[: statement.lineno - 1][::-1]
                    )
                ]
                beside = lines[statement.end_lineno - 1].encode()[statement.end_col_offset :].decode()
                said = [beside] if "#" in beside else above[::-1]
                text = " ".join(line.strip().removeprefix("# ") for line in said)
                by_field[statement.target.id] = text[:1].upper() + text[1:].rstrip(".")
    return by_field


def _classes(hint: Any, path: str) -> Iterator[tuple[type, str]]:
    """The dataclasses within an annotation, and the key at which each stands."""
    if is_open(hint):
        yield from ((cls, path) for cls in hint.kinds().values())
    elif dataclasses.is_dataclass(hint) and hint is not Duration:
        yield hint, path
    for argument in () if get_origin(hint) in (Literal, Annotated) else get_args(hint):
        yield from _classes(argument, f"{path}.<name>" if get_origin(hint) is dict else path)


if __name__ == "__main__":
    print(page(), end="")
