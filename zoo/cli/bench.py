"""``zoo bench``: times of models and ways, side by side; ``python -m zoo.bench`` is the same."""

from pathlib import Path
from typing import Annotated

import typer

from zoo.cli.support.models import Models
from zoo.cli.support.parse import Device, Json, Rounds, Threads

EXAMPLE = "zoo bench poolformer_s12 timm:poolformer_s12 --way eager compile --threads 2"


def run(
    models: Models,
    way: Annotated[list[str], typer.Option(metavar="WAY...", help="What runs them; see zoo.bench.WAYS.")] = ["eager"],  # noqa: B006
    all_ways: Annotated[bool, typer.Option("--all-ways", help="Every way that is there.")] = False,
    precision: Annotated[list[str], typer.Option(metavar="NAME...", help="fp32, bf16 or int8.")] = ["fp32"],  # noqa: B006
    batch: Annotated[list[int], typer.Option(metavar="N...", help="Numbers of samples.")] = [1],  # noqa: B006
    train: Annotated[bool, typer.Option("--train", help="A training step and not a forward pass.")] = False,
    memory: Annotated[bool, typer.Option("--memory", help="Peak memory too.")] = False,
    blocks: Annotated[
        Path | None, typer.Option(metavar="PNG", help="Time the blocks of one model, and draw the waterline picture.")
    ] = None,
    device: Device = "cpu",
    threads: Threads = None,
    rounds: Rounds = 15,
    json: Json = False,
) -> None:
    """Time models in turns, so that the noise of the machine hits all alike and the ratios are honest."""
    from zoo.cli.support.models import load, resolve
    from zoo.cli.support.output import check_picture, progress

    names = [resolve(name) for name in models]
    if blocks is not None:
        more = train or memory or json or all_ways or way != ["eager"]
        if more or any(len(values) > 1 for values in (models, batch, precision)):
            raise ValueError("--blocks times one model, eager, in one precision, on one batch; leave the others out")
        check_picture("--blocks", blocks)
    load()
    from zoo.bench import WAYS, by_block, compare
    from zoo.bench.place import model_of

    shared = dict(device=device, threads=threads, rounds=rounds)
    if blocks is not None:
        model = model_of(names[0])
        with progress("Timing") as tell:
            report = by_block(model, batch_size=batch[0], precision=precision[0], **shared, progress=tell)
        report.plot(blocks)
        print(f"{report}\n\nThe picture is in {blocks}.")
        return
    kinds = dict(ways=tuple(WAYS) if all_ways else way, precisions=precision, batch_sizes=batch, training=train)
    with progress("Timing") as tell:
        found = compare(names, **kinds, memory=memory, **shared, progress=tell)
    print(found.to_json() if json else found)
