"""How the arguments of a command are read, and those that several commands have."""

from pathlib import Path
from typing import Annotated

import typer
from typer.core import TyperCommand

Json = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else, on stdout.")]
Device = Annotated[str, typer.Option(metavar="NAME", help="cpu or cuda.")]
Threads = Annotated[int | None, typer.Option(metavar="N", help="Threads on the CPU; default: torch's own.")]
Run = Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run of zoo train.")]
Changes = Annotated[
    list[str] | None,
    typer.Argument(metavar="KEY=VALUE", help="Change the recipe, such as data.root where the data moved."),
]
Part = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="train, validation or test; default: what the run measured at its end."),
]
Rounds = Annotated[int, typer.Option(metavar="N", help="Rounds that are timed, and count.")]


class Greedy(TyperCommand):
    """A command whose options with several values take every word up to the next option: ``--batch 1 8 32``."""

    def parse_args(self, ctx, args: list[str]) -> list[str]:
        several = {name for option in self.params if getattr(option, "multiple", False) for name in option.opts}
        words, option, begun = [], None, ""
        for word in args:
            if word.startswith("-"):
                name, begun, _ = word.partition("=")  # with a value behind it, the next word is a second one
                option = name if name in several else None
            elif option is not None:
                words += [option] if begun else []
                begun = True
            words.append(word)
        return super().parse_args(ctx, words)
