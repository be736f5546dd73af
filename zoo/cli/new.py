"""``zoo new``: the file of a mixer or of a family, to begin with."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from zoo.cli.support.parse import Json

EXAMPLE = "zoo new mixer gated_shift --slot token_mixer"
Slot = Literal["token_mixer", "channel_mixer"]


def run(
    kind: Annotated[Literal["mixer", "family"], typer.Argument(metavar="mixer|family", help="What to begin.")],
    name: Annotated[str, typer.Argument(metavar="NAME", help="Its name: small letters, digits and _.")],
    slot: Annotated[
        Slot, typer.Option(metavar="token_mixer|channel_mixer", help="The kind of a mixer.")
    ] = "channel_mixer",
    output: Annotated[Path | None, typer.Option(metavar="FILE", help="Where to write; default: NAME.py here.")] = None,
    json: Json = False,
) -> None:
    """Write the file of a new mixer or family, which works as it stands and says what is to be filled in.

    A mixer is registered and has the headings of a block's docstring; a family has a variant and a tiny one for tests.
    """
    from zoo.cli.support.output import print_json
    from zoo.cli.support.stubs import check_name, text_of

    path = Path(f"{name}.py") if output is None else output
    check_name(kind, name, slot)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {path.parent}; make it, or name another file by --output")
    text = text_of(kind, name, slot)
    try:
        with open(path, "x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise FileExistsError(f"{path} is there already; remove it, or name another file by --output") from None
    steps = _next(kind, name, slot, path)
    if json:
        print_json({"file": str(path), "next": steps})
    else:
        print("\n".join([f"wrote {path}", *(f"  {number}. {step}" for number, step in enumerate(steps, 1))]))


def _next(kind: str, name: str, slot: Slot, path: Path) -> list[str]:
    home = {"token_mixer": "zoo/blocks/token/", "channel_mixer": "zoo/blocks/channel/"}[slot]
    home = home if kind == "mixer" else "zoo/models/<kind of input>/"
    use = f'{slot}="{name}"' if kind == "mixer" else f'zoo.create_model("{name}_test")'
    return [
        f"python -m doctest {path}    runs its example, and says nothing if that holds",
        "write the computation, then every heading of the docstring anew: they say what a reader may rely on",
        f"put it into {home} of zoo, or into a package of yours that names itself in the entry-point group: "
        f'[project.entry-points.zoo] mine = "my_package"; then {use} works',
        "in zoo, make test tries it in every model and make card adds it to the pages; CONTRIBUTING.md says more",
    ]
