"""What a family's file says in words: its docstring, taken apart and with links, its facts, and how to cite it."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from zoo.family import Family

TITLES = {"use": "For", "not_for": "Not for", "data": "Trained on", "code_licence": "Licence of the code"}
FIELDS = ("Paper", "Code", "Weights")
ARXIV = r"arXiv\s+(\d{4}\.\d{4,5})"
AUTHORS = r"(?:(?:^|[;:] |\bof )(?P<authors>[^;:\"]*?),\s+)?"  # from the beginning of the field, or of a part of it
WORK = re.compile(rf'{AUTHORS}"(?P<title>[^"]+)",\s+{ARXIV.replace("(", "(?P<number>", 1)}')


@dataclass(frozen=True)
class About:
    """A family's docstring: its first sentence, the three fields, and what stands below them."""

    summary: str
    fields: dict[str, str]
    notes: str


def parse(text: str) -> About:
    """Take a docstring apart.

    Example:
        >>> found = parse("Net: a net.\\n\\nPaper: none.\\nCode:  none.\\nWeights: none.\\n\\nSmall.")
        >>> found.summary, found.fields["Code"], found.notes
        ('Net: a net.', 'none.', 'Small.')
    """
    summary, _, rest = text.strip().partition("\n\n")
    fields: dict[str, str] = {}
    notes: list[str] = []
    last = None
    for line in rest.splitlines():
        name, colon, value = line.partition(":")
        if colon and name in FIELDS and not notes:
            last = name
            fields[name] = value.strip()
        elif last and line.startswith("    ") and not notes:
            fields[last] += " " + line.strip()
        elif line or notes:
            notes.append(line)
    return About(" ".join(summary.split()), fields, "\n".join(notes).strip())


def facts_of(family: Family) -> Iterator[str]:
    """The facts of a family as a list in Markdown; nothing for a family that has none.

    Example:
        >>> from zoo.registry import families
        >>> list(facts_of(families()["poolformer"]))[2:]
        ['- **Trained on:** ImageNet-1K.', '- **Licence of the code:** Apache-2.0.']
    """
    for name, title in TITLES.items() if family.facts is not None else ():
        yield f"- **{title}:** {inert(getattr(family.facts, name))}"


def linked(field: str, text: str) -> str:
    """The value of a field as Markdown, with a link to each paper on arXiv and each repository on GitHub.

    Example:
        >>> linked("Code", "sail-sg/poolformer, models/poolformer.py (Apache-2.0).")
        '[sail-sg/poolformer](https://github.com/sail-sg/poolformer), models/poolformer.py (Apache-2.0).'
    """
    if field == "Code":  # a repository opens the field or follows a semicolon or a licence; the rest are its files
        text = re.sub(r"(^|; |\), )([\w-]+/[\w.-]*\w)(?=[,;. (]|$)", r"\1[\2](https://github.com/\2)", text)
    return re.sub(ARXIV, r"[arXiv \1](https://arxiv.org/abs/\1)", text)


def citations(family: str, about: About) -> Iterator[str]:
    """BibTeX of each work that the field of the paper names, for people to complete: authors as they stand there.

    Example:
        >>> print(next(citations("net", parse('Net.\\n\\nPaper: Doe et al., "A net", arXiv 2401.00001.'))))
        @misc{net_2401_00001,
          title = {{A net}},
          author = {Doe and others},
          year = {2024},
          eprint = {2401.00001},
          archivePrefix = {arXiv},
          url = {https://arxiv.org/abs/2401.00001},
        }
    """
    for work in WORK.finditer(about.fields.get("Paper", "")):
        number = work["number"]
        authors = _tex(re.sub(r"\s+et al\.", " and others", work["authors"] or ""))
        lines = [f"@misc{{{family}_{number.replace('.', '_')},", f"  title = {{{{{_tex(work['title'])}}}}},"]
        lines += [f"  author = {{{authors}}},"] if authors else []
        lines += [f"  year = {{20{number[:2]}}},", f"  eprint = {{{number}}},", "  archivePrefix = {arXiv},"]
        yield "\n".join([*lines, f"  url = {{https://arxiv.org/abs/{number}}},", "}"])


def _tex(text: str) -> str:
    """A text as TeX takes it."""
    return re.sub(r"([&%#_$])", r"\\\1", " ".join(text.split()))


def inert(text: str) -> str:
    """A docstring's text as Markdown that makes no tags, headings or fences of its own; code in backticks stays code.

    Example:
        >>> inert("# `a < b` <b>")
        '\\\\# `a < b` &lt;b>'
    """
    parts = re.split(r"(``[^`\n]+``|`[^`\n]+`)", text)
    text = "".join(part if number % 2 else part.replace("<", "&lt;") for number, part in enumerate(parts))
    return re.sub(r"^(\s*)(#|```|~~~)", r"\1\\\2", text, flags=re.M)
