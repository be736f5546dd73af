"""Linear maps over channels and over tokens, each with its published initialisation."""

import functools

import torch
from timm.layers import resample_abs_pos_embed
from torch import Tensor, nn

from zoo.blocks.init import Init, InitLike, init_
from zoo.blocks.kernels.guard import bare as is_bare
from zoo.blocks.kernels.linear import halves, linear, linear_act, linear_act_halves
from zoo.blocks.mixer import Part, offers, trait
from zoo.blocks.options import with_options_of
from zoo.checks.ranges import Ratio, Width

__all__ = [
    "Linear",
    "TokenLinear",
    "halves",
    "hidden_width",
    "initialise",
    "is_bare",
    "leave",
    "linear",
    "linear_act",
    "linear_act_halves",
    "make_layer",
    "resample_tokens",
]


def Linear(
    in_features: int, out_features: int, bias: bool = True, *, init: InitLike = "trunc_normal", device=None, dtype=None
) -> nn.Linear:
    """A `torch.nn.Linear` that is initialised once, by a scheme that it keeps; `initialise` does it again.

    It is torch's own class and not one derived from it: tools that quantise, adapt or prune ask for exactly that. The
    fast product is taken by whoever calls it, with `linear`.

    Args:
        init: A scheme of `zoo.blocks.init`. Whoever makes the layer may give whatever `init_` takes, also several
            schemes, and `leave` for weights that it fills itself.

    Shape: ``(*, in_features) -> (*, out_features)``.

    Example:
        >>> type(Linear(4, 3, init="zeros")) is nn.Linear
        True

    Cost: in_features x out_features MACs a position.
    """
    return make_layer(nn.Linear, init, in_features, out_features, bias, device=device, dtype=dtype)


def leave(weight: Tensor, bias: Tensor | None) -> None:
    """An `init` that leaves a layer as it is: the module around it fills it in its own `reset_parameters`."""


def make_layer(cls: type[nn.Module], init: Init, *args, device, dtype, **kwargs) -> nn.Module:
    """A layer of torch's, filled by a scheme alone: torch's own initialisation is not drawn before."""
    layer = _undrawn(cls)(*args, device=device, dtype=dtype, **kwargs)
    layer.__class__ = cls
    layer.init = init
    initialise(layer)
    return layer


@functools.cache
def _undrawn(cls: type[nn.Module]) -> type[nn.Module]:
    """A class whose layers hold unwritten memory; `torch.nn.utils.skip_init` draws on meta, which takes longer."""
    return type(cls.__name__, (cls,), {"reset_parameters": lambda self: None})


def initialise(module: nn.Module) -> None:
    """Draw the parameters that a module itself owns anew, by the published initialisation.

    That is its ``reset_parameters()``; a layer of torch's own class, which would take torch's, has a scheme instead.
    """
    scheme = trait(module, "init", Part) if type(module) in (nn.Linear, nn.Conv2d) else None
    if scheme is not None:
        init_(module.weight, module.bias, scheme)
    elif offers(module, "reset_parameters"):
        module.reset_parameters()


def hidden_width(block: str, dim: int, *, ratio: Ratio = 4.0, hidden: Width | None = None) -> int:
    """The hidden width of a block: `hidden` if it is given, else ``int(ratio * dim)``.

    Raises:
        ValueError: It is below 1.
    """
    width = int(ratio * dim) if hidden is None else hidden
    if width < 1:
        raise ValueError(f"{block} of dim {dim} has a hidden width of {width}; it must be at least 1: raise ratio")
    return width


class TokenLinear(nn.Module):
    """A linear map over the tokens, the same for every channel: ``W @ x + b``, no transposition of the input.

    The usual spelling, transpose - Linear - transpose, copies the activations twice. As a batched product with the
    weight broadcast over the batch it copies nothing.

    Shape: ``(B, in_tokens, C) -> (B, out_tokens, C)``.
    Cost: in_tokens x out_tokens MACs a channel.
    """

    no_decay = ("bias",)

    @with_options_of(Linear)
    def __init__(self, in_tokens: int, out_tokens: int, *, init: InitLike = "trunc_normal", **dd):
        super().__init__()
        self.init = init
        self.weight = nn.Parameter(torch.empty(out_tokens, in_tokens, **dd))
        self.bias = nn.Parameter(torch.empty(out_tokens, **dd))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        init_(self.weight, self.bias, self.init)

    def forward(self, x: Tensor) -> Tensor:
        return torch.baddbmm(self.bias[:, None], self.weight.expand(x.shape[0], -1, -1), x)

    def extra_repr(self) -> str:
        return f"in_tokens={self.weight.shape[1]}, out_tokens={self.weight.shape[0]}"

    def resample_(self, old: tuple[int, ...], new: tuple[int, ...], *, inputs: bool = False, outputs: bool = False):
        """Resample the chosen token axes from grid `old` to grid `new`, in place.

        The input axis is rescaled by the ratio of token counts, so that a constant image gives the same result on
        both grids.
        """
        with torch.no_grad():
            weight, bias = self.weight, self.bias
            if inputs:
                weight = resample_tokens(weight, old, new) * (_count(old) / _count(new))
            if outputs:
                weight = resample_tokens(weight.t(), old, new).t()
                bias = resample_tokens(bias[None], old, new)[0]
            self.weight = nn.Parameter(weight.contiguous(), self.weight.requires_grad)
            self.bias = nn.Parameter(bias.contiguous(), self.bias.requires_grad)


def resample_tokens(x: Tensor, old: tuple[int, ...], new: tuple[int, ...]) -> Tensor:
    """Bicubic resampling of the last axis of ``(R, prod(old))``, read as a grid of one or two dimensions."""
    if _count(old) != x.shape[-1]:
        raise ValueError(f"{x.shape[-1]} tokens are not a grid of {old}; pass the grid that the weights were made for")
    new2, old2 = ((1, *g)[-2:] for g in (new, old))
    return resample_abs_pos_embed(x.t()[None], list(new2), list(old2), num_prefix_tokens=0)[0].t()


def _count(grid: tuple[int, ...]) -> int:
    return int(torch.Size(grid).numel())
