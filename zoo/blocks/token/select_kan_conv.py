"""S-ConvKAN's convolution, whose output channels choose the space of functions that their edges are made of."""

from functools import partial

from torch import Tensor, fx, nn

from zoo.blocks.base import Aux
from zoo.blocks.conv import as_image
from zoo.blocks.kan.bases.spaces import Bases, Spaces
from zoo.blocks.kan.select import SPACES, WIDE_SPACES, Gates, Selectable, names
from zoo.blocks.kernels.symbolic import as_leaf, is_symbol
from zoo.blocks.mixer import Mixer
from zoo.blocks.options import placement, with_options_of
from zoo.blocks.token.kan_conv import KANConv2d
from zoo.checks import checked
from zoo.checks.ranges import OddSide, Rate, Temperature, Width
from zoo.slots.table import register

fx.wrap("as_image")


@checked
class SelectKANConv2d(Selectable, KANConv2d):
    """A Kolmogorov-Arnold convolution whose output channels choose among several bases.

    See `zoo.blocks.kan.select.SelectKANLinear` for how to train it, and for what changes by `select`.

    Args:
        in_channels, out_channels: Number of channels.
        kernel_size: Side of the kernel, odd.
        bases, base, temperature, bias, scale: As for `SelectKANLinear`.
        stride: Distance of the windows.

    Shape: ``(B, H, W, in_channels) -> (B, ceil(H / stride), ceil(W / stride), out_channels)``.

    Example:
        >>> import torch
        >>> SelectKANConv2d(4, 6, 3, bases=("rbf", "fourier"))(torch.randn(2, 5, 4, 4)).shape
        torch.Size([2, 5, 4, 6])

    Source: Yang et al., "Activation Space Selectable Kolmogorov-Arnold Networks" (arXiv 2408.08338), S-ConvKAN; no
        official code.
    Differs: see `KANConv2d` and `SelectKANLinear`.
    Cost: that of `KANConv2d` with all functions in one basis; after `select` only what is used.
    Raises: ValueError for what `KANConv2d` or `SelectKANLinear` refuses.
    """

    @with_options_of(KANConv2d, without=["basis", "groups", "options"], base="silu")
    def __init__(self, *args, bases: Bases = SPACES, temperature: Temperature = 0.2, **options):
        super().__init__(*args, basis=partial(Spaces, bases=tuple(bases)), **options)
        self.gates = Gates(self.out_features, names(bases), temperature=temperature, **placement(options))

    def forward(self, x: Tensor) -> Tensor:
        if is_symbol(x):
            return as_leaf(self, x)
        y = self._by_space(lambda space: self._convolve(space, x, space.weight))
        return super().forward(x) if y is None else self._add_bias(y)


@register("token_mixer", "select_kan_conv")
class SelectKANConv(Mixer):
    """A Kolmogorov-Arnold convolution whose output channels choose among several bases.

    See `zoo.blocks.kan.select.SelectKANLinear` for how to train it. A sequence is an image of height 1. Returns
    ``(y, aux)`` with ``loss/selection`` and ``stat/selection``.

    Args:
        kernel_size: Side of the kernel, odd.
        bases, base, temperature: As for `SelectKANLinear`.
        bias: Whether there is a bias.
        drop: Dropout after the convolution.

    Shape: ``(B, *S, dim) -> (B, *S, dim)``, one or two position dimensions of any size, and the auxiliary outputs.

    Example:
        >>> import torch
        >>> y, aux = SelectKANConv(8, bases=("rbf", "fourier"))(torch.randn(2, 6, 9, 8))
        >>> y.shape, aux["stat/selection"]
        (torch.Size([2, 6, 9, 8]), tensor([0.5000, 0.5000]))

    Source: Yang et al., "Activation Space Selectable Kolmogorov-Arnold Networks" (arXiv 2408.08338), S-ConvKAN; no
        official code.
    Differs: see `SelectKANConv2d`.
    Cost: that of `SelectKANConv2d`.
    Raises: ValueError for what `SelectKANConv2d` refuses.
    """

    follows = ("drop",)

    has_aux = True

    @with_options_of(SelectKANConv2d, without=["stride", "scale"], bases=WIDE_SPACES, bias=True)
    def __init__(self, dim: Width, *, kernel_size: OddSide = 3, drop: Rate = 0.0, **options):
        super().__init__()
        self.conv = SelectKANConv2d(dim, dim, kernel_size, **options)
        self.drop = nn.Dropout(drop) if drop > 0 else nn.Identity()

    def forward(self, x: Tensor) -> tuple[Tensor, Aux]:
        if is_symbol(x):
            return as_leaf(self, x)
        y = self.conv(as_image(x)).reshape(x.shape)
        return self.drop(y), self.conv.gates.aux()
