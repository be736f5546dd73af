"""``zoo report``: the page of a run."""

from zoo.cli.support.parse import Changes, Device, Json, Part, Run

EXAMPLE = "zoo report runs/mixer_digits"


def run(
    folder: Run,
    overrides: Changes = None,
    split: Part = None,
    device: Device = "cpu",
    json: Json = False,
) -> None:
    """Write report.html into a run's folder: curves, classes, worst mistakes, costs, recipe, machine and versions.

    It is one file that needs no network. zoo train writes it at the end of a training; of one that is not finished it
    has the curves and the recipe.
    """
    from zoo.cli.support.models import load
    from zoo.cli.support.output import print_json, progress, waiting

    load()
    with waiting("Loading the training"):
        from zoo.bench.place import device_of
        from zoo.training.watching.report import write_report

    place = device_of(device)
    with progress("Looking for mistakes") as tell:
        path = write_report(folder, part=split, overrides=overrides or (), device=place, progress=tell)
    if json:
        print_json({"report": str(path)})
    else:
        print(f"The report is in {path}.")
