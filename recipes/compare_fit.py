"""KANs at fitting formulas, on test points: against perceptrons, and S-KAN against its single spaces; five seeds each.

    python recipes/compare_fit.py mlp                          KAN and MLP on nine formulas, in 8 minutes on one core
    python recipes/compare_fit.py spaces --json rows.json      S-KAN and single spaces on seven, in 20, and the rows
    python recipes/compare_fit.py mlp train.duration=200st --output runs/longer      all recipes changed alike

The seed decides the first weights; the points are always the same. Run again, it trains only what is not finished.
"""

import json
import statistics
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import nn

from zoo.blocks.kan.select import SelectKANLinear
from zoo.training import Trainer, load_recipe
from zoo.training.data.formulas import FORMULAS
from zoo.training.runs.comparing import command

HERE = Path(__file__).parent
SEEDS = range(5)


def kan(hidden: list[int], grid: int, reach: int = 1) -> dict[str, Any]:
    """Cubic splines on `grid` intervals, over [-1, 1] for the inputs and over [-reach, reach] behind them."""
    first, others = (f"spline(grid_size={grid}, grid_range=({-end}, {end}))" for end in (1, reach))
    return {"hidden": hidden, "layer": [first] + [others] * len(hidden)}


def mlp(hidden: list[int], act: str) -> dict[str, Any]:
    """Linear layers and what is between them."""
    return {"hidden": hidden, "act": act}


# What the validation split chose for each formula: of eight KANs, and of eight MLPs of at least as many parameters.
MLP = {
    "bessel": (kan([6], 20), mlp([23, 23], "tanh")),
    "exp_sine": (kan([2], 10), mlp([11, 11], "tanh")),
    "product": (kan([2], 10), mlp([8, 8, 8], "silu")),
    "hundred": (kan([2], 5), mlp([16, 16], "tanh")),
    "nested_sines": (kan([4, 2], 5), mlp([19, 19], "silu")),
    "I.6.2": (kan([3], 10, reach=2), mlp([14, 14], "tanh")),
    "I.12.11": (kan([5], 10), mlp([14, 14, 14], "silu")),
    "I.27.6": (kan([3], 5), mlp([10, 10], "tanh")),
    "I.29.16": (kan([6, 3], 10), mlp([22, 22, 22], "tanh")),
}

# Of sizes that give near equal numbers of parameters: 90 to 110 where there is one input.
SPACES = {
    "spline": "spline(grid_size=5)",
    "rbf": "rbf(num=8, grid_range=(-1, 1))",
    "chebyshev": "chebyshev(degree=8)",
    "fourier": "fourier(num_frequencies=5)",
    "wavelet": "wavelet(num=5, grid_range=(-1, 1))",
}
SEVEN = ("bump", "tone", "steps", "kink", "burst", "pole", "mixed")


def fits(against: str) -> Iterator[tuple[str, str, str, dict[str, Any]]]:
    """Each formula and model of a comparison, the recipe, and the keyword arguments of its model."""
    if against == "mlp":
        for formula, (ours, theirs) in MLP.items():
            yield formula, "KAN", "fit_kan", ours
            yield formula, "MLP", "fit_mlp", theirs
    else:
        for formula in SEVEN:
            for space, layer in SPACES.items():
                yield formula, space, "fit_select", {"hidden": [5], "layer": layer}
            yield formula, "S-KAN", "fit_select", {"hidden": [5]}


def compare(against: str, overrides: list[str], output: Path) -> list[dict[str, Any]]:
    """Run all fits of a comparison with every seed.

    Returns:
        Rows of ``formula``, ``model``, ``hidden`` widths, ``parameters`` in use (the most of any seed), test ``rmse``
        (one a seed), and ``chosen``: how many nodes of all seeds chose each space.
    """
    rows = []
    for formula, model, recipe_name, kwargs in fits(against):
        inputs = len(FORMULAS[formula].box)
        own = [f"data.formula={formula}", f"model.kwargs.in_chans={inputs}"]
        own += [f"model.kwargs.{key}={json.dumps(value)}" for key, value in kwargs.items()]
        own += ["train.phases={}"] if model in SPACES else []  # nothing to choose
        row = {"formula": formula, "model": model, "hidden": kwargs["hidden"], "parameters": 0, "rmse": []}
        row["chosen"] = Counter()
        for seed in SEEDS:
            recipe = load_recipe(HERE / f"{recipe_name}.yaml", [*overrides, *own, f"train.seed={seed}"])
            trainer = Trainer(recipe, output / against / formula / model / f"seed-{seed}")
            row["rmse"].append(trainer.run()["test/rmse"])
            row["parameters"] = max(row["parameters"], parameters_in_use(trainer.model))
            for layer in filter(lambda module: isinstance(module, SelectKANLinear), trainer.model.modules()):
                row["chosen"].update(space.partition("(")[0] for space in layer.selection().chosen)
        rows.append(row)
    return rows


def parameters_in_use(model: nn.Module) -> int:
    """Number of the parameters that outputs depend on: of an S-KAN that has chosen, those of what was chosen."""
    count = sum(parameter.numel() for parameter in model.parameters())
    for layer in model.modules():
        if isinstance(layer, SelectKANLinear):
            count -= layer.gates.logits.numel()
            chosen = Counter(layer.selection().chosen)
            for space, basis in zip(layer.gates.spaces, layer.basis.parts, strict=True):
                count -= (layer.out_features - chosen[space]) * basis.num * layer.in_features
                if not chosen[space]:
                    count -= sum(parameter.numel() for parameter in basis.parameters())
    return count


def table(rows: list[dict[str, Any]]) -> str:
    """The rows in Markdown, with mean and standard deviation over the seeds; the best mean of each formula is bold."""
    lines = [
        "| Formula | Model | Hidden | Parameters | Test RMSE, mean | std | "
        + " | ".join(f"seed {seed}" for seed in SEEDS)
        + " | Chosen |"
    ]
    lines.append("|---" * (7 + len(SEEDS)) + "|")
    for row in rows:
        best = min(statistics.mean(other["rmse"]) for other in rows if other["formula"] == row["formula"])
        mean = statistics.mean(row["rmse"])
        cells = [row["formula"], row["model"], row["hidden"], f"{row['parameters']:,}"]
        cells += [f"**{mean:.5f}**" if mean == best else f"{mean:.5f}", f"{statistics.stdev(row['rmse']):.5f}"]
        cells += [f"{value:.5f}" for value in row["rmse"]]
        cells += [", ".join(f"{count} {space}" for space, count in Counter(row["chosen"]).most_common())]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    """Command line entry; see the module's docstring."""
    command(
        __doc__,
        compare,
        table,
        "runs/compare_fit",
        argv,
        against={"choices": ["mlp", "spaces"], "help": "what is compared: see above"},
    )


if __name__ == "__main__":
    main()
