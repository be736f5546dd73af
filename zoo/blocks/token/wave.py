"""WaveMix's token mixer: perceptrons on the bands of a wavelet transform, level by level."""

from typing import Annotated

import torch
from torch import Tensor, fx, nn

from zoo.blocks.conv import as_image, batchnorm_affine, conv_nhwc, whole_squares
from zoo.blocks.haar import haar
from zoo.blocks.init import init_
from zoo.blocks.kernels.transposed import enlarge
from zoo.blocks.linear import Linear, hidden_width, linear, linear_act
from zoo.blocks.mixer import Mixer
from zoo.blocks.options import placement, pop_options_of, with_options_of
from zoo.checks.ranges import Rate, Size, Width
from zoo.slots import SlotLike, build_act
from zoo.slots.table import register

for _name in ("as_image", "haar", "whole_squares"):
    fx.wrap(_name)

Levels = Annotated[int, Size(1, 16)]


@register("token_mixer", "wave")
class Wave(Mixer):
    """The Haar transform of fewer channels at several levels; each level is mapped, enlarged, and joins the one below.

    A quarter of the channels is transformed. From the deepest level up, a perceptron sees the four bands of a level and
    what came from below, and a transposed convolution doubles the grid; a batch norm follows, which `reparameterize`
    merges into it.

    Args:
        levels: Levels of the transform; each halves the grid.
        ratio: Hidden width of the perceptrons over `dim`; it is ``int(ratio * dim)``.
        hidden: Hidden width itself, instead of `ratio`.
        act: An activation slot.
        drop: Dropout after the activation.
        init: A scheme of `zoo.blocks.init`.

    Shape: ``(B, *S, dim) -> (B, *S, dim)``, one or two position dimensions of any size; a sequence is an image of
        height 1.

    Example:
        >>> mixer = Wave(8, levels=2).eval()
        >>> x = torch.randn(2, 8, 12, 8)
        >>> y = mixer(x)
        >>> mixer.reparameterize()
        >>> torch.allclose(mixer(x), y, atol=1e-6), mixer(x[:, :5, :7]).shape
        (True, torch.Size([2, 5, 7, 8]))

    Source: Jeevan et al., "WaveMix" (arXiv 2205.14375); pranavphoenix/WaveMix, wavemix/__init__.py.
    Differs: sides that are no multiples of ``2 ** levels`` get zeros behind them; the authors' code refuses them. The
        bands lie one behind the other in the channels, those of the authors' checkpoints are sorted so.
    Cost: a position of the input, with h = ``ratio * dim``: dim x dim / 4 MACs, and for level j of L 4^-j times
        h x (2.5 dim, or 2 dim for j = L) + 16 x dim x (dim, or dim / 2 for j > 1).
    Raises: ValueError for a hidden width below 1.
    """

    follows = ("init", "act", "drop")
    cuts_grid = True

    @with_options_of(hidden_width, Linear, without=["bias"], ratio=2.0)
    def __init__(self, dim: Width, *, levels: Levels = 3, act: SlotLike = "gelu", drop: Rate = 0.0, **options):
        super().__init__()
        hidden = hidden_width("wave", dim, **pop_options_of(hidden_width, options))
        self.band, half = max(1, dim // 4), max(1, dim // 2)
        self.deployed = False
        self.reduction = Linear(dim, self.band, **options)
        self.levels = nn.ModuleList()
        for level in range(levels):
            below = 0 if level == levels - 1 else half
            widths = (4 * self.band + below, hidden, dim, half if level else dim)
            self.levels.append(Enlarging(widths, act=act, drop=drop, **options))

    def forward(self, x: Tensor) -> Tensor:
        image = as_image(x)
        low = whole_squares(linear(image, self.reduction), 2 ** len(self.levels))
        bands = []
        for _ in self.levels:
            bands.append(haar(low))
            low = bands[-1][..., : self.band]
        y = None
        for level in reversed(self.levels):
            y = level(bands.pop() if y is None else torch.cat([bands.pop(), y], dim=-1))
        return cut(y, x)

    @torch.no_grad()
    def reparameterize(self) -> None:
        """Merge the batch norms into the transposed convolutions, in place, from their running statistics."""
        if not self.deployed:
            for level in self.levels:
                level.merge()
        self.deployed = True


class Enlarging(nn.Module):
    """A perceptron, a transposed convolution that doubles the grid, and a batch norm.

    Args:
        widths: Channels of the input, of the hidden layer, of what is convolved, and of the result.
        act, drop, init: As in `Wave`.

    Shape: ``(B, H, W, widths[0]) -> (B, 2 H, 2 W, widths[3])``.
    """

    @with_options_of(Linear, without=["bias"])
    def __init__(self, widths: tuple[int, int, int, int], *, act: SlotLike, drop: float, **options):
        super().__init__()
        dd, self.init = placement(options), options["init"]
        self.fc1 = Linear(widths[0], widths[1], **options)
        self.act = build_act(act, **dd)
        self.drop = nn.Dropout(drop) if drop > 0 else None
        self.fc2 = Linear(widths[1], widths[2], **options)
        self.up = nn.ConvTranspose2d(widths[2], widths[3], 4, 2, 1, **dd)
        self.norm = nn.BatchNorm2d(widths[3], **dd)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the convolution by the scheme; the others draw themselves."""
        init_(self.up.weight, self.up.bias, self.init)

    def forward(self, x: Tensor) -> Tensor:
        x = linear_act(x, self.fc1, self.act)
        x = linear(x if self.drop is None else self.drop(x), self.fc2)
        return conv_nhwc(self._enlarge, x)

    def _enlarge(self, image: Tensor) -> Tensor:
        y = enlarge(self.up, image)
        return y if self.norm is None else self.norm(y)

    def merge(self) -> None:
        """Take the batch norm into the convolution."""
        (scale,), (shift,) = batchnorm_affine([self.norm], torch.float64)
        weight, bias = self.up.weight, self.up.bias
        merged = weight.double() * scale[:, None, None], torch.addcmul(shift, bias.double(), scale)
        for old, new in zip((weight, bias), merged, strict=True):
            old.copy_(new)
        self.norm = None


@fx.wrap
def cut(image: Tensor, x: Tensor) -> Tensor:
    """An image without what lies behind the sides of ``x``, in its shape."""
    height, width = as_image(x).shape[1:3]
    return image[:, :height, :width].reshape(x.shape)
