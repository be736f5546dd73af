"""docs/cli.md, from the commands as typer has them: `python -m zoo.cli.support.manual`, which `make card` calls."""

import inspect
import textwrap
from collections.abc import Iterator
from typing import Any

import typer

from zoo.cli.support.app import ABOUT, application, commands

HEADER = """\
# zoo(1)

Written by `make card` from the commands in `zoo/cli/`; do not edit it by hand.

**zoo** - {about}

    zoo [--version] [-h | --help] COMMAND [ARGUMENT]...

`python -m zoo` is the same command. Results go to stdout: tables in plain text, coloured on a terminal alone, and with
`--json` nothing but JSON. Whatever else is to be said, progress too, goes to stderr.

Exit status: 0 if the command did what it was asked; 2 if that cannot be had, and one or two lines on stderr say what
is wrong and what to type; 1 if it failed on the way, by a training that diverged or a full disk, or, with a traceback,
by a bug of zoo; 130 after an interrupt.

Where a model is asked for, a name of `zoo list` stands for it, with or without a tag, the folder of a saved model or of
a run, and in some commands `timm:<name>` for a model of timm's own. `zoo --install-completion` teaches the shell the
commands, the options and the names of the models. An option that takes several values takes every word up to the next
option.
"""


def page() -> str:
    """The whole text of docs/cli.md."""
    group = typer.main.get_command(application())
    return HEADER.format(about=ABOUT) + "".join(section(name, group.commands[name]) for name in commands())


def section(name: str, command: Any) -> str:
    """What the page says of one command."""
    arguments = [param for param in command.params if param.param_type_name == "argument"]
    options = [param for param in command.params if param.param_type_name == "option"]
    usage = " ".join(["zoo", name, "[OPTION]...", *map(_words, arguments)])
    lines = ["", f"## zoo {name}", "", f"    {usage}", "", *_paragraphs(inspect.cleandoc(command.help))]
    for param in arguments + options:
        lines.append(f"- `{_words(param)}`: {_about(param)}")
    if command.epilog:
        lines += ["", f"    {command.epilog.partition(': ')[2]}"]
    return "\n".join(lines) + "\n"


def _paragraphs(text: str) -> Iterator[str]:
    for paragraph in text.split("\n\n"):
        yield textwrap.fill(" ".join(paragraph.split()), 120, break_long_words=False, break_on_hyphens=False)
        yield ""


def _words(param: Any) -> str:
    """What is typed for a parameter: its metavar, or an option's names with that."""
    if param.param_type_name == "argument":
        several = "..." if param.nargs != 1 else ""
        return f"{param.metavar}{several}" if param.required else f"[{param.metavar}]{several}"
    names = ", ".join(param.opts)
    return names if param.is_flag else f"{names} {param.metavar}"


def _about(param: Any) -> str:
    default = param.default
    shown = ", ".join(map(str, default)) if isinstance(default, (list, tuple)) else default
    says = shown not in (None, "") and not getattr(param, "is_flag", False)
    needed = " Needed." if param.required and param.param_type_name == "option" else ""
    return f"{param.help}{needed}{f' Default: {shown}.' if says else ''}"


if __name__ == "__main__":
    print(page(), end="")
