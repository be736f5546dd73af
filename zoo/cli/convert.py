"""``zoo convert``: weights that their authors publish elsewhere, once downloaded, as a folder that opens."""

from pathlib import Path
from typing import Annotated

import typer

from zoo.cli.support.models import complete
from zoo.cli.support.parse import Json

EXAMPLE = "zoo convert swin_moe.pth.rank* --as swin_moe_small_patch4_window12_192_32expert_32gpu_22k --output swin_moe"


def run(
    files: Annotated[list[Path], typer.Argument(metavar="FILE", help="Files of weights; several are shards of one.")],
    name: Annotated[
        str, typer.Option("--as", metavar="NAME", help="The model that they are of.", autocompletion=complete)
    ],
    output: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Where the model goes; a folder of its name, if not said.")
    ] = None,
    json: Json = False,
) -> None:
    """Turn downloaded weights of the authors into a folder that opens as local-dir:FOLDER, in any command too.

    Nothing in a file is run. Files of .pth, .bin, .npz and .safetensors are read, and the .index and .data files of
    V-MoE; several files are joined by their keys, and of those of Tutel the experts of every process are put together.
    """
    from zoo.cli.support.models import load
    from zoo.cli.support.output import print_json, waiting

    load()
    from zoo.tools.authors import convert_files

    folder = Path(name) if output is None else output
    with waiting("Converting the weights"):
        model = convert_files(files, name, folder)
    count = sum(parameter.numel() for parameter in model.parameters())
    if json:
        print_json({"folder": str(folder), "model": name, "params": count})
    else:
        print(f"{folder} has {name} with {count:,} parameters; zoo.create_model('local-dir:{folder}') opens it")
