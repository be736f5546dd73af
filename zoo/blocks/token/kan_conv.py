"""KANConv2d: a convolution with a learnt function on every edge; and the token mixer of it."""

from torch import Tensor, fx, nn
from torch.nn import functional as F

from zoo.blocks.conv import as_image
from zoo.blocks.kan.linear import Edges, product_precision
from zoo.blocks.kan.select import WIDE_SPACES
from zoo.blocks.kernels.functions import evaluate
from zoo.blocks.kernels.symbolic import as_leaf, is_symbol
from zoo.blocks.mixer import Mixer
from zoo.blocks.options import with_options_of
from zoo.checks import checked
from zoo.checks.ranges import Count, OddSide, Rate, Side, Width
from zoo.slots.table import register

fx.wrap("as_image")


@checked
class KANConv2d(Edges, nn.Module):
    """A Kolmogorov-Arnold convolution: each output is a sum of learnt functions, one of each number in its window.

    The functions are evaluated once a pixel and channel, and a plain convolution over all of them does the sums. It is
    the functions that are zero outside of the image, so that a window at the border has fewer terms; a function of a
    zero is something else.

    Args:
        in_channels, out_channels: Number of channels; both divisible by `groups`.
        kernel_size: Side of the kernel, odd.
        basis, base, bias, scale, options: As for `zoo.blocks.kan.linear.KANLinear`.
        stride: Distance of the windows.
        groups: The channels are cut into so many groups, and each is convolved by itself.

    Shape: ``(B, H, W, in_channels) -> (B, ceil(H / stride), ceil(W / stride), out_channels)``.

    Example:
        >>> import torch
        >>> KANConv2d(4, 6, 3, basis="rbf", num=5, stride=2)(torch.randn(2, 5, 4, 4)).shape
        torch.Size([2, 3, 2, 6])

    Source: Bodner et al., "Convolutional Kolmogorov-Arnold Networks" (arXiv 2406.13155);
        AntonioTepsich/Convolutional-KANs.
    Differs: there the image is padded with zeros, of which functions are taken; every basis, not only splines.
    Cost: rows x in_channels / groups x kernel_size x kernel_size x out_channels MACs an output position, with a row a
        basis function and one for the base term; and what the basis costs, for each input. In training the functions
        are kept: rows times the memory of the input.
    Raises: ValueError for an even kernel, channels that the groups do not divide, an input of another width or
        precision, or a basis or option that is unknown.
    """

    plain = "torch.nn.Conv2d"

    @with_options_of(Edges._make_edges)
    def __init__(
        self,
        in_channels: Width,
        out_channels: Width,
        kernel_size: OddSide,
        *,
        stride: Side = 1,
        groups: Count = 1,
        **edges,
    ):
        super().__init__()
        if in_channels % groups or out_channels % groups:
            raise ValueError(
                f"KANConv2d has {in_channels} and {out_channels} channels in {groups} groups; groups must divide both"
            )
        self.in_features, self.out_features, self.kernel_size = in_channels, out_channels, kernel_size
        self.stride, self.groups = stride, groups
        self._make_edges((out_channels, in_channels // groups, kernel_size, kernel_size), **edges)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weights anew; the basis looks after its own."""
        self._draw()

    def edge_weight(self) -> Tensor:
        """`weight` as the forward pass uses it."""
        return self.weight

    def _apply(self, fn, recurse: bool = True):
        """Show the weight in the shape of a convolution's: of five dimensions `Module.to` takes it for one in space."""

        def shown(tensor: Tensor) -> Tensor:
            return fn(tensor) if tensor.ndim != 5 else fn(tensor.flatten(1, 2)).unflatten(1, tensor.shape[1:3])

        return super()._apply(shown, recurse)

    def forward(self, x: Tensor) -> Tensor:
        if is_symbol(x):
            return as_leaf(self, x)
        return self._add_bias(self._convolve(self, x, self.edge_weight()))

    def _add_bias(self, y: Tensor) -> Tensor:
        return y if self.bias is None else y + self.bias.to(y.dtype)

    def _convolve(self, edges: Edges, x: Tensor, weight: Tensor) -> Tensor:
        """The convolution of the functions that `edges` has by some weight."""
        if x.ndim != 4 or x.shape[-1] != self.in_features:
            raise ValueError(f"{type(self).__name__} takes (B, H, W, {self.in_features}), got {tuple(x.shape)}")
        precision = product_precision(type(self).__name__, x, weight)
        functions = evaluate(edges, x, precision)
        if self.groups > 1:  # torch's convolution wants the channels of a group side by side
            functions = functions.unflatten(-1, (self.groups, -1)).movedim(-2, -3)
        y = F.conv2d(
            functions.flatten(3).permute(0, 3, 1, 2),  # channels_last memory
            weight.flatten(1, 2).to(precision),
            stride=self.stride,
            padding=self.kernel_size // 2,
            groups=self.groups,
        )
        return y.permute(0, 2, 3, 1)

    def extra_repr(self) -> str:
        return (
            f"{self.in_features}, {self.out_features}, kernel_size={self.kernel_size}, stride={self.stride}, "
            f"groups={self.groups}, bias={self.bias is not None}"
        )


@register("token_mixer", "kan_conv")
class KANConv(Mixer):
    """A Kolmogorov-Arnold convolution of all channels. A sequence is an image of height 1.

    Its inputs come from the norm of a block, and the default basis covers [-2, 2], where 95 % of normally distributed
    numbers are.

    Args:
        kernel_size: Side of the kernel, odd.
        basis: A slot of `zoo.list_blocks("basis")`.
        base: Activation slot of the base function; None for what suits the basis, ``none`` for no base term.
        groups: Groups of channels that are convolved by themselves.
        bias: Whether there is a bias.
        drop: Dropout after the convolution.

    Shape: ``(B, *S, dim) -> (B, *S, dim)``, one or two position dimensions of any size.

    Example:
        >>> import torch
        >>> KANConv(8, basis="fourier(num_frequencies=3)")(torch.randn(2, 6, 9, 8)).shape
        torch.Size([2, 6, 9, 8])

    Source: Bodner et al., "Convolutional Kolmogorov-Arnold Networks" (arXiv 2406.13155).
    Differs: see `KANConv2d`.
    Cost: rows x dim x dim / groups x kernel_size x kernel_size MACs a position, with a row a basis function and one for
        the base term; and what the basis costs, for each number.
    Raises: ValueError for what `KANConv2d` refuses.
    """

    follows = ("drop",)

    @with_options_of(KANConv2d, without=["stride", "scale", "options"], basis=WIDE_SPACES[0], bias=True)
    def __init__(self, dim: Width, *, kernel_size: OddSide = 3, drop: Rate = 0.0, **options):
        super().__init__()
        self.conv = KANConv2d(dim, dim, kernel_size, **options)
        self.drop = nn.Dropout(drop) if drop > 0 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.drop(self.conv(as_image(x)).reshape(x.shape))
