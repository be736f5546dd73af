"""Group-wise rational functions with learnt coefficients, `GroupRational`, and the mixer of them, `gr_kan`."""

import functools
import math
from typing import Annotated

import torch
from torch import Tensor, nn

from zoo.blocks.kernels.rational import formula, rational
from zoo.blocks.kernels.symbolic import as_leaf, is_symbol
from zoo.blocks.linear import Linear, hidden_width, linear
from zoo.blocks.mixer import Mixer
from zoo.blocks.options import placement, pop_options_of, with_options_of
from zoo.checks import Known, checked
from zoo.checks.ranges import Count, Rate, Width
from zoo.slots import OfKind, SlotLike
from zoo.slots.table import register

GROUPS = 8

# Coefficients of the numerator and of the denominator, by the function that they are near to.
COEFFICIENTS = {
    "identity": ((0.0, 1.0, 0.0, 0.0, 0.0, 0.0), (0.0, 0.0, 0.0, 0.0)),
    "swish": (
        (
            3.054879741161051e-07,
            0.5000007853744493,
            0.24999783422824703,
            0.05326628273219478,
            0.005803034571292244,
            0.0002751961022402342,
        ),
        (-4.111554955950634e-06, 0.10652899335007572, -1.2690007399796238e-06, 0.0005502331264140556),
    ),
    "gelu": (
        (
            -0.0012423594497499122,
            0.5080497063245629,
            0.41586363182937475,
            0.13022718688035761,
            0.024355900098993424,
            0.00290283948155535,
        ),
        (-0.06675015696494944, 0.17927646217001553, 0.03746682605496631, 1.6561610853276082e-10),
    ),
    "tanh": (
        (
            -1.0804622559204184e-08,
            1.0003008043819048,
            -2.5878199375289335e-08,
            0.09632129918392647,
            3.4775841628196104e-09,
            0.0004255709234726337,
        ),
        (-0.0013027181209176277, 0.428349017422072, 1.4524304083061898e-09, 0.010796648111337176),
    ),
    "sigmoid": (
        (
            0.4999992534599381,
            0.25002157564685185,
            0.14061924500301096,
            0.049420492431596394,
            0.00876714851885483,
            0.0006442412789159799,
        ),
        (2.1694506382753683e-09, 0.28122766100417684, 1.0123620714203357e-05, 0.017531988049946),
    ),
}

RationalName = Annotated[str, Known(COEFFICIENTS)]


@checked
class GroupRational(nn.Module):
    """A learnt rational function of degrees 5 and 4 for each group of channels; the groups share the numerator.

    Args:
        dim: Number of channels.
        groups: Number of groups, a divisor of `dim`; by default the greatest common divisor of it and 8.
        init: The function to start from: ``identity`` exactly, or on [-3, 3] ``swish`` to 1.2e-6, ``sigmoid`` to
            1.9e-5, ``tanh`` to 4.1e-5, or ``gelu`` to 4.1e-3.

    Shape: ``(*, dim) -> (*, dim)``.

    Example:
        >>> GroupRational(16, init="identity")(torch.full((1, 16), -3.0)).unique()
        tensor([-3.], grad_fn=<Unique2Backward0>)

    Source: Yang and Wang, "Kolmogorov-Arnold Transformer" (arXiv 2409.10594), section 4.2; Adamdad/rational_kat_cu,
        src/rational_kernel_group.cu and kat_rational/init.json.
    Differs: ``gelu`` are the coefficients that the authors call ``gelu_old``; those that they call ``gelu`` were fitted
        with another denominator, and here they would be off by 1.5. Where powers overflow, and at infinity, the value
        is that at the edge (see `zoo.blocks.kernels.rational`); the authors' is not a number.
    Cost: 9 MACs an element; the division counts as none.
    Raises: ValueError if `dim` is not a multiple of the groups, or for an unknown `init`.
    """

    no_decay = ("numerator", "denominator")

    def __init__(
        self, dim: Width, *, groups: Count | None = None, init: RationalName = "swish", device=None, dtype=None
    ):
        super().__init__()
        groups = math.gcd(GROUPS, dim) if groups is None else groups
        if dim % groups:
            raise ValueError(f"{dim} channels cannot be cut into {groups} groups; give groups= a divisor of {dim}")
        self.init = init
        numerator, denominator = COEFFICIENTS[init]
        self.numerator = nn.Parameter(torch.empty(1, len(numerator), device=device, dtype=dtype))
        self.denominator = nn.Parameter(torch.empty(groups, len(denominator), device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        with torch.no_grad():
            for parameter, values in zip((self.numerator, self.denominator), COEFFICIENTS[self.init], strict=True):
                parameter.copy_(torch.tensor(values).expand_as(parameter))

    def forward(self, x: Tensor) -> Tensor:
        if is_symbol(x):
            return as_leaf(self, x)
        return rational(x, self.numerator, self.denominator)

    def extra_repr(self) -> str:
        return f"groups={self.denominator.shape[0]}, init={self.init!r}"


@functools.cache
def gain(init: str) -> float:
    """What a map's standard deviation has to be multiplied with behind a rational, to keep the variance.

    It is ``E[F(z)^2]^(-1/2)`` for z of a standard normal distribution.

    Example:
        >>> gain("identity"), round(gain("swish") ** 2, 3)
        (1.0, 2.811)
    """
    z = torch.linspace(-12, 12, 4097, dtype=torch.float64)  # the density is below 1e-31 at the ends
    density = torch.exp(-z.square() / 2)
    numerator, denominator = (torch.tensor([c], dtype=torch.float64) for c in COEFFICIENTS[init])
    values = formula(z.unsqueeze(1), numerator, denominator).squeeze(1)
    return round(float((values.square() * density).sum() / density.sum()) ** -0.5, 12)


def preserve_variance_(weight: Tensor, bias: Tensor | None, *, after: str) -> None:
    """Fill a map so that it keeps the variance of what a rational at its initialisation makes of normal inputs."""
    if bias is not None:
        nn.init.zeros_(bias)
    if not weight.is_meta:
        std = gain(after) * weight.shape[1] ** -0.5
        precise = torch.promote_types(torch.get_default_dtype(), torch.float32)
        with torch.no_grad():
            weight.copy_(torch.randn(weight.shape, device=weight.device, dtype=precise) * std)


@register("channel_mixer", "gr_kan")
class GRKAN(Mixer):
    """KAT's channel mixer: two linear maps, each behind a group-wise rational function.

    Args:
        ratio: Hidden width over `dim`; the hidden width is ``int(ratio * dim)``.
        hidden: Hidden width itself, instead of `ratio`.
        groups: Groups of each rational, a divisor of both widths; by default up to 8.
        rational: What the second rational starts from, an `init` of `GroupRational`; the first is the identity.
        bias: Bias on both maps.
        drop: Dropout after each rational.
        weights: ``variance_preserving``, or a scheme of `zoo.blocks.init`.

    Shape: ``(*, dim) -> (*, dim)``.

    Example:
        >>> GRKAN(16, ratio=2)(torch.randn(2, 3, 3, 16)).shape
        torch.Size([2, 3, 3, 16])

    Source: Yang and Wang, "Kolmogorov-Arnold Transformer" (arXiv 2409.10594), equation 11 and section 4.3;
        Adamdad/kat, katransformer.py.
    Differs: the gains of the variance-preserving initialisation are computed from the coefficients; the authors'
        constants are 0.2 % larger. Their models overwrite that initialisation; so does zoo's family `kat`.
    Cost: 2 x dim x hidden + 9 x (dim + hidden) MACs a position.
    Raises: ValueError for a hidden width below 1, groups that do not divide a width, or an unknown initialisation.
    """

    follows = ("drop",)

    @with_options_of(hidden_width, GroupRational, without=["init"])
    def __init__(
        self,
        dim: Width,
        *,
        rational: RationalName = "swish",
        bias: bool = True,
        drop: Rate = 0.0,
        weights: Annotated[SlotLike, OfKind("init", "variance_preserving")] = "variance_preserving",
        **options,
    ):
        super().__init__()
        hidden = hidden_width("gr_kan", dim, **pop_options_of(hidden_width, options))

        def layer(inputs: int, outputs: int, after: str) -> nn.Linear:
            preserving = functools.partial(preserve_variance_, after=after)
            init = preserving if weights == "variance_preserving" else weights
            return Linear(inputs, outputs, bias, init=init, **placement(options))

        self.act1 = GroupRational(dim, init="identity", **options)
        self.fc1 = layer(dim, hidden, "identity")
        self.act2 = GroupRational(hidden, init=rational, **options)
        self.fc2 = layer(hidden, dim, rational)
        self.drop = nn.Dropout(drop) if drop > 0 else None

    def forward(self, x: Tensor) -> Tensor:
        x = self.act1(x)
        x = linear(x if self.drop is None else self.drop(x), self.fc1)
        x = self.act2(x)
        return linear(x if self.drop is None else self.drop(x), self.fc2)
