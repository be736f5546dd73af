"""`make demo`: an MLP-Mixer learns to read handwritten digits, in about a minute on two CPU cores.

It trains recipes/mixer_digits.yaml as `python recipes/train.py recipes/mixer_digits.yaml` would, but anew every time.
"""

import itertools
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import zoo
from zoo.training import Trainer, evaluate, load_recipe

RECIPE = Path(__file__).parent / "mixer_digits.yaml"
OUTPUT = Path("runs") / "demo"


def unused(folder: Path) -> Path:
    """The folder, or the first of folder-2, folder-3, … that is not there: an earlier demo's model is kept."""
    names = (folder.with_name(f"{folder.name}-{n}") if n > 1 else folder for n in itertools.count(1))
    return next(name for name in names if not name.exists())


def main(overrides: Sequence[str] = ()) -> None:
    """Train, measure, save, load, compare, count."""
    recipe = load_recipe(RECIPE, overrides)
    trainer = Trainer(recipe, unused(OUTPUT))
    sizes = {part: len(split) for part, split in trainer.splits.items()}
    given = [f"{key}={value!r}" for key, value in recipe.model.kwargs.items()]
    print(f"Data      scikit-learn's handwritten digits, 8x8 pixels: {sizes}")
    print(f"Model     zoo.create_model({', '.join([repr(recipe.model.name), *given])})")
    print(f"Training  {trainer.total} steps, as {RECIPE.name} says\n")
    start = time.perf_counter()
    metrics = trainer.run()
    seconds = time.perf_counter() - start
    print(f"\nTest      {metrics['test/top1']:.2f} % of {sizes['test']} unseen images right, after {seconds:.0f} s")
    print(f"          {recipe.expect.compare(metrics)}")

    name = f"local-dir:{trainer.folder.model}"
    reloaded = zoo.create_model(name).to(trainer.accelerator.device)
    again = evaluate(reloaded, recipe, trainer.splits["test"])
    if again != {key.removeprefix("test/"): value for key, value in metrics.items()}:
        sys.exit(f"the model loaded from {trainer.folder.model} scores {again}, the trained one {metrics}")
    print(f"Reloaded  zoo.create_model({name!r}): exactly the same, {again['top1']:.2f} %, loss {again['loss']:.6f}")
    print(f"\nCost\n{zoo.count_flops(reloaded.cpu()).table(depth=2)}")


if __name__ == "__main__":
    main(sys.argv[1:])
