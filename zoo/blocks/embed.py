"""Stems, from an image to a grid of vectors, and the tokens and position embeddings added to it."""

from collections.abc import Sequence

import numpy as np
import torch
from timm.layers import resample_abs_pos_embed, resample_patch_embed, trunc_normal_
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.blocks.conv import Conv2d
from zoo.blocks.linear import Linear, is_bare
from zoo.blocks.register import register
from zoo.slots import build_block


def to_pair(size: int | Sequence[int], what: str = "size") -> tuple[int, int]:
    """A positive (height, width), from itself or from one side of a square.

    Raises:
        ValueError: It is neither.
    """
    pair = (size, size) if isinstance(size, int) else tuple(size) if isinstance(size, (list, tuple)) else ()
    if len(pair) != 2 or not all(type(side) is int and side > 0 for side in pair):
        raise ValueError(f"{what} is {size!r}; it must be a positive integer or (height, width) of two")
    return pair


def check_images(x: Tensor, in_chans: int) -> None:
    """Check a batch of images.

    Raises:
        ValueError: It is not ``(B, in_chans, H, W)``.
    """
    if x.ndim != 4 or x.shape[1] != in_chans:
        raise ValueError(f"expected images (B, {in_chans}, H, W), got {tuple(x.shape)}")


def check_room(img_size: Sequence[int], least: tuple[int, int]) -> None:
    """Check that an image gives at least one position.

    Raises:
        ValueError: It is smaller than `least` in a direction.
    """
    if img_size[0] < least[0] or img_size[1] < least[1]:
        raise ValueError(
            f"image size {img_size[0]} x {img_size[1]} is below the {least[0]} x {least[1]} of one position of the "
            "stem; use larger images"
        )


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
        in_chans: int,
        dim: int,
        *,
        patch_size: int | Sequence[int] = 16,
        norm: str = "none",
        remainder: str = "refuse",
        init: str = "torch",
        device=None,
        dtype=None,
    ):
        super().__init__()
        if remainder not in ("refuse", "drop", "pad"):
            raise ValueError(f"patch: remainder {remainder!r} is not one of refuse, drop, pad")
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
        if self.remainder == "pad":
            return tuple(-(-side // patch) for side, patch in zip(img_size, self.patch_size, strict=True))
        if self.remainder == "drop":
            check_room(img_size, self.patch_size)
        elif any(side % patch for side, patch in zip(img_size, self.patch_size, strict=True)):
            raise ValueError(
                f"image size {img_size[0]} x {img_size[1]} is not a whole number of {self.patch_size[0]} x "
                f"{self.patch_size[1]} patches; resize or pad the image, or choose another patch_size"
            )
        return img_size[0] // self.patch_size[0], img_size[1] // self.patch_size[1]

    def forward(self, x: Tensor) -> Tensor:
        check_images(x, self.in_chans)
        grid = self.grid(x.shape[2:])
        sides = tuple(count * patch for count, patch in zip(grid, self.patch_size, strict=True))
        if self.remainder == "pad" and sides != tuple(x.shape[2:]):
            x = F.pad(x, (0, sides[1] - x.shape[3], 0, sides[0] - x.shape[2]))
        return self.norm(self._patches(x[..., : sides[0], : sides[1]], grid))

    def _patches(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        if x.dtype is not torch.bfloat16 or x.device.type != "cpu" or not is_bare(self.proj, Conv2d):
            return self.proj(x).permute(0, 2, 3, 1)
        # The same as one copy and one matrix product, which in bf16 on the CPU (torch 2.15, Zen 4) is 1.2 times as
        # fast.
        (height, width), (rows, columns) = grid, self.patch_size
        x = x.reshape(-1, self.in_chans, height, rows, width, columns).permute(0, 2, 4, 1, 3, 5).flatten(3)
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
        in_chans: int,
        dim: int,
        *,
        kind: str = "random",
        seed: int = 0,
        init: str = "trunc_normal",
        img_size: tuple[int, int],
        device=None,
        dtype=None,
    ):
        super().__init__()
        self.shape = (in_chans, *img_size)
        features = torch.Size(self.shape).numel()
        if kind not in ("random", "trained", "none"):
            raise ValueError(f"lift kind {kind!r} is not one of random, trained, none")
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
        if self.kind == "random":
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
        if tuple(x.shape[1:]) != self.shape:
            raise ValueError(
                f"expected images (B, {', '.join(map(str, self.shape))}), got {tuple(x.shape)}; create the model "
                "with the img_size and in_chans of the data"
            )
        x = x.flatten(1)
        if self.kind != "none":
            x = F.linear(x, self.projection) if self.kind == "random" else self.proj(x)
        return x[:, None, None]

    def extra_repr(self) -> str:
        return f"kind={self.kind!r}, seed={self.seed}, shape={self.shape}"


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
        dim: int,
        *,
        grid: tuple[int, int],
        class_token: bool = True,
        pos_embed: bool = True,
        drop: float = 0.0,
        token_std: float = 0.02,
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

    def _positions(self, grid: tuple[int, int]) -> Tensor:
        if grid == self.grid:
            return self.pos_embed
        prefix = 0 if self.cls_token is None else 1
        return resample_abs_pos_embed(self.pos_embed, list(grid), list(self.grid), num_prefix_tokens=prefix)

    def forward(self, x: Tensor) -> Tensor:
        grid, shape = tuple(x.shape[1:3]), x.shape
        if self.cls_token is not None:
            x = torch.cat([self.cls_token.expand(shape[0], -1, -1).to(x.dtype), x.flatten(1, 2)], dim=1)
        if self.pos_embed is not None:
            x = x.flatten(1, -2) + self._positions(grid)
            x = x if self.cls_token is not None else x.view(shape)
        return x if self.drop is None else self.drop(x)

    def set_grid(self, grid: tuple[int, int]) -> None:
        """Resample the position embeddings to another grid, in place."""
        if self.pos_embed is not None:
            with torch.no_grad():
                self.pos_embed = nn.Parameter(self._positions(tuple(grid)).clone(), self.pos_embed.requires_grad)
        self.grid = tuple(grid)
