"""Channel mixers of two Kolmogorov-Arnold layers, one for each basis."""

from collections.abc import Callable
from functools import partial
from typing import Literal

from torch import Tensor, nn

from zoo.blocks.kan.bases.wavelet import WAVELETS
from zoo.blocks.kan.linear import KANLinear
from zoo.blocks.linear import hidden_width
from zoo.checks.ranges import Degree, Frequencies, Functions, GridRange, GridSize, Order, Rate, Ratio, Spread, Width
from zoo.slots import SlotLike, build_block
from zoo.slots.table import register


class TwoLayers(nn.Module):
    """A layer to a hidden width, a norm, and a layer back.

    Its inputs come from the norm of a block and those of the second layer from `norm`, of unit variance both. So the
    bases cover [-2, 2] by default, where 95 % of normally distributed numbers are.

    Args:
        layer: Makes a layer from a number of inputs and one of outputs.
        ratio: Hidden width over `dim`; the hidden width is ``int(ratio * dim)``.
        hidden: Hidden width itself, instead of `ratio`.
        norm: Norm slot of the hidden layer; ``none`` for no norm.
        drop: Dropout before and after the second layer.

    Shape: ``(*, dim) -> (*, dim)``.
    Raises: ValueError for a hidden width below 1.
    """

    def __init__(
        self,
        dim: Width,
        layer: Callable[[int, int], nn.Module],
        *,
        ratio: Ratio,
        hidden: Width | None,
        norm: SlotLike,
        drop: Rate,
        device=None,
        dtype=None,
    ):
        super().__init__()
        hidden = hidden_width(type(self).__name__, dim, ratio, hidden)
        self.fc1 = layer(dim, hidden, device=device, dtype=dtype)
        self.norm = build_block("norm", norm, hidden, device=device, dtype=dtype)
        self.drop = nn.Dropout(drop) if drop > 0 else nn.Identity()
        self.fc2 = layer(hidden, dim, device=device, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        return self.drop(self.fc2(self.drop(self.norm(self.fc1(x)))))


@register("channel_mixer", "spline_kan")
class SplineKAN(TwoLayers):
    """Two layers with a B-spline on every edge.

    Args:
        grid_size, order, grid_range: Of the splines, see `zoo.blocks.kan.bases.spline.Spline`.
        base: Activation slot of the base function; None for what suits the basis, ``none`` for no base term.
        bias: Bias on both layers.
        ratio, hidden, norm, drop: See `TwoLayers`.

    Shape: ``(*, dim) -> (*, dim)``.

    Example:
        >>> import torch
        >>> SplineKAN(8, grid_size=4)(torch.randn(2, 3, 3, 8)).shape
        torch.Size([2, 3, 3, 8])

    Source: Liu et al., "KAN: Kolmogorov-Arnold Networks" (arXiv 2404.19756), equation 2.7.
    Differs: a norm between the layers, in place of grids that are moved to where the numbers are.
    Cost: 2 x dim x hidden x (grid_size + order + 1) + (dim + hidden) x order x (order + 1) MACs a position; without a
        base term one row less.
    Raises: ValueError for a hidden width below 1, or what the basis refuses.
    """

    follows = ("drop",)

    def __init__(
        self,
        dim: Width,
        *,
        grid_size: GridSize = 5,
        order: Order = 3,
        grid_range: GridRange = (-2.0, 2.0),
        base: SlotLike | None = None,
        bias: bool = True,
        ratio: Ratio = 0.5,
        hidden: Width | None = None,
        norm: SlotLike = "layernorm",
        drop: Rate = 0.0,
        device=None,
        dtype=None,
    ):
        layer = partial(
            KANLinear, basis="spline", grid_size=grid_size, order=order, grid_range=grid_range, base=base, bias=bias
        )
        super().__init__(dim, layer, ratio=ratio, hidden=hidden, norm=norm, drop=drop, device=device, dtype=dtype)


@register("channel_mixer", "rbf_kan")
class RbfKAN(TwoLayers):
    """Two layers with a sum of Gaussians on every edge.

    The other arguments are those of `SplineKAN`.

    Args:
        num, grid_range, width: Of the Gaussians, see `zoo.blocks.kan.bases.gaussian.Gaussian`.

    Shape: ``(*, dim) -> (*, dim)``.

    Example:
        >>> import torch
        >>> RbfKAN(8, num=5)(torch.randn(2, 3, 8)).shape
        torch.Size([2, 3, 8])

    Source: Li, "Kolmogorov-Arnold Networks are Radial Basis Function Networks" (arXiv 2405.06721); ZiyaoLi/fast-kan.
    Differs: the base term too is of the normed numbers, and the first norm is that of the block around the mixer.
    Cost: 2 x dim x hidden x (num + 1) + (dim + hidden) x num MACs a position; without a base term one row less.
    """

    follows = ("drop",)

    def __init__(
        self,
        dim: Width,
        *,
        num: Functions = 8,
        grid_range: GridRange = (-2.0, 2.0),
        width: Spread | None = None,
        base: SlotLike | None = None,
        bias: bool = True,
        ratio: Ratio = 0.5,
        hidden: Width | None = None,
        norm: SlotLike = "layernorm",
        drop: Rate = 0.0,
        device=None,
        dtype=None,
    ):
        layer = partial(KANLinear, basis="rbf", num=num, grid_range=grid_range, width=width, base=base, bias=bias)
        super().__init__(dim, layer, ratio=ratio, hidden=hidden, norm=norm, drop=drop, device=device, dtype=dtype)


@register("channel_mixer", "chebyshev_kan")
class ChebyshevKAN(TwoLayers):
    """Two layers with a Chebyshev polynomial of the squashed number on every edge.

    The other arguments are those of `SplineKAN`.

    Args:
        degree: Degree of the polynomials.
        bias: Bias on both layers; the polynomial of degree zero is one already.

    Shape: ``(*, dim) -> (*, dim)``.

    Example:
        >>> import torch
        >>> ChebyshevKAN(8, degree=3)(torch.randn(2, 3, 8)).shape
        torch.Size([2, 3, 8])

    Source: SS et al., "Chebyshev Polynomial-Based Kolmogorov-Arnold Networks" (arXiv 2405.07200);
        SynodicMonth/ChebyKAN.
    Differs: the norm stands between the layers and is the same in all mixers.
    Cost: 2 x dim x hidden x (degree + 1) + (dim + hidden) x (degree - 1) MACs a position.
    """

    follows = ("drop",)

    def __init__(
        self,
        dim: Width,
        *,
        degree: Degree = 4,
        base: SlotLike | None = None,
        bias: bool = False,
        ratio: Ratio = 0.5,
        hidden: Width | None = None,
        norm: SlotLike = "layernorm",
        drop: Rate = 0.0,
        device=None,
        dtype=None,
    ):
        layer = partial(KANLinear, basis="chebyshev", degree=degree, base=base, bias=bias)
        super().__init__(dim, layer, ratio=ratio, hidden=hidden, norm=norm, drop=drop, device=device, dtype=dtype)


@register("channel_mixer", "fourier_kan")
class FourierKAN(TwoLayers):
    """Two layers with a Fourier series on every edge.

    The other arguments are those of `SplineKAN`.

    Args:
        num_frequencies: Number of frequencies, each with a cosine and a sine; the period is 2 pi.

    Shape: ``(*, dim) -> (*, dim)``.

    Example:
        >>> import torch
        >>> FourierKAN(8, num_frequencies=3)(torch.randn(2, 3, 8)).shape
        torch.Size([2, 3, 8])

    Source: GistNoesis/FourierKAN.
    Differs: a norm between the layers.
    Cost: 4 x dim x hidden x num_frequencies + (dim + hidden) x 4 x (num_frequencies - 1) MACs a position.
    """

    follows = ("drop",)

    def __init__(
        self,
        dim: Width,
        *,
        num_frequencies: Frequencies = 5,
        base: SlotLike | None = None,
        bias: bool = True,
        ratio: Ratio = 0.5,
        hidden: Width | None = None,
        norm: SlotLike = "layernorm",
        drop: Rate = 0.0,
        device=None,
        dtype=None,
    ):
        layer = partial(KANLinear, basis="fourier", num_frequencies=num_frequencies, base=base, bias=bias)
        super().__init__(dim, layer, ratio=ratio, hidden=hidden, norm=norm, drop=drop, device=device, dtype=dtype)


@register("channel_mixer", "wavelet_kan")
class WaveletKAN(TwoLayers):
    """Two layers with a sum of wavelets on every edge, whose widths and places are trained.

    The other arguments are those of `SplineKAN`.

    Args:
        num, kind, grid_range: Of the wavelets, see `zoo.blocks.kan.bases.wavelet.Wavelet`.

    Shape: ``(*, dim) -> (*, dim)``.

    Example:
        >>> import torch
        >>> WaveletKAN(8, num=5, kind="morlet")(torch.randn(2, 3, 8)).shape
        torch.Size([2, 3, 8])

    Source: Bozorgasl, Chen, "Wav-KAN" (arXiv 2405.12832); zavareh1/Wav-KAN.
    Differs: see the basis; a layer norm between the layers in place of the batch norm behind each.
    Cost: 2 x dim x hidden x num + (dim + hidden) x 4 x num MACs a position, with 3 in place of 4 for ``dog``.
    """

    follows = ("drop",)

    def __init__(
        self,
        dim: Width,
        *,
        num: Functions = 8,
        kind: Literal[tuple(WAVELETS)] = "mexican_hat",
        grid_range: GridRange = (-2.0, 2.0),
        base: SlotLike | None = None,
        bias: bool = True,
        ratio: Ratio = 0.5,
        hidden: Width | None = None,
        norm: SlotLike = "layernorm",
        drop: Rate = 0.0,
        device=None,
        dtype=None,
    ):
        layer = partial(KANLinear, basis="wavelet", num=num, kind=kind, grid_range=grid_range, base=base, bias=bias)
        super().__init__(dim, layer, ratio=ratio, hidden=hidden, norm=norm, drop=drop, device=device, dtype=dtype)


@register("channel_mixer", "rational_kan")
class RationalKAN(TwoLayers):
    """Two layers with a rational function on every edge, whose denominators belong to the inputs.

    The other arguments are those of `SplineKAN`.

    Args:
        degrees, limit: Of the rational functions, see `zoo.blocks.kan.bases.rational.Rational`.

    Shape: ``(*, dim) -> (*, dim)``.

    Example:
        >>> import torch
        >>> RationalKAN(8, degrees=(3, 2))(torch.randn(2, 3, 8)).shape
        torch.Size([2, 3, 8])

    Source: the form of the functions is that of Yang, Wang, "Kolmogorov-Arnold Transformer" (arXiv 2409.10594).
    Differs: from that paper's mixer, which is `gr_kan`: here each edge has a numerator of its own.
    Cost: 2 x dim x hidden x (m + 1) + (dim + hidden) x (m + n) MACs a position for degrees (m, n).
    """

    follows = ("drop",)

    def __init__(
        self,
        dim: Width,
        *,
        degrees: tuple[Degree, Degree] = (5, 4),
        limit: Spread = 8.0,
        base: SlotLike | None = None,
        bias: bool = True,
        ratio: Ratio = 0.5,
        hidden: Width | None = None,
        norm: SlotLike = "layernorm",
        drop: Rate = 0.0,
        device=None,
        dtype=None,
    ):
        layer = partial(KANLinear, basis="rational", degrees=degrees, limit=limit, base=base, bias=bias)
        super().__init__(dim, layer, ratio=ratio, hidden=hidden, norm=norm, drop=drop, device=device, dtype=dtype)
