"""Two Kolmogorov-Arnold layers of any basis as a channel mixer, `kan`, and its names for single bases."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from zoo.blocks.kan.bases.base import Basis
from zoo.blocks.kan.bases.chebyshev import Chebyshev
from zoo.blocks.kan.bases.fourier import Fourier
from zoo.blocks.kan.bases.gaussian import Gaussian
from zoo.blocks.kan.bases.rational import Rational
from zoo.blocks.kan.bases.spline import Spline
from zoo.blocks.kan.bases.wavelet import Wavelet
from zoo.blocks.kan.linear import KANLinear
from zoo.blocks.kan.select import WIDE_SPACES
from zoo.blocks.kan.two_layers import TwoLayers
from zoo.blocks.options import pop_options_of, with_options_of
from zoo.checks.ranges import Width
from zoo.slots import Slot, SlotLike
from zoo.slots.table import register


@register("channel_mixer", "kan")
class KAN(TwoLayers):
    """Two Kolmogorov-Arnold layers of any basis, with a norm between them.

    Its inputs come from the norm of a block and those of the second layer from `norm`, of unit variance both. So the
    default basis covers [-2, 2], where 95 % of normally distributed numbers are. A basis that is named covers the range
    that it has by default: ``spline(grid_size=8)`` is over [-1, 1].

    Args:
        basis: A slot of `zoo.list_blocks("basis")`.
        base: Activation slot of the base function; None for what suits the basis, ``none`` for no base term.
        bias: Bias on both layers.
        ratio: Hidden width over `dim`; the hidden width is ``int(ratio * dim)``.
        hidden: Hidden width itself, instead of `ratio`.
        norm: Norm slot of the hidden layer; ``none`` for no norm.
        drop: Dropout before and after the second layer.

    Shape: ``(*, dim) -> (*, dim)``.

    Example:
        >>> import torch
        >>> KAN(8, basis="fourier(num_frequencies=3)")(torch.randn(2, 3, 3, 8)).shape
        torch.Size([2, 3, 3, 8])

    Source: Liu et al., "KAN: Kolmogorov-Arnold Networks" (arXiv 2404.19756), equation 2.7; the basis has its own.
    Differs: a norm between the layers, in place of grids that are moved to where the numbers are.
    Cost: 2 x dim x hidden x rows MACs a position, with a row a function of the basis and one for the base term; and
        dim + hidden times what the basis costs a number.
    Raises: ValueError for a hidden width below 1, or what the basis refuses.
    """

    @with_options_of(KANLinear, TwoLayers, without=["scale", "options"], bias=True)
    def __init__(self, dim: Width, *, basis: SlotLike = WIDE_SPACES[0], **options):
        super().__init__(dim, partial(KANLinear, basis=basis, **pop_options_of(KANLinear, options)), **options)


@dataclass(frozen=True)
class Alias:
    """A name for `kan` with one basis, whose options are the mixer's own: ``rbf_kan(num=5)``.

    Args:
        class_name: Name of the class.
        basis: Name of the basis.
        functions: Its class.
        about: What the mixer is, in one sentence.
        example: Options in the example of its documentation.
        differs: How it differs from where it comes from, beside what its basis says.
        defaults: Defaults that are others than those of the basis and of `KAN`.
    """

    class_name: str
    basis: str
    functions: type[Basis]
    about: str
    example: str
    differs: str = "a norm between the layers"
    defaults: Mapping[str, Any] = field(default_factory=dict)


ALIASES = {
    "spline_kan": Alias(
        *("SplineKAN", "spline", Spline, "Two layers with a B-spline on every edge.", "grid_size=4"),
        "a norm between the layers, in place of grids that are moved to where the numbers are",
        defaults={"grid_range": (-2.0, 2.0)},
    ),
    "rbf_kan": Alias(
        *("RbfKAN", "rbf", Gaussian, "Two layers with a sum of Gaussians on every edge.", "num=5"),
        "the base term too is of the normed numbers, and the first norm is that of the block around the mixer",
    ),
    "chebyshev_kan": Alias(
        *("ChebyshevKAN", "chebyshev", Chebyshev),
        "Two layers with a Chebyshev polynomial of the squashed number on every edge.",
        "degree=3",
        "the norm stands between the layers and is the same in all mixers",
        defaults={"bias": False},  # the polynomial of degree zero is one already
    ),
    "fourier_kan": Alias(
        *("FourierKAN", "fourier", Fourier, "Two layers with a Fourier series on every edge.", "num_frequencies=3")
    ),
    "wavelet_kan": Alias(
        *("WaveletKAN", "wavelet", Wavelet),
        "Two layers with a sum of wavelets on every edge, whose widths and places are trained.",
        "num=5, kind='morlet'",
        "a layer norm between the layers in place of the batch norm behind each",
    ),
    "rational_kan": Alias(
        *("RationalKAN", "rational", Rational),
        "Two layers with a rational function on every edge, whose denominators belong to the inputs.",
        "degrees=(3, 2)",
        "from the mixer of the paper, which is `gr_kan`: here each edge has a numerator of its own",
    ),
}


def _class_of(alias: Alias) -> type[KAN]:
    """The mixer of an alias: `KAN` with the options of the basis in the place of `basis`."""

    @with_options_of(alias.functions, KAN, without=["basis"], **alias.defaults)
    def __init__(self, dim: Width, **options):
        basis = Slot(alias.basis, pop_options_of(alias.functions, options))
        KAN.__init__(self, dim, basis=basis, **options)

    basis = f"{alias.functions.__module__}.{alias.functions.__name__}"
    doc = f"""{alias.about}

    The options are those of `{basis}` and of `KAN`.

    Shape: ``(*, dim) -> (*, dim)``.

    Example:
        >>> import torch
        >>> {alias.class_name}(8, {alias.example})(torch.randn(2, 3, 8)).shape
        torch.Size([2, 3, 8])

    Source: that of `{basis}`.
    Differs: {alias.differs}; and as the basis does.
    Cost: that of `KAN`.
    Raises: ValueError for a hidden width below 1, or what the basis refuses.
    """
    members = {"__init__": __init__, "__doc__": doc, "__module__": __name__, "__qualname__": alias.class_name}
    return type(alias.class_name, (KAN,), members)


globals().update({a.class_name: register("channel_mixer", name)(_class_of(a)) for name, a in ALIASES.items()})
