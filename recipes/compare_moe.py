"""Denoising by a mixture of experts and by its dense twin of equal active MACs: two recipes, five seeds each.

    python recipes/compare_moe.py                                         a table of test PSNR and load, in some minutes
    python recipes/compare_moe.py --json rows.json                        and its rows
    python recipes/compare_moe.py task.sigma=0.5 --output runs/noisier    all runs changed alike

A third row is the sparse recipe without its balance loss. The seed decides the first weights, the order of the images
and all noise, which is the same for all models. Run again, it trains only what is not finished.
"""

import statistics
from pathlib import Path

import zoo
from zoo.training import Trainer, load_recipe
from zoo.training.runs.comparing import command
from zoo.training.runs.records import read_records

RECIPES = {name: Path(__file__).parent / f"{name}_denoise_digits.yaml" for name in ("moe", "dense")}
RUNS = {"moe": ("moe", []), "dense": ("dense", []), "moe, no balance loss": ("moe", ["aux_losses.balance=0"])}
SEEDS = range(5)
LAST = 0.25  # of the training, over which the load is looked at


def least_entropy(folder: Path, steps: int) -> float | None:
    """The least entropy of the experts' load in any layer and any logged batch of the last part of a training.

    It is that of the batch's load over the entropy of an even one; None for a model without experts.
    """
    records = read_records(folder / "metrics.jsonl")
    late = [
        record["stat/entropy"] for record in records if "stat/entropy" in record and record["step"] > (1 - LAST) * steps
    ]
    return min((layer for layers in late for layer in layers if layer is not None), default=None)


def compare(overrides: list[str], output: Path) -> list[dict]:
    """Run every model with every seed.

    Returns:
        Rows of ``model``, ``parameters``, ``active_macs``, ``psnr`` (dB, one a seed) and ``entropy`` (one a seed).
    """
    rows = []
    for name, (recipe_name, changes) in RUNS.items():
        row = {"model": name, "psnr": [], "entropy": []}
        for seed in SEEDS:
            recipe = load_recipe(RECIPES[recipe_name], [*overrides, *changes, f"train.seed={seed}"])
            folder = output / name.replace(", ", "-").replace(" ", "-") / f"seed-{seed}"
            trainer = Trainer(recipe, folder)
            row["psnr"].append(trainer.run()["test/psnr"])
            row["entropy"].append(least_entropy(folder, trainer.total))
        report = zoo.count_flops(trainer.model)
        rows.append(row | {"parameters": report.params, "active_macs": report.active_macs})
    return rows


def table(rows: list[dict]) -> str:
    """The rows in Markdown, with mean and standard deviation over the seeds, and the difference to the dense twin."""
    moe, dense, _ = rows
    gains = [ours - theirs for ours, theirs in zip(moe["psnr"], dense["psnr"], strict=True)]
    seeds = " | ".join(f"seed {seed}" for seed in SEEDS)
    lines = [f"| Test PSNR, dB | Parameters | Active MACs | {seeds} | mean | std | least entropy |"]
    lines.append("|---" * (6 + len(SEEDS)) + "|")
    for row in [*rows, {"model": "moe - dense", "psnr": gains, "entropy": [None]}]:
        values = [*row["psnr"], statistics.mean(row["psnr"]), statistics.stdev(row["psnr"])]
        sizes = [f"{row[key]:,}" if key in row else "" for key in ("parameters", "active_macs")]
        entropy = "" if None in row["entropy"] else f"{min(row['entropy']):.3f}"
        lines.append(f"| {' | '.join([row['model'], *sizes, *(f'{value:.3f}' for value in values), entropy])} |")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    """Command line entry; see the module's docstring."""
    command(__doc__, compare, table, "runs/compare_moe", argv)


if __name__ == "__main__":
    main()
