"""``zoo push``: a trained or saved model to the Hub."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from zoo.cli.support.parse import Json

if TYPE_CHECKING:
    from zoo.tools.readme import Training

EXAMPLE = "zoo push runs/mixer_digits me/mixer-digits --private"


def run(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A run of zoo train, or a saved model.")],
    repo_id: Annotated[str, typer.Argument(metavar="OWNER/NAME", help="The repository; made if it is not there.")],
    private: Annotated[bool, typer.Option("--private", help="Make it a private one, if it is made.")] = False,
    revision: Annotated[str | None, typer.Option(metavar="NAME", help="A branch; made if it is not there.")] = None,
    message: Annotated[str, typer.Option(metavar="TEXT", help="The commit's first line.")] = "Add a model",
    propose: Annotated[bool, typer.Option("--propose", help="Propose the commit to the repository's owner.")] = False,
    licence: Annotated[str | None, typer.Option(metavar="NAME", help="Of the weights, such as mit.")] = None,
    json: Json = False,
) -> None:
    """Send a model to the Hub, as one commit, with a page of its costs, its recipe and what it reached.

    The token is that of HF_TOKEN or of `hf auth login`. A README.md beside the model is sent as it is.
    """
    from zoo.cli.support.models import load, resolve
    from zoo.cli.support.output import print_json, waiting

    place = Path(resolve(f"{folder}/").partition(":")[2])
    load()
    with waiting("Sending the model"):
        from zoo.create import create_model
        from zoo.tools.push import PAGE, push_to_hub

        page = place / PAGE
        commit = push_to_hub(
            create_model(f"local-dir:{place}"),
            repo_id,
            private=private or None,
            revision=revision,
            commit_message=message,
            create_pr=propose,
            licence=licence,
            training=_training_of(folder),
            page=page.read_text("utf-8") if page.is_file() else None,
        )
    if json:
        print_json({"commit": commit.oid, "url": commit.commit_url, "proposal": commit.pr_url})
    else:
        print(commit.pr_url or commit.commit_url)


def _training_of(folder: Path) -> "Training | None":
    """How the model of a run was trained: its recipe, and what was measured at its end; None for another folder."""
    if not (folder / "recipe.yaml").is_file():
        return None
    from zoo.tools.readme import Training
    from zoo.training.recipe.recipe import load_recipe
    from zoo.training.runs.folder import RunFolder
    from zoo.training.runs.records import read_records

    run = RunFolder(folder)
    records = read_records(run.metrics) if run.metrics.is_file() else []
    final = next((record for record in reversed(records) if record.get("final")), {})
    metrics = {key: value for key, value in final.items() if "/" in key and isinstance(value, (int, float))}
    data = load_recipe(run.recipe).data
    return Training(run.recipe.read_text("utf-8"), "several data sets" if data is None else data.name, metrics)
