"""MetaBlock, the only residual code of the package, and the way auxiliary outputs take through it."""

from collections.abc import Callable, Sequence

import torch
from timm.layers import DropPath
from torch import Tensor, nn

from zoo.blocks.scale import LayerScale

Aux = dict[str, Tensor | tuple[Tensor, ...]]


class MetaBlock(nn.Module):
    """``x + scale(token_mixer(norm(x)))``, then ``x + scale(channel_mixer(norm(x)))``.

    A mixer knows nothing of its surroundings: residuals, norms, drop-path and layer scale are here. A mixer that is
    None leaves its whole branch out.

    Args:
        dim: Number of channels.
        token_mixer: Module ``(B, *S, C) -> (B, *S, C)``, or None.
        channel_mixer: Module ``(*, C) -> (*, C)``, or None.
        norm: Makes a norm from a number of channels.
        drop_path: Probability that a sample leaves a branch out in training.
        layer_scale: Initial value of a learnt factor per channel on each branch; None for no factor.

    Shape: ``(B, *S, C) -> (B, *S, C)``; with the auxiliary outputs behind it, ``(x, aux)``, if `has_aux`.

    Example:
        >>> block = MetaBlock(8, token_mixer=None, channel_mixer=nn.Linear(8, 8), norm=nn.LayerNorm)
        >>> block(torch.ones(2, 3, 8)).shape
        torch.Size([2, 3, 8])

    Source: Yu et al., "MetaFormer Is Actually What You Need for Vision" (arXiv 2111.11418), equations 2 and 3.
    Differs: layer scale and drop-path are optional.
    Cost: that of the two mixers.
    """

    def __init__(
        self,
        dim: int,
        *,
        token_mixer: nn.Module | None,
        channel_mixer: nn.Module | None,
        norm: Callable[[int], nn.Module],
        drop_path: float = 0.0,
        layer_scale: float | None = None,
        device=None,
        dtype=None,
    ):
        super().__init__()

        def scale(mixer: nn.Module | None) -> nn.Module | None:
            wanted = mixer is not None and layer_scale is not None
            return LayerScale(dim, value=layer_scale, device=device, dtype=dtype) if wanted else None

        self.norm1 = None if token_mixer is None else norm(dim)
        self.token_mixer = token_mixer
        self.scale1 = scale(token_mixer)
        self.norm2 = None if channel_mixer is None else norm(dim)
        self.channel_mixer = channel_mixer
        self.scale2 = scale(channel_mixer)
        self.drop_path = DropPath(drop_path) if drop_path > 0 else None
        self.has_aux = _has_aux(token_mixer) or _has_aux(channel_mixer)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Aux]:
        aux = []
        if self.token_mixer is not None:
            y = self.token_mixer(self.norm1(x))
            x = self._add(x, _keep_aux(y, aux) if _has_aux(self.token_mixer) else y, self.scale1)
        if self.channel_mixer is not None:
            y = self.channel_mixer(self.norm2(x))
            x = self._add(x, _keep_aux(y, aux) if _has_aux(self.channel_mixer) else y, self.scale2)
        return (x, merge_aux(aux)) if self.has_aux else x

    def _add(self, x: Tensor, y: Tensor, scale: LayerScale | None) -> Tensor:
        if self.drop_path is not None:
            return x + self.drop_path(y if scale is None else scale(y))
        return x + y if scale is None else scale.add(x, y)


def merge_aux(parts: Sequence[Aux]) -> Aux:
    """Join the auxiliary outputs of several layers.

    Keys ``loss/<name>`` hold a tuple of differentiable, unweighted losses, ``stat/<name>`` one of detached statistics,
    an entry a layer, in the order of the layers. `mean_losses` makes the means.
    """
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


class PatchesOnly(nn.Module):
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

    def __init__(self, mixer: nn.Module, *, prefix: int, grid: tuple[int, ...]):
        super().__init__()
        self.mixer, self.prefix, self.grid = mixer, prefix, tuple(grid)
        self.has_aux = _has_aux(mixer)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Aux]:
        aux = []
        patches = x[:, self.prefix :]
        y = self.mixer(patches.unflatten(1, self.grid))
        y = _keep_aux(y, aux) if self.has_aux else y
        mean = patches.mean(1, keepdim=True).expand(-1, self.prefix, -1)
        y = torch.cat([mean, y.flatten(1, -2)], dim=1)
        return (y, aux[0]) if self.has_aux else y

    def set_grid(self, grid: tuple[int, ...]) -> None:
        """Move to another grid, and the mixer too if its weights depend on it."""
        if hasattr(self.mixer, "set_grid"):
            self.mixer.set_grid(grid)
        self.grid = tuple(grid)


def _has_aux(mixer: nn.Module | None) -> bool:
    return getattr(mixer, "has_aux", False)


def _keep_aux(output: tuple[Tensor, Aux], into: list[Aux]) -> Tensor:
    y, aux = output
    into.append(aux)
    return y


def parameters_without_decay(model: nn.Module) -> set[str]:
    """Names of the parameters that weight decay must leave alone, as the modules that own them say.

    A module of zoo names them in ``no_decay``. Parameters called ``bias``, and those of torch's own norms, are never
    decayed. The number of dimensions of a parameter says nothing and is not asked.
    """
    norms = (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.modules.batchnorm._NormBase)
    names = set()
    for prefix, module in model.named_modules():
        marked = getattr(module, "no_decay", ())
        for name, _ in module.named_parameters(recurse=False):
            if name in marked or name == "bias" or isinstance(module, norms):
                names.add(f"{prefix}.{name}" if prefix else name)
    return names
