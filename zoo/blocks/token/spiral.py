"""SpiralMLP's token mixer: each channel is seen from another place, and the places lie on a spiral."""

import math
from collections import OrderedDict
from typing import Annotated

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from zoo.blocks.conv import as_image
from zoo.blocks.linear import Linear, linear
from zoo.blocks.mixer import Mixer
from zoo.blocks.options import placement, with_options_of
from zoo.checks.ranges import Rate, Side, Size, Width
from zoo.slots import SlotLike, build_act
from zoo.slots.table import register

Distance = Annotated[int, Size(1, 1023)]  # in positions


@register("token_mixer", "spiral")
class Spiral(Mixer):
    """Two linear maps, of each position and of channels that come from around it, merged by weights of the image.

    The channels of the second map are moved: channel by channel along a spiral that leaves the position, turns around
    it and comes back. One turn over half of the channels, the other half goes the same way again. What lies outside of
    the grid is zero. How much of each map a channel takes, a small perceptron says from the mean over the positions.

    Args:
        amplitude: How far the spiral goes from the position.
        period: After how many channels it has gone around once.
        between: Take places between positions too, by interpolation: four times the look-ups. The spiral has none, but
            a checkpoint may; their fractions are cut off otherwise.
        act: An activation slot, within the small perceptron.
        drop: Dropout on the perceptron's outputs and after the last map.
        init: A scheme of `zoo.blocks.init`.

    Shape: ``(B, *S, dim) -> (B, *S, dim)``, one or two position dimensions of any size; a sequence is an image of
        height 1.

    Example:
        >>> mixer = Spiral(64)
        >>> mixer(torch.randn(2, 6, 9, 64)).shape, mixer.offset[[0, 4, 8, 16]].tolist()
        (torch.Size([2, 6, 9, 64]), [[0.0, 0.0], [1.0, 1.0], [0.0, 4.0], [-7.0, 0.0]])

    Source: Mu et al., "SpiralMLP" (arXiv 2404.00648); mmcandlee/spiralmlp, classification/model.py.
    Differs: the authors' code leaves the places of half of the channels as uninitialised memory, and saves them; here
        the second half repeats the first, as the loop that should have filled it does. Of a checkpoint ``offset`` is
        loaded as it is: what is farther away than `amplitude` is zero everywhere. The paper's own formula has smaller
        numbers than the code. A softmax over two is a sigmoid of their difference.
    Cost: 3 x dim x dim MACs a position, and 0.75 x dim x dim a sample.
    Raises: nothing of its own.
    """

    follows = ("init", "act", "drop")

    @with_options_of(Linear, without=["bias"])
    def __init__(
        self,
        dim: Width,
        *,
        amplitude: Distance = 7,
        period: Side = 32,
        between: bool = False,
        act: SlotLike = "gelu",
        drop: Rate = 0.0,
        **options,
    ):
        super().__init__()
        dd, hidden = placement(options), max(1, dim // 4)
        self.amplitude, self.period, self.between = amplitude, period, between
        self.fc_self = Linear(dim, dim, **options)
        self.fc_cross = Linear(dim, dim, **options)
        self.register_buffer("offset", torch.empty(dim, 2, **dd))  # down and across, whole numbers
        self.reweight = nn.Sequential(
            OrderedDict(
                fc1=Linear(dim, hidden, **options), act=build_act(act, **dd), fc2=Linear(hidden, 2 * dim, **options)
            )
        )
        self.drop = nn.Dropout(drop) if drop > 0 else None
        self.proj = Linear(dim, dim, **options)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Lay the spiral; the maps initialise themselves."""
        places = spiral(len(self.offset), self.amplitude, self.period)
        self.offset.copy_(torch.tensor(places, dtype=torch.float32))

    def forward(self, x: Tensor) -> Tensor:
        own = linear(x, self.fc_self).flatten(1, -2)
        around = linear(moved(x, self.offset, self.amplitude, self.between), self.fc_cross).flatten(1, -2)
        scores = self.reweight((around + own).mean(1, keepdim=True))
        if self.drop is not None:
            scores = self.drop(scores)
        first, second = scores.unflatten(-1, (-1, 2)).unbind(-1)
        y = torch.addcmul(own, (first - second).sigmoid(), around - own)
        y = linear(y, self.proj).view(x.shape)
        return y if self.drop is None else self.drop(y)

    def extra_repr(self) -> str:
        return f"amplitude={self.amplitude}, period={self.period}, between={self.between}"


def spiral(channels: int, amplitude: int, period: int) -> list[tuple[int, int]]:
    """Where each channel comes from: (down, across), from 0 out to the amplitude and back, twice.

    Example:
        >>> spiral(4, 2, 4)
        [(0, 0), (0, 2), (0, 0), (0, 2)]
    """
    half = (channels + 1) // 2
    places = []
    for i in range(half):
        radius = i * (2 * amplitude / half)
        radius = radius if i <= half // 2 else 2 * amplitude - radius
        angle = 2 * math.pi * i / period
        places.append((round(radius * math.cos(angle)), round(radius * math.sin(angle))))
    return (places + places)[:channels]


@fx.wrap
def moved(x: Tensor, offset: Tensor, reach: int, between: bool = False) -> Tensor:
    """Each channel as it is at another place; zero outside of the grid, and where that is farther than `reach`.

    A deformable convolution does that too, by interpolation; whole places are one look-up. An image is one row of
    numbers there, so that the same are looked up in all.

    Args:
        x: The grid.
        offset: Of each channel, places down and across, ``(C, 2)``.
        reach: The farthest in each direction.
        between: Interpolate where a place is not whole; its fraction is cut off otherwise.

    Shape: ``(B, *S, C) -> (B, *S, C)``.
    """
    image = as_image(x)
    height, width, channels = image.shape[1:]
    margin = reach + between
    rows = F.pad(image, (0, 0, margin, margin, margin, margin)).flatten(1)
    across = width + 2 * margin
    down, right = (margin + torch.arange(side, device=x.device) for side in (height, width))
    place = (down[:, None] * across + right).flatten()[:, None] * channels
    near = offset.square() < (reach + 1) ** 2  # false for NaN too
    near = (near[:, :1] * near[:, 1:]).long()
    offset = offset.where(near.bool(), 0)
    channel = torch.arange(channels, device=x.device)

    def look_up(steps: Tensor) -> Tensor:
        down, right = steps.long().unbind(-1)
        # What is far off looks up the first place, or one beside it: they lie in the margin.
        index = torch.addcmul((down * across + right) * channels + channel, place, near[:, 0])
        return rows.index_select(1, index.flatten()).view(x.shape)

    if not between:
        return look_up(offset)
    low = offset.floor() * near
    part = offset - low
    y = torch.zeros_like(x)
    for corner in ((0, 0), (0, 1), (1, 0), (1, 1)):
        corner = offset.new_tensor(corner) * near
        weight = 1 - corner + (2 * corner - 1) * part  # of each direction
        y = torch.addcmul(y, look_up(low + corner), weight[:, 0] * weight[:, 1])
    return y
