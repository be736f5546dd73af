"""MetaBlock, the only residual code of the package, and the way keywords and auxiliary outputs take through it.

What a mixer may take and give beside its input and output, `zoo.blocks.mixer.Mixer` says: keywords that it declares
reach it, and no other mixer; with ``has_aux = True`` it gives ``(y, aux)``.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from timm.layers import DropPath
from torch import Tensor, nn

from zoo.blocks.kernels import private
from zoo.blocks.kernels.symbolic import is_symbol
from zoo.blocks.mixer import Mixer, offers, trait
from zoo.blocks.options import with_options_of
from zoo.blocks.scale import LayerScale
from zoo.checks import checked
from zoo.checks.ranges import Grid, RateBelowOne, Scale, Width

Aux = dict[str, Tensor | tuple[Tensor, ...]]


FORMS = ("pre", "post", "serial", "plain")


@checked
class MetaBlock(nn.Module):
    """A token mixer and a channel mixer with their residuals: the one residual block of the package.

    A mixer knows nothing of its surroundings: residuals, norms, drop-path and layer scale are here. A mixer that is
    None leaves its whole branch out.

    Args:
        dim: Number of channels.
        token_mixer: Module ``(B, *S, C) -> (B, *S, C)``, or None.
        channel_mixer: Module ``(*, C) -> (*, C)``, or None.
        norm: Makes a norm from a number of channels.
        form: ``pre``: ``x + scale(mixer(norm(x)))`` for the one mixer, then for the other; ``post``:
            ``x + scale(norm(mixer(x)))`` likewise; ``serial``: one branch for both,
            ``x + scale(channel_mixer(norm(token_mixer(x))))``; ``plain``: as ``pre`` without shortcuts,
            ``scale(mixer(norm(x)))``.
        drop_path: Probability that a sample leaves a branch out in training.
        layer_scale: Initial value of a learnt factor per channel on each branch; None for no factor.
        res_scale: Initial value of a learnt factor per channel on each shortcut; None for no factor.
        share_norm: Where there are two branches with a norm, both have the same one.

    Shape: ``(B, *S, C) -> (B, *S, C)``; with the auxiliary outputs behind it, ``(x, aux)``, if `has_aux`. Keywords of
        the forward pass go to the mixers that declare them.

    Example:
        >>> block = MetaBlock(8, token_mixer=None, channel_mixer=nn.Linear(8, 8), norm=nn.LayerNorm)
        >>> block(torch.ones(2, 3, 8)).shape
        torch.Size([2, 3, 8])

    Source: Yu et al., "MetaFormer Is Actually What You Need for Vision" (arXiv 2111.11418), equations 2 and 3; norms
        behind the mixers from Liu et al., "Swin Transformer V2" (arXiv 2111.09883), section 3.2; the serial form from
        Liu et al., "A ConvNet for the 2020s" (arXiv 2201.03545), figure 4; scaled shortcuts from Yu et al., "MetaFormer
        Baselines for Vision" (arXiv 2210.13452).
    Differs: all but the mixers is optional.
    Cost: that of the two mixers.
    Raises: ValueError for an unknown form, and for a shortcut's factor or drop-path in a block without shortcuts.
    """

    @with_options_of(LayerScale, without=["value"])
    def __init__(
        self,
        dim: Width,
        *,
        token_mixer: nn.Module | None,
        channel_mixer: nn.Module | None,
        norm: Callable[[int], nn.Module],
        form: Literal[FORMS] = "pre",
        drop_path: RateBelowOne = 0.0,
        layer_scale: Scale | None = None,
        res_scale: Scale | None = None,
        share_norm: bool = False,
        **dd,
    ):
        super().__init__()

        def scale(wanted: bool, value: float | None) -> nn.Module | None:
            return LayerScale(dim, value=value, **dd) if wanted and value is not None else None

        if form == "plain" and (drop_path > 0 or res_scale is not None):
            asked = f"drop_path={drop_path}" if drop_path > 0 else f"res_scale={res_scale}"
            raise ValueError(
                f"a block of the form plain has no shortcuts for {asked}; leave it out, or take another form"
            )
        self.form = form
        # A serial block has one branch, the second, and no norm without a channel mixer to follow it.
        first = token_mixer is not None and form != "serial"
        second = channel_mixer is not None or (form == "serial" and token_mixer is not None)
        self.norm1 = norm(dim) if first else None
        self.token_mixer = token_mixer
        self.scale1, self.res_scale1 = scale(first, layer_scale), scale(first, res_scale)
        self.norm2 = None if channel_mixer is None or (share_norm and first) else norm(dim)
        self.channel_mixer = channel_mixer
        self.scale2, self.res_scale2 = scale(second, layer_scale), scale(second, res_scale)
        self.drop_path = DropPath(drop_path) if drop_path > 0 else None

    @property
    def has_aux(self) -> bool:
        """Whether a mixer returns auxiliary outputs; one may be exchanged after the block was built."""
        return trait(self.token_mixer, "has_aux") or trait(self.channel_mixer, "has_aux")

    @property
    def keywords(self) -> frozenset[str]:
        """Optional keywords that a mixer declares."""
        return trait(self.token_mixer, "keywords") | trait(self.channel_mixer, "keywords")

    def forward(self, x: Tensor, **keywords) -> Tensor | tuple[Tensor, Aux]:
        aux: list[Aux] = []
        if self.form == "serial":
            y = x if self.token_mixer is None else _mix(self.token_mixer, x, aux, keywords)
            if self.channel_mixer is not None:
                y = _mix(self.channel_mixer, self.norm2(y), aux, keywords)
            if y is not x:
                x = self._add(x, y, self.scale2, self.res_scale2)
        else:
            if self.token_mixer is not None:
                y = self._branch(self.token_mixer, self.norm1, x, aux, keywords)
                x = self._add(x, y, self.scale1, self.res_scale1)
            if self.channel_mixer is not None:
                norm = self.norm1 if self.norm2 is None else self.norm2
                y = self._branch(self.channel_mixer, norm, x, aux, keywords)
                x = self._add(x, y, self.scale2, self.res_scale2)
        return (x, merge_aux(aux)) if self.has_aux else x

    def _branch(self, mixer: nn.Module, norm: nn.Module, x: Tensor, aux: list[Aux], keywords: Mapping) -> Tensor:
        return norm(_mix(mixer, x, aux, keywords)) if self.form == "post" else _mix(mixer, norm(x), aux, keywords)

    def _add(self, x: Tensor, y: Tensor, scale: LayerScale | None, res_scale: LayerScale | None) -> Tensor:
        if self.form == "plain":
            return y if scale is None else scale(y)
        if self.drop_path is not None:
            y = self.drop_path(y)
        if res_scale is not None:
            return res_scale.add(y if scale is None else scale(y), x)
        return x + y if scale is None else scale.add(x, y)

    def reparameterize(self) -> None:
        """Merge what is linear in inference, in place: the mixers' branches, and layer scale into the channel mixer."""
        for mixer in (self.token_mixer, self.channel_mixer):
            if not offers(mixer, "reparameterize"):
                continue
            if mixer is self.channel_mixer and self.form != "post" and self.scale2 is not None:
                mixer.reparameterize(self.scale2.gamma)
                self.scale2 = None
            else:
                mixer.reparameterize()


def declared(module: nn.Module | None, keywords: Mapping[str, Any]) -> Mapping[str, Any]:
    """Those of some keywords that a module declares."""
    if not keywords:
        return keywords
    names = trait(module, "keywords")
    return {name: value for name, value in keywords.items() if name in names}


def merge_aux(parts: Sequence[Aux]) -> Aux:
    """Join the auxiliary outputs of several layers.

    Keys ``loss/<name>`` hold a tuple of differentiable, unweighted losses, ``stat/<name>`` one of detached statistics,
    an entry a layer, in the order of the layers. `mean_losses` makes the means. A symbolic trace has none.
    """
    if any(map(is_symbol, parts)):
        return {}
    merged: dict[str, tuple[Tensor, ...]] = {}
    for part in parts:
        for key, value in part.items():
            entries = value if isinstance(value, tuple) else (value,)
            if key.startswith("stat/"):
                entries = tuple(entry.detach() for entry in entries)
            elif not key.startswith("loss/"):
                raise ValueError(f"auxiliary output {key!r} must be named loss/<name> or stat/<name>")
            merged[key] = merged.get(key, ()) + entries
    return merged


def mean_losses(aux: Aux) -> Aux:
    """Each loss as its mean over the layers, a scalar; the statistics as they are, an entry a layer."""
    return {k: torch.stack(v).mean() if k.startswith("loss/") else v for k, v in aux.items()}


class PatchesOnly(Mixer):
    """Lets a mixer that needs a plain grid stand in a model with prefix tokens (a class token).

    The mixer sees the patches as a grid; each prefix token reads the mean of the patches, as it would in attention with
    uniform weights. Without that a class token would never learn of the image.

    Shape: ``(B, prefix + H * W, C) -> (B, prefix + H * W, C)``.

    Example:
        >>> PatchesOnly(nn.Identity(), prefix=1, grid=(2, 2))(torch.tensor([[[9.], [1.], [2.], [3.], [6.]]])).flatten()
        tensor([3., 1., 2., 3., 6.])

    Source: zoo's own rule; no paper combines these.
    Differs: nothing to differ from.
    Cost: that of the mixer.
    """

    needs_grid = True

    def __init__(self, mixer: nn.Module, *, prefix: int, grid: Grid):
        super().__init__()
        self.mixer, self.prefix, self.grid = mixer, prefix, tuple(grid)
        self.has_aux = trait(mixer, "has_aux")

    @property
    def keywords(self) -> frozenset[str]:
        """Optional keywords that the mixer declares."""
        return trait(self.mixer, "keywords")

    @property
    def cuts_grid(self) -> bool:
        """Whether the mixer cuts its grid into parts."""
        return trait(self.mixer, "cuts_grid")

    def forward(self, x: Tensor, **keywords) -> Tensor | tuple[Tensor, Aux]:
        aux: list[Aux] = []
        patches = x[:, self.prefix :]
        y = _mix(self.mixer, patches.unflatten(1, self.grid), aux, keywords)
        mean = patches.mean(1, keepdim=True).expand(-1, self.prefix, -1)
        y = torch.cat([mean, y.flatten(1, -2)], dim=1)
        return (y, aux[0]) if self.has_aux else y

    @property
    def deployed(self) -> bool:
        """Whether the mixer's branches are merged."""
        return trait(self.mixer, "deployed")

    def reparameterize(self) -> None:
        """Merge the mixer's branches, if it has such."""
        if offers(self.mixer, "reparameterize"):
            self.mixer.reparameterize()

    def set_grid(self, grid: tuple[int, ...]) -> None:
        """Move to another grid, and the mixer too if its weights depend on it."""
        if trait(self.mixer, "needs_grid"):
            self.mixer.set_grid(grid)
        self.grid = tuple(grid)


def _mix(mixer: nn.Module, x: Tensor, into: list[Aux], keywords: Mapping[str, Any]) -> Tensor:
    """The output of a mixer, with the keywords that it declares; what it reports beside it goes into a list."""
    y = mixer(x, **declared(mixer, keywords))
    if not trait(mixer, "has_aux"):
        return y
    y, aux = y
    into.append(aux)
    return y


def parameters_without_decay(model: nn.Module) -> set[str]:
    """Names of the parameters that weight decay must leave alone, as the modules that own them say.

    A module of zoo names them in ``no_decay``. Parameters called ``bias``, and those of torch's own norms, are never
    decayed. The number of dimensions of a parameter says nothing and is not asked.
    """
    norms = (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, private.ChannelNorm)
    names = set()
    for prefix, module in model.named_modules():
        marked = trait(module, "no_decay")
        for name, _ in module.named_parameters(recurse=False):
            if name in marked or name == "bias" or isinstance(module, norms):
                names.add(f"{prefix}.{name}" if prefix else name)
    return names
