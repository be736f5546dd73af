"""A plain perceptron on scikit-learn's digits from scratch, and after pretraining on MNIST's. Three seeds each.

    python recipes/compare_pretrain.py                                  a table of test accuracy, in some minutes
    python recipes/compare_pretrain.py --json rows.json                 and its rows
    python recipes/compare_pretrain.py model.kwargs.dim=64 --output runs/narrow

Both are trained on so many images by the same recipe, of which the first weights alone differ. The model is pretrained
once, with the seed of its recipe. Run again, it trains only what is not finished.
"""

import statistics
from pathlib import Path

from zoo.training import Trainer, load_recipe
from zoo.training.runs.comparing import command

FOLDER = Path(__file__).parent
PRETRAINING, RECIPE = FOLDER / "pretrain_mlp_mnist.yaml", FOLDER / "scaling_mlp_digits.yaml"
IMAGES = (50, 100, 300, 1257)
SEEDS = range(3)


def compare(overrides: list[str], output: Path) -> list[dict]:
    """Train everything: rows of ``images``, ``model`` and ``test`` (top1, one a seed)."""
    first = Trainer(load_recipe(PRETRAINING, overrides), output / "pretrained")
    first.run()
    pretrained = [f"model.name=local-dir:{first.folder.model}", "model.kwargs={}"]
    rows = []
    for images in IMAGES:
        for name, changes in {"from scratch": [], "pretrained": pretrained}.items():
            row = {"images": images, "model": name, "test": []}
            for seed in SEEDS:
                own = [f"data.images={images}", f"train.seed={seed}"]
                recipe = load_recipe(RECIPE, [*overrides, *changes, *own])
                folder = output / f"{images}-{name.replace(' ', '-')}" / f"seed-{seed}"
                row["test"].append(Trainer(recipe, folder).run()["test/top1"])
            rows.append(row)
    return rows


def table(rows: list[dict]) -> str:
    """The rows in Markdown, with the mean over the seeds, and what the pretraining gains with each number of images."""
    lines = ["| Images | First weights | " + " | ".join(f"seed {seed}" for seed in SEEDS) + " | mean | gain |"]
    lines.append("|---" * (4 + len(SEEDS)) + "|")
    for row in rows:
        scratch = next(other for other in rows if other["images"] == row["images"])
        mean = statistics.mean(row["test"])
        gain = "" if row is scratch else f"{mean - statistics.mean(scratch['test']):+.2f}"
        cells = [f"{row['images']:,}", row["model"], *(f"{value:.2f}" for value in (*row["test"], mean)), gain]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    """Command line entry; see the module's docstring."""
    command(__doc__, compare, table, "runs/compare_pretrain", argv)


if __name__ == "__main__":
    main()
