"""Stems, from an image to a grid of vectors, and the tokens and position embeddings added to it."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from timm.layers import resample_abs_pos_embed, resample_patch_embed, trunc_normal_
from torch import Tensor, fx, nn
from torch.nn import functional as F

from zoo.blocks.conv import Conv2d
from zoo.blocks.images import check_batch, check_room
from zoo.blocks.kernels import guard
from zoo.blocks.linear import InitName, Linear, is_bare, linear
from zoo.blocks.register import register
from zoo.checks import shown
from zoo.ranges import Channels, Deviation, Rate, Seed, Side, Sides, Width
from zoo.slots import SlotLike, build_block


def to_pair(size: int | Sequence[int], what: str = "size") -> tuple[int, int]:
    """A positive (height, width), from itself or from one side of a square.

    Raises:
        ValueError: It is neither.
    """
    pair = (size, size) if type(size) is int else tuple(size) if isinstance(size, (list, tuple)) else ()
    if len(pair) != 2 or not all(type(side) is int and side > 0 for side in pair):
        raise ValueError(f"{what} is {shown(size)}; it must be a positive integer or (height, width) of two")
    return pair


@register("stem", "patch")
class PatchEmbed(nn.Module):
    """Cut an image into patches and map each to a vector; the weights are those of a convolution.

    Args:
        patch_size: Side of a patch, or (height, width).
        norm: A norm slot, applied to the patches' vectors.
        remainder: What becomes of rows and columns that fill no whole patch: ``refuse`` them, ``drop`` them at the
            bottom and the right, or ``pad`` them with zeros.
        init: A scheme of `zoo.blocks.linear.INITS`.

    Shape: ``(B, in_chans, H, W) -> (B, H / patch, W / patch, dim)``.

    Example:
        >>> PatchEmbed(3, 8, patch_size=4)(torch.randn(2, 3, 16, 8)).shape
        torch.Size([2, 4, 2, 8])

    Source: Dosovitskiy et al., ViT (arXiv 2010.11929), equation 1.
    Differs: none known.
    Cost: in_chans x H x W x dim MACs.
    Raises: ValueError if the image has another number of channels, holds no patch, or where `remainder` is ``refuse``
        is not a whole number of patches.
    """

    def __init__(
        self,
        in_chans: Channels,
        dim: Width,
        *,
        patch_size: Sides = 16,
        norm: SlotLike = "none",
        remainder: Literal["refuse", "drop", "pad"] = "refuse",
        init: InitName = "torch",
        device=None,
        dtype=None,
    ):
        super().__init__()
        self.patch_size = to_pair(patch_size, "patch_size")
        self.in_chans, self.remainder = in_chans, remainder
        self.proj = Conv2d(in_chans, dim, self.patch_size, self.patch_size, init=init, device=device, dtype=dtype)
        self.norm = build_block("norm", norm, dim, device=device, dtype=dtype)

    @property
    def stride(self) -> int:
        """Pixels of the image to one position of the grid."""
        return max(self.patch_size)

    def grid(self, img_size: tuple[int, int]) -> tuple[int, int]:
        """Number of patches down and across an image of this size."""
        return patch_grid(img_size, self.patch_size, self.remainder)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self._patches(whole_patches(x, self.in_chans, self.patch_size, self.remainder)))

    def _patches(self, x: Tensor) -> Tensor:
        seen_into = is_bare(self.proj, nn.Conv2d) and guard.plain(x, self.proj.weight)
        if not seen_into or x.dtype is not torch.bfloat16 or x.device.type != "cpu":
            return self.proj(x).permute(0, 2, 3, 1)
        # The same as one copy and one matrix product, which in bf16 on the CPU (torch 2.15, Zen 4) is 1.2 times as
        # fast.
        rows, columns = self.patch_size
        x = x.unflatten(3, (-1, columns)).unflatten(2, (-1, rows)).permute(0, 2, 4, 1, 3, 5).flatten(3)
        return F.linear(x, self.proj.weight.flatten(1), self.proj.bias)

    def set_patch_size(self, patch_size: int | Sequence[int]) -> None:
        """Resample the convolution to another patch size (FlexiViT's pseudo-inverse resize)."""
        new = to_pair(patch_size, "patch_size")
        if new == self.patch_size:
            return
        if not isinstance(self.proj, nn.Conv2d) or "weight" not in dict(self.proj.named_parameters(recurse=False)):
            raise ValueError(
                f"the stem's convolution has become a {type(self.proj).__name__} whose weight cannot be resampled; set "
                "the patch size first, or merge what was put around it"
            )
        weight = self.proj.weight
        with torch.no_grad():
            resampled = resample_patch_embed(weight, list(new)).to(weight.dtype)
        layout = torch.contiguous_format if weight.is_contiguous() else torch.channels_last
        # In the same module, which may be in evaluation, or have hooks.
        self.proj.weight = nn.Parameter(resampled.contiguous(memory_format=layout), weight.requires_grad)
        self.proj.kernel_size = self.proj.stride = self.patch_size = new


def patch_grid(size: tuple[int, int], patch: tuple[int, int], remainder: str) -> tuple[int, int]:
    """Number of patches down and across an image.

    Raises:
        ValueError: The image holds no patch, or where a remainder is refused is no whole number of them.
    """
    if remainder == "pad":
        return -(-size[0] // patch[0]), -(-size[1] // patch[1])
    if remainder == "drop":
        check_room(size, patch)
    elif size[0] % patch[0] or size[1] % patch[1]:
        raise ValueError(
            f"image size {size[0]} x {size[1]} is not a whole number of {patch[0]} x {patch[1]} patches; resize or pad "
            "the image, or choose another patch_size"
        )
    return size[0] // patch[0], size[1] // patch[1]


@fx.wrap
def whole_patches(x: Tensor, in_chans: int, patch: tuple[int, int], remainder: str) -> Tensor:
    """Images cut, or filled with zeros, to a whole number of patches.

    Shape: ``(B, in_chans, H, W) -> (B, in_chans, rows * patch, columns * patch)``.

    Raises:
        ValueError: As `check_batch` and `patch_grid`.
    """
    check_batch(x, in_chans)
    rows, columns = patch_grid((x.shape[2], x.shape[3]), patch, remainder)
    height, width = rows * patch[0], columns * patch[1]
    if remainder == "drop":
        return x[..., :height, :width]
    if (height, width) != (x.shape[2], x.shape[3]):
        x = F.pad(x, (0, width - x.shape[3], 0, height - x.shape[2]))
    return x


@register("stem", "lift")
class Lift(nn.Module):
    """Flatten an image and lift it to one vector: by a fixed random projection, a trained one, or not at all.

    Args:
        kind: ``random``: a fixed Gaussian projection of variance 1 / in_features, rebuilt from `seed` and never stored;
            ``trained``: a linear map; ``none``: the values themselves, `dim` being their number.
        seed: Seed of the random projection.
        init: A scheme of `zoo.blocks.linear.INITS` for the trained map.
        img_size: (height, width) of the image.

    Shape: ``(B, in_chans, H, W) -> (B, 1, 1, dim)``.

    Example:
        >>> lift = Lift(3, 32, kind="random", seed=1, img_size=(2, 2))
        >>> lift(torch.randn(5, 3, 2, 2)).shape, list(lift.state_dict())
        (torch.Size([5, 1, 1, 32]), [])

    Source: "Rethinking the shape convention of an MLP" (arXiv 2510.01796): a projection fixed at random initialisation.
    Differs: distribution and scale are not given in the abstract; a variance-preserving Gaussian is zoo's choice.
    Cost: in_chans x H x W x dim MACs, none for ``none``.
    Raises: ValueError for an unknown kind, a width that ``none`` cannot give, or an image of another size.
    """

    def __init__(
        self,
        in_chans: Channels,
        dim: Width,
        *,
        kind: Literal["random", "trained", "none"] = "random",
        seed: Seed = 0,
        init: InitName = "trunc_normal",
        img_size: tuple[Side, Side],
        device=None,
        dtype=None,
    ):
        super().__init__()
        self.shape = (in_chans, *img_size)
        features = torch.Size(self.shape).numel()
        if kind == "none" and dim != features:
            raise ValueError(
                f"lift(kind='none') keeps the {features} values of an image, so dim must be {features}, not {dim}"
            )
        self.kind, self.seed = kind, seed
        if kind == "random":
            self.register_buffer("projection", torch.empty(dim, features, device=device, dtype=dtype), persistent=False)
            self.reset_parameters()
        elif kind == "trained":
            self.proj = Linear(features, dim, init=init, device=device, dtype=dtype)

    def reset_parameters(self) -> None:
        """Rebuild the random projection from its seed."""
        if self.kind == "random" and not self.projection.is_meta:
            # numpy promises that a RandomState gives the same numbers for ever; torch's generators promise nothing.
            values = np.random.RandomState(self.seed).standard_normal(self.projection.shape)
            self.projection.copy_(torch.from_numpy(values / self.projection.shape[1] ** 0.5))

    def grid(self, img_size: tuple[int, int]) -> tuple[int, int]:
        """One position, whatever the image; the image itself cannot have another size."""
        if tuple(img_size) != self.shape[1:]:
            raise ValueError(
                f"a lift of {self.shape[1]} x {self.shape[2]} images cannot take {img_size[0]} x {img_size[1]}; "
                "its weights cannot be resampled, so create a model with that img_size"
            )
        return 1, 1

    def forward(self, x: Tensor) -> Tensor:
        check_shape(x, self.shape)
        x = x.flatten(1)
        if self.kind != "none":
            x = F.linear(x, self.projection) if self.kind == "random" else linear(x, self.proj)
        return x[:, None, None]

    def extra_repr(self) -> str:
        return f"kind={self.kind!r}, seed={self.seed}, shape={self.shape}"


@fx.wrap
def check_shape(x: Tensor, shape: tuple[int, int, int]) -> None:
    """Check a batch of images of one shape alone.

    Raises:
        ValueError: It is of another.
    """
    if tuple(x.shape[1:]) != shape:
        raise ValueError(
            f"expected images (B, {', '.join(map(str, shape))}), got {tuple(x.shape)}; create the model with the "
            "img_size and in_chans of the data"
        )


class ClassAndPosition(nn.Module):
    """A class token before the patches, and a learnt embedding of each position.

    Args:
        grid: Rows and columns of patches.
        class_token: Put a learnt token first; it has a position embedding too.
        pos_embed: Add position embeddings.
        drop: Dropout after the addition.
        token_std: Standard deviation of the class token's initialisation (0: zeros).

    Shape: ``(B, H, W, dim) -> (B, prefix + H * W, dim)`` with a class token, else ``(B, H, W, dim)``.

    Example:
        >>> ClassAndPosition(8, grid=(2, 3))(torch.randn(4, 2, 3, 8)).shape
        torch.Size([4, 7, 8])

    Source: Dosovitskiy et al., ViT (arXiv 2010.11929), equation 1.
    Differs: position embeddings start from a truncated normal, std 0.02, as in DeiT; ViT's Flax code does not truncate.
    Cost: no MACs by zoo's convention (element-wise).
    """

    no_decay = ("cls_token", "pos_embed")

    def __init__(
        self,
        dim: Width,
        *,
        grid: tuple[int, int],
        class_token: bool = True,
        pos_embed: bool = True,
        drop: Rate = 0.0,
        token_std: Deviation = 0.02,
        device=None,
        dtype=None,
    ):
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        self.grid, self.token_std = tuple(grid), token_std
        tokens = torch.Size(grid).numel() + class_token
        self.cls_token = nn.Parameter(torch.empty(1, 1, dim, **dd)) if class_token else None
        self.pos_embed = nn.Parameter(torch.empty(1, tokens, dim, **dd)) if pos_embed else None
        self.drop = nn.Dropout(drop) if drop > 0 else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        if self.cls_token is not None:
            nn.init.normal_(self.cls_token, std=self.token_std)
        if self.pos_embed is not None:
            trunc_normal_(self.pos_embed, std=0.02)

    @property
    def _prefix(self) -> int:
        return 0 if self.cls_token is None else 1

    def forward(self, x: Tensor) -> Tensor:
        y = x.flatten(1, 2)
        if self.cls_token is not None:
            y = torch.cat([self.cls_token.expand(x.shape[0], -1, -1).to(x.dtype), y], dim=1)
        if self.pos_embed is not None:
            y = y + positions_of(x, self.pos_embed, self.grid, self._prefix)
        y = y if self.cls_token is not None else y.view(x.shape)
        return y if self.drop is None else self.drop(y)

    def set_grid(self, grid: tuple[int, int]) -> None:
        """Resample the position embeddings to another grid, in place."""
        if self.pos_embed is not None:
            with torch.no_grad():
                positions = resample_positions(self.pos_embed, tuple(grid), self.grid, self._prefix)
                self.pos_embed = nn.Parameter(positions.clone(), self.pos_embed.requires_grad)
        self.grid = tuple(grid)


@fx.wrap
def positions_of(x: Tensor, pos_embed: Tensor, grid: tuple[int, int], prefix: int) -> Tensor:
    """Position embeddings for the grid that ``(B, H, W, dim)`` has, made for another or for this one."""
    return resample_positions(pos_embed, (x.shape[1], x.shape[2]), grid, prefix)


def resample_positions(pos_embed: Tensor, new: tuple[int, int], old: tuple[int, int], prefix: int) -> Tensor:
    """Position embeddings ``(1, prefix + N, dim)`` of another grid; those of the prefix tokens stay."""
    if new == old:
        return pos_embed
    return resample_abs_pos_embed(pos_embed, list(new), list(old), num_prefix_tokens=prefix)
