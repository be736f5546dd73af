"""How wide MLP-Mixer is, seen as the perceptron with sparse weights that it equals, and how to make it wider."""

import math
from dataclasses import dataclass

from zoo.checks import checked
from zoo.checks.ranges import Count, Ratio, Width


@checked
@dataclass(frozen=True)
class MixingSize:
    """The size of MLP-Mixer's two mixings: positions, channels, and hidden features for each of either.

    Written as maps of all numbers of a sample at once, its layers are a perceptron of width ``tokens x dim`` whose
    matrices are mostly zeros: `connections` of a matrix are not. The same weight stands in many places of it.

    Args:
        tokens: Number of positions, S.
        dim: Number of channels, C.
        ratio: Hidden features of a mixing over its inputs, γ.

    Example:
        >>> size = MixingSize(196, 768)
        >>> size.width, f"{size.density:.2%}"
        (150528, '0.32%')

    Source: Hayase, Karakida, "Understanding MLP-Mixer as a Wide and Sparse MLP" (arXiv 2306.01470): m = SC, and
        Ω = γ (C S² + S C²) / 2 on average over the layers.
    """

    tokens: Count
    dim: Width
    ratio: Ratio = 4.0

    @property
    def width(self) -> int:
        """The effective width, m: numbers of a sample in a layer that is not hidden."""
        return self.tokens * self.dim

    @property
    def connections(self) -> float:
        """Entries of a layer's matrix that are not zero, on average over the layers of both mixings, Ω."""
        return self.ratio * self.width * (self.tokens + self.dim) / 2

    @property
    def density(self) -> float:
        """Their share of a matrix between the width and the hidden layer."""
        return self.connections / (self.ratio * self.width**2)

    @property
    def weights(self) -> float:
        """Weights of a block that are trained, without biases: each has many connections."""
        return 2 * self.ratio * (self.tokens**2 + self.dim**2)


def size_at(connections: float, tokens: int, ratio: float = 4.0) -> MixingSize:
    """The number of channels that gives so many positions the connections that are asked for, as near as can be.

    Example:
        >>> [size_at(131072, tokens, ratio=4).dim for tokens in (4, 32, 64)]
        [126, 32, 13]

    Raises:
        ValueError: Even one channel has more.
    """
    channels = (math.sqrt(tokens**2 + 8 * connections / (ratio * tokens)) - tokens) / 2
    if channels < 0.5:
        least = MixingSize(tokens, 1, ratio).connections
        raise ValueError(
            f"{connections:,.0f} connections are below the {least:,.0f} of {tokens} positions with one channel; ask "
            "for more, or for fewer positions"
        )
    return MixingSize(tokens, max(1, round(channels)), ratio)


def widest(connections: float, ratio: float = 4.0) -> MixingSize:
    """The size of so many connections that is the widest: as many channels as positions, the cube root of Ω / γ.

    Example:
        >>> size = widest(131072, ratio=4)
        >>> size.tokens, size.dim, size.width
        (32, 32, 1024)
    """
    return size_at(connections, max(1, round((connections / ratio) ** (1 / 3))), ratio)
