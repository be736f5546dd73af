"""Grids of spline layers: from samples, and finer ones. The learnt functions are carried over by least squares."""

import torch
from torch import Tensor, nn

from zoo.blocks.kan.bases.spline import Spline
from zoo.blocks.kan.linear import KANLinear
from zoo.tools.kan.record import evaluating, first, kan_layers

LIMIT = 2**22  # numbers in the matrices of one fit
ANCHOR = 1e-3  # weight of the fit between the samples, relative to that on them


def update_grid(model: nn.Module, x: Tensor, *, grid_eps: float = 0.02, margin: float = 0.01) -> None:
    """Move the knots of spline layers to where their inputs are, and keep their functions on these inputs.

    Each feature gets knots of its own: a mixture of quantiles of its samples and of evenly spaced ones. In a model,
    each layer is adapted to what the layers before it give after they were adapted, in one forward pass in eval mode.

    The new coefficients are a least-squares fit to the old function on the samples. Between the samples the old
    function counts too, by a thousandth: so coefficients that no sample reaches are not arbitrary. A feature whose
    samples are all the same, or too close together for knots of the layer's precision, keeps its knots. The number of
    knots stays; an optimizer keeps the parameter, and its momentum belongs to the old coefficients.

    Args:
        model: A KANLinear of splines, or a model in which every KANLinear that is called is one.
        x: Its input: the more samples the better, all finite.
        grid_eps: Share of the evenly spaced grid. 1 gives even grids, on which splines have a closed form: on mixed
            ones a layer of 256 to 256 features was measured to take 1.6 times as long, and 1.3 times in training.
        margin: Widens the range of the samples on both sides, by this share of it.

    Example:
        >>> layer, x = KANLinear(1, 1), 5 + 2 * torch.rand(100, 1)
        >>> update_grid(layer, x)
        >>> bool(layer.basis.knots[0, 3] < x.min()), bool(layer.basis.knots[0, -4] > x.max())
        (True, True)

    Source: Liu et al., "KAN" (arXiv 2404.19756), section 2.2; update_grid in Blealtan/efficient-kan, whose quantiles
        and mixture these are.
    Differs: the margin is relative and widens both grids, quantiles are interpolated, and the fit is anchored between
        the samples; the official codes leave coefficients without samples to the solver.

    Raises:
        ValueError: A layer is not made of splines, is called more than once, or has no or non-finite samples.
    """
    if not 0 <= grid_eps <= 1 or margin < 0:
        raise ValueError(f"grid_eps is {grid_eps} and margin {margin}; they must be in [0, 1] and at least 0")
    if isinstance(model, KANLinear):
        return _update(model, x, grid_eps, margin)
    seen = set()

    def update(layer: KANLinear, args: tuple, kwargs: dict) -> None:
        if layer in seen:
            raise ValueError(
                "a KANLinear is called more than once in the forward pass; call update_grid(layer, x) with the inputs "
                "that it shall be adapted to"
            )
        seen.add(layer)
        _update(layer, first(args, kwargs), grid_eps, margin)

    handles = [
        layer.register_forward_pre_hook(update, with_kwargs=True, prepend=True) for layer in kan_layers(model).values()
    ]
    try:
        with evaluating(model):
            model(x)
    finally:
        for handle in handles:
            handle.remove()
    return None


def refine(model: nn.Module, grid_size: int) -> None:
    """Exchange the grids of spline layers for finer ones over the same range, and keep their functions there.

    Knots are placed in proportion to the old ones, so that uneven grids stay so. If `grid_size` is a multiple of the
    old one, the new grid contains the old one and the functions are the same inside the grid, up to rounding. Otherwise
    they are the nearest in the sense of least squares: from 5 to 7 intervals, random coefficients of cubic splines make
    an output change by 2 % of its standard deviation, and those of a smooth curve by less than 0.1 %.

    Outside the grid, the functions are not kept: the continued intervals are shorter, and the splines end with them. If
    inputs lie there, call `update_grid` first.

    The parameter `weight` is a new one of another shape: make the optimizer anew.

    Args:
        model: A KANLinear of splines, or a model: every KANLinear of splines in it is refined.
        grid_size: Number of intervals.

    Example:
        >>> layer, x = KANLinear(2, 3, grid_size=5), 2 * torch.rand(9, 2) - 1
        >>> y = layer(x)
        >>> refine(layer, 10)
        >>> tuple(layer.weight.shape), torch.allclose(layer(x), y, atol=1e-5)
        ((3, 14, 2), True)

    Source: Liu et al., "KAN" (arXiv 2404.19756), section 2.4, equation 2.16.

    Raises:
        ValueError: No layer is made of splines, or `grid_size` is below that of one.
    """
    layers = [layer for layer in kan_layers(model).values() if isinstance(layer.basis, Spline)]
    if not layers:
        raise ValueError(f"{type(model).__name__} has no KANLinear of splines; only these have a grid")
    largest = max(layer.basis.grid_size for layer in layers)
    if grid_size < largest:
        raise ValueError(f"grid_size is {grid_size}, and a layer has {largest} intervals already; it must be no less")
    for layer in layers:
        inner = _inner(_wide_copy(layer.basis).knots.t(), layer.basis.order)
        knots = _continued(_at(inner, grid_size), layer.basis.order)
        _change_grid(layer, knots, knots.new_empty(0, layer.in_features))


@torch.no_grad()
def _update(layer: KANLinear, x: Tensor, grid_eps: float, margin: float) -> None:
    if not isinstance(layer.basis, Spline):
        raise ValueError(f"update_grid got a KANLinear of {type(layer.basis).__name__}; only splines have a grid")
    x = x.detach().reshape(-1, layer.in_features).to("cpu", torch.float64)
    if not len(x) or not x.isfinite().all():
        raise ValueError(f"update_grid got {len(x)} samples for a layer; it needs one at least, and all of them finite")
    adapted, order = _at(x.sort(0).values, layer.basis.grid_size), layer.basis.order
    room = margin * (adapted[-1] - adapted[0])
    adapted[0] -= room
    adapted[-1] += room
    even = _at(adapted[[0, -1]], layer.basis.grid_size)
    knots = _continued(torch.lerp(adapted, even, grid_eps), order)
    stored = knots.to(layer.basis.knots.dtype)
    apart = stored.diff(dim=0).amin(0) > 64 * torch.finfo(stored.dtype).eps * stored.abs().amax(0)
    _change_grid(layer, torch.where(apart, knots, _wide_copy(layer.basis).knots.t()), x)


# --- Grids, (knots, features) in float64 on the CPU -------------------------------------------------------------------


def _at(points: Tensor, intervals: int) -> Tensor:
    """`intervals + 1` points, interpolated at evenly spaced places in the order of the given ones."""
    places = torch.linspace(0, len(points) - 1, intervals + 1, dtype=torch.float64)
    below = places.floor().long()
    return torch.lerp(points[below], points[places.ceil().long()], (places - below)[:, None])


def _inner(knots: Tensor, order: int) -> Tensor:
    return knots[order : len(knots) - order]


def _continued(inner: Tensor, order: int) -> Tensor:
    """The grid with `order` intervals of its mean length on each side."""
    steps = (inner[-1] - inner[0]) / (len(inner) - 1) * torch.arange(1, order + 1, dtype=torch.float64)[:, None]
    return torch.cat([inner[0] - steps.flip(0), inner, inner[-1] + steps])


# --- The fit ----------------------------------------------------------------------------------------------------------


@torch.no_grad()
def _change_grid(layer: KANLinear, knots: Tensor, samples: Tensor) -> None:
    """Set the knots, and the coefficients that keep the functions on the samples; without any, on the whole grid."""
    old = _wide_copy(layer.basis)
    layer.basis.set_knots(knots.t())
    new = _wide_copy(layer.basis)
    coefficients = layer.coefficients.to("cpu", torch.float64)
    fitted = torch.einsum("ijk,oki->oji", _transfer(old, new, samples), coefficients).to(layer.weight)
    weight = fitted if layer.base is None else torch.cat([layer.weight[:, :1], fitted], 1)
    if weight.shape == layer.weight.shape:
        layer.weight.copy_(weight)
    else:
        layer.weight = nn.Parameter(weight, requires_grad=layer.weight.requires_grad)


def _transfer(old: Spline, new: Spline, samples: Tensor) -> Tensor:
    """For each feature the matrix from old coefficients to new ones, (features, new.num, old.num).

    It does not depend on the coefficients: the fits of all outputs share it.
    """
    inner, count = _inner(new.knots.t(), new.order), 2 * (new.order + 1)
    places = ((torch.arange(count, dtype=torch.float64) + 0.5) / count)[:, None]
    points = torch.lerp(inner[:-1, None], inner[1:, None], places).flatten(0, 1)
    weight = torch.ones(len(samples) + len(points), 1, 1, dtype=torch.float64)
    if len(samples):
        weight[len(samples) :] = ANCHOR * (len(samples) / len(points)) ** 0.5
    x = torch.cat([samples, points])
    size, matrices = max(1, LIMIT // (len(x) * (old.num + new.num))), []
    for start in range(0, old.features, size):
        part = slice(start, start + size)
        a, b = ((_wide_copy(basis, part).values(x[:, part]) * weight).permute(2, 0, 1) for basis in (new, old))
        matrices.append(torch.linalg.lstsq(a, b, driver="gelsy").solution)  # this driver takes any rank
    return torch.cat(matrices)


def _wide_copy(basis: Spline, features: slice = slice(None)) -> Spline:
    """The splines of some features, by default of all, in float64 on the CPU."""
    knots = basis.knots[features].to("cpu", torch.float64)
    part = Spline(len(knots), grid_size=basis.grid_size, order=basis.order, device="cpu", dtype=torch.float64)
    part.set_knots(knots)
    return part
