"""Few edges: penalties that make most of them small in training, and pruning of those that are."""

import warnings

import torch
from torch import Tensor, nn

from zoo.blocks.kan.bases.base import wide
from zoo.blocks.kan.edges import edge_sizes
from zoo.blocks.kan.linear import KANLinear
from zoo.blocks.mixer import offers
from zoo.tools.kan.record import Record, evaluating, inputs_of, kan_layers


def penalties(model: nn.Module, x: Tensor | Record | None) -> dict[str, Tensor]:
    """What training adds to its loss so that few edges remain: summed over the layers, differentiable.

    ``l1`` is the sum of the sizes of all edges, and ``entropy`` that of their shares in it, in nats. Gradients
    flow into the layers before a layer too. Pruned edges, and those without effect, add nothing.

    Args:
        model: A KANLinear, or a model.
        x: Its input. In a training loop rather what `record_inputs` noted, which saves a second forward pass. None
            takes the coefficients for the functions: the size of an edge is then the mean absolute value of its
            coefficients plus that of its base weight, at next to no cost, wherever the inputs are.

    Example:
        >>> from zoo.tools.kan.record import record_inputs
        >>> model = nn.Sequential(KANLinear(2, 5), KANLinear(5, 1))
        >>> with record_inputs(model) as inputs:
        ...     loss = model(torch.randn(7, 2)).square().mean()
        >>> penalty = penalties(model, inputs)
        >>> (loss + 1e-3 * penalty["l1"] + 2e-3 * penalty["entropy"]).backward()

    Source: Liu et al., "KAN" (arXiv 2404.19756), equations 2.17 to 2.20; for None, regularization_loss of
        Blealtan/efficient-kan.
    Differs: pykan 0.2.8 by default penalises other numbers, standard deviations relative to those of the inputs, and
        the entropies of rows and columns. efficient-kan leaves out the base weights.
    """
    if x is None:
        sizes = [_weight_sizes(layer) for layer in kan_layers(model).values()]
    else:
        sizes = [edge_sizes(layer, inputs) for _, layer, inputs in inputs_of(model, x)]
    l1, entropy = [], []
    for size in sizes:
        total, least = size.sum(), torch.finfo(size.dtype).tiny
        l1.append(total)
        # The bound keeps the infinite slope of the entropy at zero out of the gradient.
        entropy.append(torch.special.entr((size / total.clamp(min=least)).clamp(min=least)).sum())
    return {"l1": torch.stack(l1).sum(), "entropy": torch.stack(entropy).sum()}


def _weight_sizes(layer: KANLinear) -> Tensor:
    weight = layer.edge_weight().to(wide(layer.weight.dtype)).abs()
    if layer.base is None:
        return weight.mean(1)
    return weight[:, 1:].mean(1) + weight[:, 0]


def prune(model: nn.Module, x: Tensor | Record, *, threshold: float = 0.03) -> dict[str, int]:
    """Take the edges that matter little out of spline layers, and of KAN layers of any basis.

    The score of an edge is its size relative to that of the largest edge into the same output. Where a layer is known
    to be read by the next one alone, it is multiplied by the score of that output, which is the largest of the edges
    that leave it: so what leads nowhere goes too, and what remains leads on. That is known in an `nn.Sequential`, and
    in a module whose method ``chain()`` lists the modules that it applies one after the other. Edges with a score below
    the threshold, and those that are zero on all samples, get a zero in ``alive``, a factor of every edge.

    Pruned edges get no gradient, and whatever an optimizer does to their weights has no effect. They are part of the
    state dict. ``layer.reset_parameters()`` brings them back, with new weights.

    Args:
        model: A KANLinear, or a model; it runs in eval mode.
        x: Its input, or what `record_inputs` noted.
        threshold: Between 0, for edges that are exactly zero, and 1.

    Returns:
        For each layer that was called, the number of edges that died.

    Example:
        >>> layer = KANLinear(3, 2)
        >>> _ = layer.weight.data[0, :, 1].zero_()
        >>> prune(layer, torch.randn(20, 3), threshold=0.0), layer.alive[0].tolist()
        ({'': 1}, [1.0, 0.0, 1.0])

    Source: Liu et al., "KAN" (arXiv 2404.19756), section 2.5.1; prune and attribute of KindXiaoming/pykan.
    Differs: the paper prunes nodes by the absolute sizes of their largest edges; pykan 0.2.8 passes scores back as
        here, as sums of standard deviations over those of the outputs. A share of the largest edge does not depend on
        scales or on the number of inputs, and leaves each output its largest edge.

    Raises:
        ValueError: The threshold is not between 0 and 1, or there are no samples, or some give NaN or infinite values.
        UserWarning: An output of the model has no edge left, since all its functions are zero on the samples.
    """
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold is {threshold}; it must be between 0 and 1, the score of the largest edge")
    with evaluating(model):
        scores = edge_scores(model, x)
        died = {}
        for name, (layer, score, node) in scores.items():
            dead = (layer.alive != 0) & ((score < threshold) | (score == 0))
            died[name] = int(dead.sum())
            layer.alive.masked_fill_(dead, 0)
            needed = (node > 0) & (node >= threshold)
            constant = (needed & ~layer.alive.any(1)).nonzero().flatten().tolist()
            if constant:
                where = f"of layer {name!r} " if name else ""
                warnings.warn(
                    f"prune: outputs {constant} {where}have no edges left and are constant: their functions are zero "
                    "on all samples",
                    stacklevel=2,
                )
    return died


def edge_scores(model: nn.Module, x: Tensor | Record) -> dict[str, tuple[KANLinear, Tensor, Tensor]]:
    """For each layer that is called: the layer, the scores of its edges as `prune` has them, and those of its outputs.

    Shape: scores (out_features, in_features), outputs (out_features,).
    """
    layers, after = inputs_of(model, x), _followers(model)
    scores: dict[KANLinear, Tensor] = {}
    result = {}
    for name, layer, inputs in reversed(layers):
        sizes = edge_sizes(layer, inputs)
        if not len(inputs) or not sizes.isfinite().all():
            raise ValueError(
                f"layer {name!r} got {len(inputs)} samples, on which a function has the size {sizes.max().item()}; "
                "there must be samples, and all of them finite"
            )
        following = scores.get(after.get(layer))
        node = sizes.new_ones(len(sizes)) if following is None else following.amax(0)
        share = sizes / sizes.amax(1, keepdim=True).clamp(min=torch.finfo(sizes.dtype).tiny)
        scores[layer] = share * node[:, None]
        result[name] = layer, scores[layer], node
    return {name: result[name] for name, _, _ in layers}


def _followers(model: nn.Module) -> dict[KANLinear, KANLinear]:
    """The layer that alone reads the outputs of a layer, where the structure of the model tells."""
    after: dict[KANLinear, set[KANLinear]] = {}
    for module in model.modules():
        steps = list(module.chain()) if offers(module, "chain") else []
        if isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward:
            steps = list(module)
        steps = [step for step in steps if not isinstance(step, (nn.Identity, nn.Dropout))]
        for layer, next_layer in zip(steps, steps[1:], strict=False):
            if isinstance(layer, KANLinear) and isinstance(next_layer, KANLinear):
                after.setdefault(layer, set()).add(next_layer)
    return {layer: readers.pop() for layer, readers in after.items() if len(readers) == 1}
