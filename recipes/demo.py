"""`make demo`: an MLP-Mixer learns to read handwritten digits, in about a minute on two CPU cores.

It trains recipes/mixer_digits.yaml as `python recipes/train.py recipes/mixer_digits.yaml` would, but anew every time.
"""

import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import zoo
from zoo.training import Trainer, evaluate, load_recipe

RECIPE = Path(__file__).parent / "mixer_digits.yaml"
OUTPUT = Path("runs") / "demo"


def main(overrides: Sequence[str] = ()) -> None:
    """Train, measure, save, load, compare, count."""
    recipe = load_recipe(RECIPE, overrides)
    if OUTPUT.exists():
        print(f"{OUTPUT} is from an earlier demo: starting afresh\n")
        shutil.rmtree(OUTPUT)

    trainer = Trainer(recipe, OUTPUT)
    sizes = {part: len(split) for part, split in trainer.splits.items()}
    print("Data      1,797 real images of handwritten digits, 8x8 pixels (scikit-learn): "
          f"{sizes['train']} to train, {sizes['validation']} to watch, {sizes['test']} to test")  # fmt: skip
    print(f"Model     {recipe.model.name} at this size: {recipe.model.kwargs}")
    print(f"Training  {recipe.train.duration.count} epochs, {trainer.total} steps ({RECIPE.name})\n")
    start = time.perf_counter()
    metrics = trainer.run()
    print(f"\nTest      {metrics['test/top1']:.2f} % of the test images read correctly, "
          f"after {time.perf_counter() - start:.0f} s; {recipe.expect.compare(metrics)}")  # fmt: skip

    name = f"local-dir:{trainer.folder.model}"
    reloaded = zoo.create_model(name).to(trainer.accelerator.device)
    again = evaluate(reloaded, recipe, trainer.splits["test"])
    if again != {key.removeprefix("test/"): value for key, value in metrics.items()}:
        sys.exit(f"the model loaded from {trainer.folder.model} scores {again}, the trained one {metrics}")
    print(f'Saved     zoo.create_model("{name}") scores exactly the same: top1 {again["top1"]:.2f}, loss {again["loss"]:.6f}')
    print(f"\nCost of one image:\n{zoo.count_flops(reloaded.cpu())}")


if __name__ == "__main__":
    main(sys.argv[1:])
