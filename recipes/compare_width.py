"""MLP-Mixer on digits by its effective width at a fixed number of connections, and with random permutations.

    python recipes/compare_width.py                          a table of test accuracy, in some minutes
    python recipes/compare_width.py --json rows.json         and its rows
    python recipes/compare_width.py train.duration=60ep --output runs/longer

All have as many connections in the wide and sparse perceptron that MLP-Mixer equals (see `zoo.tools.width`), and divide
them otherwise between positions and channels: patches of other sizes, and the number of channels that goes with them.
Run again, it trains only what is not finished. What came out is in benchmarks/RESULTS.md.
"""

import statistics
from pathlib import Path

from zoo.tools.width import MixingSize, size_at
from zoo.training import Trainer, load_recipe
from zoo.training.runs.comparing import command

RECIPE = Path(__file__).parent / "digits" / "pk_mixer.yaml"
CONNECTIONS, RATIO = 2 * 32**3, 2
PATCHES = {2: (4, 8), 4: (4, 4), 8: (2, 4), 16: (2, 2), 32: (1, 2), 64: (1, 1)}  # by how many an image of 8 x 8 has
PERMUTATIONS = ("mixer", "random")
SEEDS = range(3)
SHORT = ["model.kwargs.depth=4", "train.duration=15ep"]  # two blocks of MLP-Mixer


def changes(size: MixingSize, permutation: str) -> list[str]:
    """What makes the recipe's model one of a size."""
    mixers = [
        f"{{name: permuted, over: {over}, permutation: {permutation}, mixer: 'mlp(ratio={size.ratio})'}}"
        for over in ("tokens", "channels")
    ]
    height, width = PATCHES[size.tokens]
    return [
        f"model.kwargs.patch_size=[{height}, {width}]",
        f"model.kwargs.dim={size.dim}",
        f"model.kwargs.token_mixer=[{', '.join(mixers)}]",
    ]


def compare(overrides: list[str], output: Path) -> list[dict]:
    """Train everything: rows of ``tokens``, ``dim``, ``permutation``, ``parameters``, ``test`` (top1, one a seed)."""
    rows = []
    for tokens in PATCHES:
        size = size_at(CONNECTIONS, tokens, RATIO)
        for permutation in PERMUTATIONS:
            row = {"tokens": tokens, "dim": size.dim, "permutation": permutation, "test": []}
            for seed in SEEDS:
                own = [*changes(size, permutation), f"train.seed={seed}"]
                recipe = load_recipe(RECIPE, [*SHORT, *own, *overrides])
                trainer = Trainer(recipe, output / f"{tokens}-{permutation}" / f"seed-{seed}")
                row["test"].append(trainer.run()["test/top1"])
            rows.append(row | {"parameters": sum(p.numel() for p in trainer.plain_model.parameters())})
    return rows


def table(rows: list[dict]) -> str:
    """The rows in Markdown, with the mean over the seeds."""
    seeds = " | ".join(f"seed {seed}" for seed in SEEDS)
    lines = [f"| Positions | Channels | Width | Connections | Parameters | Permutations | {seeds} | mean |"]
    lines.append("|---" * (7 + len(SEEDS)) + "|")
    for row in rows:
        size = MixingSize(row["tokens"], row["dim"], RATIO)
        numbers = [size.tokens, size.dim, size.width, round(size.connections), row["parameters"]]
        values = [*row["test"], statistics.mean(row["test"])]
        cells = [*(f"{number:,}" for number in numbers), row["permutation"], *(f"{value:.2f}" for value in values)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    """Command line entry; see the module's docstring."""
    command(__doc__, compare, table, "runs/compare_width", argv)


if __name__ == "__main__":
    main()
