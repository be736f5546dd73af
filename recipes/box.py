"""Put trained models into the box, which is what `pretrained=True` loads without a network.

    python recipes/box.py                                        those of recipes/digits that run_digits.py has trained
    python recipes/box.py recipes/digits/vit.yaml --run runs/vit   one, from a run of its own

A recipe that names a variant, and nothing else of its model, can be put there. The file lies in the folder `box` beside
that of the variant's family. It has the weights in half precision if these measure the same on the recipe's test split,
else as they were trained; and in its head the recipe, the seed and what the weights in it measure.
"""

import argparse
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

import zoo
from zoo.registry import family_of
from zoo.registry.box import FACTS, file_of
from zoo.storage.files import replacing
from zoo.training import dump_recipe, load_recipe
from zoo.training.evaluation import evaluate_part, load_data
from zoo.training.recipe.recipe import Recipe, differences

FOLDER = Path(__file__).parent
SEED = 0  # of the runs of recipes/digits
LICENCE = "apache-2.0"  # zoo's own: the weights are made by it
SAME = 1e-3  # metrics that differ by less, relatively, are the same: one image in 360 is more
KEPT = ("input_size", "interpolation", "crop_pct", "mean", "std", "label_names")  # of what the run says of its data


def put(path: Path, run: Path) -> Path:
    """Put the model of a run into the box.

    Args:
        path: The recipe.
        run: The run's folder.

    Returns:
        The file.

    Raises:
        ValueError: The recipe's model is no variant as it is, or the run was of another recipe.
    """
    recipe, trained = load_recipe(path), load_recipe(run / "recipe.yaml")
    trained_by = load_recipe(path, [f"train.seed={trained.train.seed}"])
    if recipe.model.kwargs or recipe.model.pyramid or recipe.model.heads:
        raise ValueError(f"{path} has a model with arguments of its own: make a variant of them, and name that")
    if changed := differences(trained, trained_by):
        raise ValueError(f"{run} was trained by another recipe than {path} ({'; '.join(changed)}): train it again")
    name = recipe.model.name
    model = zoo.create_model(f"local-dir:{run / 'model'}").eval()
    state = {key: value.clone() for key, value in model.state_dict().items()}
    value = measured(model, trained_by)
    model.load_state_dict(half := halved(state))
    if math.isclose(rounded := measured(model, trained_by), value, rel_tol=SAME):
        state, value = half, rounded
    facts = {
        "recipe": path.resolve().relative_to(FOLDER.resolve()).as_posix(),
        "settings": dump_recipe(trained_by),
        "seed": trained_by.train.seed,
        "metric": recipe.expect.metric,
        "value": value,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "cfg": {key: model.pretrained_cfg[key] for key in KEPT if key in model.pretrained_cfg} | {"license": LICENCE},
    }
    file = file_of(family_of(name), name)
    file.parent.mkdir(exist_ok=True)
    with replacing(file) as new:
        save_file(state, new, metadata={"format": "pt", FACTS: json.dumps(facts)})
    return file


def measured(model: torch.nn.Module, recipe: Recipe) -> float:
    """What the recipe expects a number of, of a model."""
    part = recipe.expect.metric.partition("/")[0]
    return evaluate_part(model, recipe, load_data(recipe), part)[recipe.expect.metric]


def halved(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors, those of floating-point numbers in half precision."""
    return {key: value.half() if value.is_floating_point() else value for key, value in state.items()}


def trained(output: Path) -> dict[Path, Path]:
    """The recipes of recipes/digits and their runs, of those that are trained."""
    runs = {path: output / path.stem / f"seed-{SEED}" for path in sorted((FOLDER / "digits").glob("*.yaml"))}
    return {path: run for path, run in runs.items() if (run / "model").is_dir()}


def main(argv: Sequence[str] | None = None) -> None:
    """Command line entry; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", nargs="?", type=Path, help="default: those of recipes/digits")
    parser.add_argument("--run", type=Path, help="the folder of a run of this recipe")
    parser.add_argument("--output", type=Path, default=Path("runs/digits"), help="that of run_digits.py")
    args = parser.parse_args(argv)
    if (args.recipe is None) != (args.run is None):
        sys.exit("error: a recipe and --run belong together; or give neither")
    try:
        for path, run in ({args.recipe: args.run} if args.recipe else trained(args.output)).items():
            file = put(path, run)
            print(f"{file.stem:20} {file.stat().st_size:9,} bytes  {zoo.model_info(file.stem).boxed}")
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
