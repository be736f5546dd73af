"""Denoising by the Hourglass MLP and by the conventional MLP of equal parameters: two recipes, five seeds each.

    python recipes/compare_denoise.py                                         a table of test PSNR, in some minutes
    python recipes/compare_denoise.py --json rows.json                        and its rows
    python recipes/compare_denoise.py task.sigma=0.5 --output runs/noisier    both recipes changed alike

The seed decides the first weights, the order of the images and all noise, which is the same for both models. Run again,
it trains only what is not finished.
"""

import statistics
from pathlib import Path

from zoo.training import Trainer, load_recipe
from zoo.training.runs.comparing import command, psnr_of_inputs

RECIPES = {name: Path(__file__).parent / f"{name}_denoise_digits.yaml" for name in ("hourglass", "conventional")}
SEEDS = range(5)


def compare(overrides: list[str], output: Path) -> list[dict]:
    """Run both recipes with every seed: rows of ``model``, trained ``parameters`` and ``psnr`` (dB, one a seed)."""
    rows = [{"model": "noisy input", "parameters": 0, "psnr": []}]
    for name, path in RECIPES.items():
        row = {"model": name, "parameters": 0, "psnr": []}
        for seed in SEEDS:
            recipe = load_recipe(path, [*overrides, f"train.seed={seed}"])
            trainer = Trainer(recipe, output / path.stem / f"seed-{seed}")
            row["psnr"].append(trainer.run()["test/psnr"])
            row["parameters"] = sum(p.numel() for p in trainer.model.parameters())
            if len(rows) == 1:
                rows[0]["psnr"].append(psnr_of_inputs(trainer.splits["test"], recipe.task, seed))
        rows.append(row)
    return rows


def table(rows: list[dict]) -> str:
    """The rows in Markdown, with mean and standard deviation over the seeds, and the difference of the models."""
    _, hourglass, conventional = rows
    gains = [ours - theirs for ours, theirs in zip(hourglass["psnr"], conventional["psnr"], strict=True)]
    lines = ["| Test PSNR, dB | Parameters | " + " | ".join(f"seed {seed}" for seed in SEEDS) + " | mean | std |"]
    lines.append("|---" * (4 + len(SEEDS)) + "|")
    for row in [*rows, {"model": "hourglass - conventional", "psnr": gains}]:
        values = [*row["psnr"], statistics.mean(row["psnr"]), statistics.stdev(row["psnr"])]
        parameters = f"{row['parameters']:,}" if "parameters" in row else ""
        lines.append(f"| {row['model']} | {parameters} | " + " | ".join(f"{value:.3f}" for value in values) + " |")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    """Command line entry; see the module's docstring."""
    command(__doc__, compare, table, "runs/compare_denoise", argv)


if __name__ == "__main__":
    main()
