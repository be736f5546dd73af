"""``zoo flops``: what a model costs, by module and by operator."""

from typing import Annotated, Any

import typer

from zoo.cli.support.models import NameOrFolder
from zoo.cli.support.parse import Json

EXAMPLE = "zoo flops swin_tiny_patch4_window7_224 --depth 2 --backward"


def run(
    name: NameOrFolder,
    depth: Annotated[int, typer.Option(metavar="N", help="Levels of modules that the table has.")] = 1,
    backward: Annotated[bool, typer.Option("--backward", help="The backward pass and its activations too.")] = False,
    by_operator: Annotated[bool, typer.Option("--by-operator", help="The costs of each operator too.")] = False,
    img_size: Annotated[int | None, typer.Option(metavar="N", help="Side of the images; default: its own.")] = None,
    batch: Annotated[int | None, typer.Option(metavar="N", help="Samples at once; figures are of one.")] = None,
    json: Json = False,
) -> None:
    """Count the parameters, multiply-accumulates and memory traffic of a model, exactly, without running it.

    Weights are not needed and not loaded. timm:<name> counts a model of timm.
    """
    import dataclasses

    from zoo.cli.support.models import create, resolve
    from zoo.cli.support.output import print_json, waiting

    resolved = resolve(name)
    arguments: dict[str, Any] = {} if resolved.startswith("timm:") else {"device": "meta", "pretrained": False}
    if img_size is not None:
        if not arguments:
            raise ValueError(f"--img-size is for zoo's models; leave it out for {name}")
        arguments["img_size"] = img_size
    model = create(resolved, **arguments)
    with waiting("Counting"):
        from zoo.costs import count_costs

        report = count_costs(model, batch_size=batch, training=backward)
    if json:
        print_json({"name": name, **dataclasses.asdict(report), "backward_macs": report.backward_macs})
    else:
        print(report.table(depth, operators=by_operator))
