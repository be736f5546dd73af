"""Makes the headings of zoo's docstrings stand out on the pages of the API: an extension of griffe's."""

import re

import griffe

# Headings whose text begins on their own line; griffe knows those that stand alone.
INLINE = re.compile(r"^(Shape|Source|Differs|Cost|Raises|Returns|Yields): (?=\S)", re.M)


class Headings(griffe.Extension):
    """Gives each such heading a paragraph of its own, in bold."""

    def on_instance(self, *, obj: griffe.Object, **_) -> None:
        """Called for every module, class, function and attribute that is read."""
        if obj.docstring is not None:
            obj.docstring.value = paragraphs(obj.docstring.value)


def paragraphs(text: str) -> str:
    """A docstring whose inline headings are paragraphs, with what is indented below them.

    Example:
        >>> print(paragraphs("A layer.\\n\\nShape: any to\\n    the same.\\nCost: none."))
        A layer.
        <BLANKLINE>
        **Shape:** any to
        the same.
        <BLANKLINE>
        **Cost:** none.
    """
    lines, inside = [], False
    for line in text.splitlines():
        heading = INLINE.match(line)
        if line == "Example:":  # griffe's word for it, with which it reads what follows as code
            line = "Examples:"
        if heading:
            lines += [""] if lines and lines[-1] else []
            lines.append(f"**{heading[1]}:** {line[heading.end() :]}")
            inside = True
        elif inside and line.startswith("    "):
            lines.append(line.strip())
        else:
            inside = False
            lines.append(line)
    return "\n".join(lines)
