"""Permuted-Kronecker mixing: the maps of MLP-Mixer as wide and sparse ones, between permutations of all its numbers."""

from typing import Literal

import torch
from torch import Tensor

from zoo.blocks.base import Aux
from zoo.blocks.channel.mlp import Mlp
from zoo.blocks.mixer import Mixer, trait
from zoo.blocks.options import placement, with_options_of
from zoo.checks.ranges import Grid, Width
from zoo.slots import SlotLike, build_block
from zoo.slots.table import register


@register("token_mixer", "permuted")
class Permuted(Mixer):
    """``J2 (I ⊗ f) J1 x``: all numbers of a sample permuted, cut into equal pieces that `f` maps, and permuted back.

    Of the ``S x C`` numbers of S positions and C channels, a piece has S, one a channel, or C, one a position. With
    MLP-Mixer's permutations the first is its token mixing and the second its channel mixing; with random ones a piece
    has its numbers from anywhere, and what `f` makes of it goes anywhere.

    Args:
        mixer: `f`, a channel mixer slot, built for the width of a piece.
        over: ``tokens``: C pieces of S numbers; ``channels``: S pieces of C.
        permutation: ``random``: two permutations, drawn when the mixer is initialised and saved with it; ``mixer``:
            those of MLP-Mixer, of which nothing is stored.
        act, drop, init: Of `mixer`, where it does not set its own.
        grid: Sizes of the position dimensions of the input.

    Shape: ``(B, *grid, dim) -> (B, *grid, dim)``, and the auxiliary outputs of `mixer`, if it has any.

    Example:
        >>> mixer = Permuted(16, grid=(3, 3))
        >>> mixer(torch.randn(2, 3, 3, 16)).shape, mixer.into.shape
        (torch.Size([2, 3, 3, 16]), torch.Size([144]))

    Source: Hayase, Karakida, "Understanding MLP-Mixer as a Wide and Sparse MLP" (arXiv 2306.01470), the PK family and
        the randomly permuted Mixer; no official code.
    Differs: the paper flattens by columns, here by rows, so that its I and J stand in each other's place. The hidden
        layer of `f` is not permuted.
    Cost: those of `mixer`, C times for ``tokens`` and S times for ``channels``; permutations have no MACs.
    Raises: ValueError as `mixer`.
    """

    follows = ("init", "act", "drop")

    needs_grid = True
    within = {"mixer": "mixer"}

    @with_options_of(Mlp, without=["ratio", "hidden", "bias", "fc2_bias"])
    def __init__(
        self,
        dim: Width,
        *,
        mixer: SlotLike = "mlp",
        over: Literal["tokens", "channels"] = "tokens",
        permutation: Literal["random", "mixer"] = "random",
        grid: Grid,
        **options,
    ):
        super().__init__()
        tokens, dd = torch.Size(grid).numel(), placement(options)
        self.over, self.random, self.shape = over, permutation == "random", (tokens, dim)
        width = tokens if over == "tokens" else dim
        self.mixer = build_block("channel_mixer", mixer, width, defaults=options, **dd)
        if self.mixer is None:
            raise ValueError("permuted has no mixer of its pieces; name a channel mixer, mixer='mlp' for instance")
        self.has_aux = trait(self.mixer, "has_aux")
        self.needs_grid = self.random or over == "tokens"
        for name in ("into", "back"):
            places = torch.empty(tokens * dim, dtype=torch.long, device=dd["device"]) if self.random else None
            self.register_buffer(name, places)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the two permutations."""
        for places in (self.into, self.back):
            if places is not None and not places.is_meta:
                places.copy_(torch.randperm(len(places)))

    @property
    def keywords(self) -> frozenset[str]:
        """Optional keywords that the mixer of the pieces declares."""
        return trait(self.mixer, "keywords")

    def forward(self, x: Tensor, **keywords) -> Tensor | tuple[Tensor, Aux]:
        shape = x.shape
        y = self.mixer(self._pieces(x), **keywords)
        y, aux = y if self.has_aux else (y, {})
        if self.random:
            y = y.flatten(1).index_select(1, self.back)
        elif self.over == "tokens":
            y = y.transpose(1, 2)
        y = y.reshape(shape)
        return (y, aux) if self.has_aux else y

    def _pieces(self, x: Tensor) -> Tensor:
        """``(B, *grid, dim) -> (B, pieces, width)``."""
        if self.random:
            pieces = self.shape[::-1] if self.over == "tokens" else self.shape
            return x.flatten(1).index_select(1, self.into).unflatten(1, pieces)
        x = x.flatten(1, -2)
        return x.transpose(1, 2) if self.over == "tokens" else x

    def matrix(self) -> Tensor:
        """What an affine mixer does to all numbers of a sample as one matrix, ``(S * C, S * C)``; a bias left out.

        It is mostly zeros, and equal numbers of the mixer's weights: ``J2 (I ⊗ W) J1``.
        """
        weight = next(self.mixer.parameters())
        basis = torch.eye(torch.Size(self.shape).numel(), device=weight.device, dtype=weight.dtype)
        y = self(torch.cat([torch.zeros_like(basis[:1]), basis]).unflatten(1, self.shape)).flatten(1)
        return (y[1:] - y[:1]).t()

    def set_grid(self, grid: tuple[int, ...]) -> None:
        """Refuse another grid: a permutation, or the width of a piece, is made for one.

        Raises:
            ValueError: Always, but for pieces of channels in MLP-Mixer's order.
        """
        if self.needs_grid:
            made = "a permutation of" if self.random else "pieces of"
            raise ValueError(
                f"permuted has {made} {self.shape[0]} positions and cannot be moved to the grid {tuple(grid)}; create "
                "the model with that img_size, or take token_mlp, which can be resampled"
            )
        self.shape = (torch.Size(grid).numel(), self.shape[1])

    def extra_repr(self) -> str:
        return f"over={self.over!r}, permutation={('random' if self.random else 'mixer')!r}"
