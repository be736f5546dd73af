"""The README's tables of families and blocks: `python -m zoo.tools.overview < README.md` prints it with new ones.

A table stands between two comments, ``<!-- families -->`` and ``<!-- /families -->``; what is between them is written
anew, and nothing else.
"""

import re
import sys
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from zoo.registry import Family, boxed, families, list_models, model_info
from zoo.slots import parse_slot
from zoo.slots.table import KINDS, blocks_of

COLUMNS = ("family", "architecture", "token mixers", "channel mixers", "papers", "licence of the weights")


def with_tables(text: str, tables: Mapping[str, str]) -> str:
    """A page with its tables written anew.

    Example:
        >>> print(with_tables("Counts: <!-- counts --> old <!-- /counts --> as measured", {"counts": "| new |"}))
        Counts: <!-- counts -->
        <BLANKLINE>
        | new |
        <BLANKLINE>
        <!-- /counts --> as measured

    Raises:
        ValueError: A pair of the comments is missing, or stands there twice.
    """
    for name, table in tables.items():
        start, end = f"<!-- {name} -->", f"<!-- /{name} -->"
        if (text.count(start), text.count(end)) != (1, 1) or text.index(start) > text.index(end):
            raise ValueError(f"the page needs one {start} and, after it, one {end}; between them the table is written")
        before, _, rest = text.partition(start)
        text = f"{before}{start}\n\n{table}\n\n{end}{rest.partition(end)[2]}"
    return text


def readme_tables() -> dict[str, str]:
    """The README's tables, by what their comments call them."""
    return {"families": family_table(), "blocks": block_table()}


def family_table() -> str:
    """A row for each family."""
    rows = [family_row(family, list_models(family=family.name)) for _, family in sorted(families().items())]
    return "\n".join([_line(COLUMNS), "|" + "---|" * len(COLUMNS), *rows])


def family_row(family: Family, variants: Collection[str]) -> str:
    """What the table says of a family with these variants."""
    arguments = [family.arguments(variant) for variant in variants]
    papers = dict.fromkeys(re.findall(r"\b\d{4}\.\d{5}\b", family.about))
    return _line(
        [
            f"`{family.name}`",
            " ".join(family.about.strip().split("\n\n")[0].split()).rstrip("."),
            _blocks(arguments, "token_mixer"),
            _blocks(arguments, "channel_mixer"),
            ", ".join(f"[{paper}](https://arxiv.org/abs/{paper})" for paper in papers),
            _licences(variants),
        ]
    )


def block_table() -> str:
    """A row for each kind of block."""
    rows = [_line([f"`{kind}`", _code(blocks_of(kind))]) for kind in KINDS]
    return "\n".join([_line(["kind of slot", "blocks"]), "|---|---|", *rows])


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _code(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _blocks(arguments: Iterable[Mapping[str, Any]], slot: str) -> str:
    """The blocks in a slot of these models, each once."""
    return _code(dict.fromkeys(name for each in arguments if slot in each for name in blocks_in(each[slot])))


def blocks_in(slots: Any) -> Iterator[str]:
    """The names of the blocks in what a model is given for a slot: one, or many in lists and mappings.

    Example:
        >>> list(blocks_in(["pool", {"name": "mlp", "ratio": 2, "at": {-1: "glu"}}]))
        ['pool', 'mlp', 'glu']
    """
    if isinstance(slots, list | tuple):
        for each in slots:
            yield from blocks_in(each)
    elif isinstance(slots, Mapping) and not {"at", "every", "others"}.isdisjoint(slots):
        if "name" in slots:
            yield str(slots["name"])
        for key in ("others", "at", "every"):
            yield from blocks_in(
                list(slots[key].values()) if isinstance(slots.get(key), Mapping) else slots.get(key, ())
            )
    else:
        yield parse_slot(slots).name


def _licences(variants: Collection[str]) -> str:
    """The licence that most of the released weights have, and the others with the weights that have them."""
    named = [name for name in list_models(pretrained=True) if name.partition(".")[0] in variants]
    released = [name for name in named if not boxed(name.partition(".")[0])]  # the toys that come with zoo say nothing
    licences = {name: model_info(name).pretrained_cfg.get("license") or "not stated" for name in released}
    if not licences:
        return "none released"
    (usual, _), *rare = Counter(licences.values()).most_common()
    exceptions = [f"{licence} ({_code(name for name in released if licences[name] == licence)})" for licence, _ in rare]
    return "; ".join([usual, *exceptions])


if __name__ == "__main__":
    print(with_tables(sys.stdin.read(), readme_tables()), end="")
