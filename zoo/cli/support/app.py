"""The application: the commands found, help, and how the process ends."""

import importlib
import pkgutil
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from zoo.cli.support.parse import Greedy
from zoo.version import __version__

ABOUT = "Efficient architectures: find, cost, time, train and use them."


def commands() -> list[str]:
    """The names of the commands, in alphabetical order."""
    return sorted(
        module.name for module in pkgutil.iter_modules(importlib.import_module("zoo.cli").__path__) if not module.ispkg
    )


def application() -> typer.Typer:
    """The commands as typer knows them."""
    app = typer.Typer(
        name="zoo",
        help=ABOUT,
        rich_markup_mode="rich" if sys.stdout.isatty() else None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_options)
    for name in commands():
        module = importlib.import_module(f"zoo.cli.{name}")
        example = getattr(module, "EXAMPLE", None)
        app.command(name, cls=Greedy, epilog=example and f"Example: {example}")(module.run)
    return app


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command: by default the one of this process's arguments.

    Raises:
        SystemExit: What was asked for cannot be had, and one or two lines on stderr have said why; or a command ended
            with another status than 0.
    """
    from zoo.cli.support.errors import Refused, sentence, warnings_as_sentences

    command = typer.main.get_command(application())
    arguments = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    try:
        with warnings_as_sentences():
            status = command.main(args=arguments, prog_name="zoo", standalone_mode=False)
    except Exception as error:
        said = sentence(error)
        if said is None:
            raise
        print(said, file=sys.stderr)
        raise Refused(said, error) from error
    if status:
        sys.exit(status)


def _version(asked: bool) -> None:
    if asked:
        print(f"zoo {__version__}")
        raise typer.Exit()


def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    """Options of the command itself."""
