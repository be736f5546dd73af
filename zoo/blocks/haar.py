"""The Haar wavelet transform of a grid, one level at a time, and its inverse."""

import torch
from torch import Tensor, fx, nn

from zoo.blocks.conv import whole_squares


class Haar(nn.Module):
    """One level of the two-dimensional Haar transform: means of 2x2 positions, and three kinds of differences.

    It is an orthogonal map of each 2x2 positions, so that `inverse` gives back what came in, and nothing is learnt. The
    four bands lie one behind the other in the channels: the means, the differences of rows, those of columns, and those
    of both. Another level is the transform of the means.

    Shape: ``(B, H, W, C) -> (B, ceil(H / 2), ceil(W / 2), 4 C)``. A side that is odd gets zeros behind it.

    Example:
        >>> haar, x = Haar(), torch.arange(40.0).view(1, 5, 4, 2)
        >>> y = haar(x)
        >>> y.shape, torch.equal(haar.inverse(y, (5, 4)), x)
        (torch.Size([1, 3, 2, 8]), True)

    Source: Haar (1910); as pywt's ``db1`` and mode ``zero``, which Jeevan et al., "WaveMix" (arXiv 2205.14375) use.
    Differs: none known.
    Cost: no MACs by zoo's convention (additions alone).
    """

    def forward(self, x: Tensor) -> Tensor:
        return haar(x)

    def inverse(self, y: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """The grid of a transform, cut to a size (height, width)."""
        return inverse_haar(y, size)


@fx.wrap
def haar(x: Tensor) -> Tensor:
    """One level of the transform, ``(B, H, W, C) -> (B, ceil(H / 2), ceil(W / 2), 4 C)`` (see `Haar`)."""
    x = whole_squares(x, 2)
    left, right = x.unflatten(1, (-1, 2)).unflatten(3, (-1, 2)).unbind(4)
    bands = []
    for band in (left + right, left - right):
        top, bottom = band.unbind(2)
        bands += [top + bottom, top - bottom]
    return torch.cat(bands, dim=-1) * 0.5


@fx.wrap
def inverse_haar(y: Tensor, size: tuple[int, int] | None = None) -> Tensor:
    """What `haar` made this of, ``(B, h, w, 4 C) -> (B, 2 h, 2 w, C)``, cut to a size."""
    mean, rows, columns, both = (y * 0.5).chunk(4, dim=-1)
    pairs = []
    for low, high in ((mean + rows, columns + both), (mean - rows, columns - both)):
        pairs.append(torch.stack([low + high, low - high], dim=3).flatten(2, 3))
    x = torch.stack(pairs, dim=2).flatten(1, 2)
    return x if size is None else x[:, : size[0], : size[1]]
