"""The protocol of mixers, and of any module: what it may declare, each with its default.

A module from elsewhere need not derive from `Mixer` or `Part`: what it does not declare has the default, which `trait`
gives.
"""

from collections.abc import Callable
from typing import Any

from torch import nn

from zoo.slots import RANKS


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
    spatial: frozenset[int] = RANKS
    deployed: bool = False
    no_decay: tuple[str, ...] = ()
    mixture: str | None = None
    within: dict[str, str] = {}


class Part(nn.Module):
    """What any module in a model, and a model itself, may declare for those who look at it from outside.

    Attributes:
        active_fraction: The share of its parameters, in (0, 1], that one token uses, for `zoo.count_flops`.
        cost_by_value: What it costs depends on values, so that it cannot be counted without them.
        only_torch: Why no runtime but torch's can run it, for `zoo.export_model`; None where others can.
        init: The scheme that a layer of torch's own class is initialised by, in place of torch's.
        input_size: The size of one sample, (channels, height, width) or (numbers,).
        pretrained_cfg: A model's configuration, as timm has it.
        stride: Of a stem, pixels from one position to the next; None for what its grid says.
        num_prefix_tokens: Of an embedding, tokens that it puts before those of the grid.
        makes_image: Of a head, it gives images in place of logits.
        per_pixel: Its outputs are one a pixel.
    """

    active_fraction: float = 1.0
    cost_by_value: bool = False
    only_torch: str | None = None
    init: Callable | str | None = None
    input_size: tuple[int, ...] | None = None
    pretrained_cfg: dict[str, Any] | None = None
    stride: int | None = None
    num_prefix_tokens: int = 0
    makes_image: bool = False
    per_pixel: bool = False


def trait(module: nn.Module | Callable[..., nn.Module] | None, name: str, base: type[nn.Module] = Mixer) -> Any:
    """What a module, or what builds one, declares of a protocol; the base's default where it declares nothing.

    Example:
        >>> trait(nn.Linear(2, 2), "has_aux"), trait(None, "spatial") == {1, 2}
        (False, True)
    """
    return getattr(module, name, getattr(base, name))


def offers(module: nn.Module | None, method: str) -> bool:
    """Whether a module has an optional method, and not a child of that name.

    Those of mixers are ``reparameterize`` and ``set_window_size``; any module may have ``reset_parameters``, which
    draws its own parameters anew, and ``chain``, which lists the modules that it applies one after the other; a
    ``layer`` may have ``report``, which gives its auxiliary outputs beside its forward pass.
    """
    own = getattr(module, method, None)
    return callable(own) and not isinstance(own, nn.Module)
