"""KAN: stacks of Kolmogorov-Arnold layers, for fitting functions and for tables; and the perceptrons beside them.

Paper: Liu et al., "KAN: Kolmogorov-Arnold Networks", arXiv 2404.19756.
Code:  KindXiaoming/pykan (MIT), Blealtan/efficient-kan (MIT), ZiyaoLi/fast-kan (Apache-2.0).
Weights: none released.

A variant is its widths and what its layers are. `kan_function` is the paper's [2, 5, 1], `kan_exp_sine` what
recipes/fit_kan.yaml fits to a formula of two numbers; `kan_digits` and `kan_image` are the [64, 64, 10] and [784, 64,
10] of the public examples. The `mlp_*` variants are linear layers with SiLU between, with at least as many parameters
as their `kan_*` twins. Which of the two is better at what was measured: see benchmarks/RESULTS.md and the recipes.
"""

from zoo.family import Family
from zoo.skeletons.vectors import Stack

FAMILY = Family(
    model=Stack,
    tasks=("regression", "classification"),
    defaults=dict(layer="spline(grid_size=5, order=3)"),
    variants={
        "kan_function": dict(in_chans=2, hidden=[5], num_classes=1),
        "kan_exp_sine": dict(in_chans=2, hidden=[2], num_classes=1, layer="spline(grid_size=10, grid_range=(-1, 1))"),
        "kan_digits": dict(in_chans=64, hidden=[64], num_classes=10),
        "kan_image": dict(in_chans=784, hidden=[64], num_classes=10),
        "mlp_function": dict(in_chans=2, hidden=[10, 10], num_classes=1, layer="none"),
        "mlp_digits": dict(in_chans=64, hidden=[192, 160], num_classes=10, layer="none"),
        "mlp_image": dict(in_chans=784, hidden=[512, 108], num_classes=10, layer="none"),
        "kan_test": dict(in_chans=3, hidden=[4], num_classes=2),
        "mlp_test": dict(in_chans=3, hidden=[4], num_classes=2, layer="none"),
    },
)
