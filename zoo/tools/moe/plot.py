"""Which experts a model's routers choose, by layer and class: numbers and a picture."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from zoo.tools.moe.record import Batches, choices_of, pairs

CELL, LEAST, BELOW, SCALE, PAGE = 0.26, 1.6, 0.45, 0.9, 12.0  # inches: a share, a map, what is around the maps


def expert_load(model: nn.Module, batches: Batches, *, task: int | str | None = None) -> dict[str, Tensor]:
    """Share of the choices that each expert gets, by layer and class.

    Args:
        model: A model with mixtures of experts; it runs in eval mode.
        batches: Inputs; or a list or loader of them; or of pairs (inputs, labels), the labels ``(B,)`` classes.
        task: The task to ask for, where the routers know tasks.

    Returns:
        For each mixture, by its name, ``(classes, experts)``; each row has the sum 1, or 0 for a class without samples.
        Without labels there is one row. Choices that are dropped for want of room count too.

    Example:
        >>> import zoo
        >>> model = zoo.create_model("vit_test", channel_mixer={"at": {-1: "moe(num_experts=4)"}})
        >>> load = expert_load(model, [(torch.randn(6, 3, 32, 32), torch.arange(6) % 3)])
        >>> {name: tuple(shares.shape) for name, shares in load.items()}
        {'blocks.2.channel_mixer': (3, 4)}

    Raises:
        ValueError: The model has no mixture of experts, there is no batch, or labels are no classes.
    """
    counts: dict[str, list[Tensor]] = {}
    labels: list[Tensor] = []
    for inputs, classes in pairs(batches):
        classes = torch.zeros(len(inputs), dtype=torch.long) if classes is None else classes.cpu()
        if classes.shape != (len(inputs),) or classes.is_floating_point() or classes.min() < 0:
            raise ValueError(
                f"labels are {tuple(classes.shape)} of {classes.dtype} for {len(inputs)} samples; they must be a class "
                "for each, or give the inputs alone"
            )
        labels.append(classes.long())
        for name, choices in choices_of(model, inputs, task).items():
            counts.setdefault(name, []).append(choices.counts(len(inputs)).cpu())
    label = torch.cat(labels)
    load = {}
    for name, parts in counts.items():
        count = torch.cat(parts)
        total = count.new_zeros(int(label.max()) + 1, count.shape[1]).index_add(0, label, count)
        load[name] = total / total.sum(1, keepdim=True).clamp(min=1)
    return load


def plot_expert_load(
    model: nn.Module, batches: Batches, labels: Sequence[str] | None = None, *, task: int | str | None = None
):
    """Draw which experts work on which class: a heat map for each layer.

    A column is an expert, a row a class, and the colour the share of the class's choices that go to the expert. Above a
    map stands how even the load is, all classes alike: its entropy over that of equal shares.

    Args:
        model, batches, task: As for `expert_load`, which gives the numbers.
        labels: Names of the classes; by default their numbers.

    Returns:
        A `matplotlib.figure.Figure`, outside of pyplot: ``plot_expert_load(model, loader).savefig("load.png")``.

    Example:
        >>> import zoo
        >>> model = zoo.create_model("vit_test", channel_mixer="moe(num_experts=4)")
        >>> figure = plot_expert_load(model, torch.randn(2, 3, 32, 32))
        >>> len(figure.axes)  # three layers and the scale of the colours
        4

    Source: the routing by class of Riquelme et al., "Scaling Vision with Sparse Mixture of Experts" (arXiv 2106.05974),
        figure 7.
    Differs: shares of choices, not mean routing weights.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: As `expert_load`; or there are not as many names as classes.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            'plot_expert_load needs matplotlib; install it: pip install matplotlib, or pip install ".[plot]"'
        ) from error
    load = expert_load(model, batches, task=task)
    classes = len(next(iter(load.values())))
    names = [str(i) for i in range(classes)] if labels is None else list(labels)
    if len(names) != classes:
        raise ValueError(f"labels are {len(names)} names; the data have {classes} classes")

    left, top = 0.5 + 0.08 * max(map(len, names)), 0.55
    widths = [max(CELL * shares.shape[1], LEAST) for shares in load.values()]
    abreast = max(1, min(len(load), int(PAGE // (max(widths) + left))))
    tiers = -(-len(load) // abreast)
    tall = CELL * classes + top + BELOW
    size = (abreast * (max(widths) + left) + SCALE, max(tiers * tall, 2.0))
    figure = Figure(figsize=size)
    FigureCanvasAgg(figure)
    most = max(shares.max().item() for shares in load.values())
    for place, ((name, shares), width) in enumerate(zip(load.items(), widths, strict=True)):
        tier, column = divmod(place, abreast)
        corner = (column * (max(widths) + left) + left) / size[0], 1 - (tier * tall + top + CELL * classes) / size[1]
        axes = figure.add_axes((*corner, width / size[0], CELL * classes / size[1]))
        drawn = axes.imshow(shares.numpy(), cmap="viridis", vmin=0, vmax=most, aspect="auto")
        axes.set_title(f"{name}\nentropy of the load {_entropy(shares):.2f}", fontsize=8)
        axes.set_xticks(range(shares.shape[1]))
        axes.set_yticks(range(classes), names)
        axes.tick_params(labelsize=7, length=2)
        axes.set_xlabel("expert", fontsize=8)
    bar = figure.add_axes(((size[0] - 0.75 * SCALE) / size[0], 0.2, 0.12 / size[0], 0.6))
    figure.colorbar(drawn, cax=bar).ax.tick_params(labelsize=7)
    bar.set_title("share", fontsize=8)
    return figure


def _entropy(shares: Tensor) -> float:
    """Entropy of the experts' load with all classes alike, over that of equal shares."""
    share = shares.sum(0) / shares.sum().clamp(min=1e-9)
    return (torch.special.entr(share).sum() / math.log(len(share))).item() if len(share) > 1 else 1.0
