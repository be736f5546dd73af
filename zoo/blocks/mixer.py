"""The protocol of mixers: what one is given, and what it may declare, each with its default.

A module from elsewhere need not derive from `Mixer`: what it does not declare has the default, which `trait` gives.
"""

from collections.abc import Callable
from typing import Any

from torch import nn


class Mixer(nn.Module):
    """A token mixer, ``(B, *S, C) -> (B, *S, C)``, or a channel mixer, ``(*, C) -> (*, C)``.

    It is built with the number of channels, its options, ``device`` and ``dtype``; a token mixer that has a parameter
    ``grid`` gets the grid too. It may declare:

    Attributes:
        follows: Those of its options for which the model's own value is the default: ``init``, ``act``, ``drop``,
            ``attn_drop``.
        keywords: Optional keywords of its forward pass. A keyword given to a model reaches the mixers that declare it.
        has_aux: It returns ``(y, aux)``; aux has keys ``loss/<name>`` and ``stat/<name>``.
        needs_grid: It is made for one grid, and has ``set_grid(grid)``, which moves it to another by new tensors in the
            place of the old ones.
        any_grid: Its forward pass takes other grids all the same.
        cuts_grid: It cuts the grid into parts, so that the compiler makes a program for each size.
        mixes_prefix: It may see a class token among the positions; for others, `zoo.blocks.base.PatchesOnly` stands in
            between.
        per_position: A channel mixer treats every position by itself.
        spatial: Numbers of dimensions of the grids that it works on.
        deployed: Its branches are merged, by ``reparameterize()``; a channel mixer's takes ``scale``, a factor per
            channel on its output.
        no_decay: Names of its parameters that weight decay must leave alone.
        mixture, within: Where it holds others: the name of a mixture that its own options describe, and the names of
            modules by the options that describe them.
    """

    follows: tuple[str, ...] = ()
    keywords: frozenset[str] = frozenset()
    has_aux: bool = False
    needs_grid: bool = False
    any_grid: bool = False
    cuts_grid: bool = False
    mixes_prefix: bool = False
    per_position: bool = True
    spatial: frozenset[int] = frozenset({1, 2})
    deployed: bool = False
    no_decay: tuple[str, ...] = ()
    mixture: str | None = None
    within: dict[str, str] = {}


def trait(module: nn.Module | Callable[..., nn.Module] | None, name: str) -> Any:
    """What a module, or what builds one, declares of the protocol; the default where it declares nothing.

    Example:
        >>> trait(nn.Linear(2, 2), "has_aux"), trait(None, "spatial") == {1, 2}
        (False, True)
    """
    return getattr(module, name, getattr(Mixer, name))


def offers(module: nn.Module | None, method: str) -> bool:
    """Whether a module has an optional method of the protocol: ``reparameterize``, ``set_window_size``."""
    return callable(getattr(module, method, None))
