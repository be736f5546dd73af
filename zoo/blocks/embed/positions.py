"""A class token, and learnt embeddings of positions."""

import torch
from timm.layers import resample_abs_pos_embed, trunc_normal_
from torch import Tensor, fx, nn

from zoo.checks.ranges import Deviation, Grid, Rate, Width
from zoo.slots.table import register


@register("embed", "class_and_position")
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
        grid: Grid,
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
        self.needs_grid = pos_embed
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
    def num_prefix_tokens(self) -> int:
        """Tokens before those of the grid."""
        return 0 if self.cls_token is None else 1

    def forward(self, x: Tensor) -> Tensor:
        y = x.flatten(1, 2)
        if self.cls_token is not None:
            y = torch.cat([self.cls_token.expand(x.shape[0], -1, -1).to(x.dtype), y], dim=1)
        if self.pos_embed is not None:
            y = y + positions_of(x, self.pos_embed, self.grid, self.num_prefix_tokens)
        y = y if self.cls_token is not None else y.view(x.shape)
        return y if self.drop is None else self.drop(y)

    def set_grid(self, grid: tuple[int, int]) -> None:
        """Resample the position embeddings to another grid, in place."""
        if self.pos_embed is not None:
            with torch.no_grad():
                positions = resample_positions(self.pos_embed, tuple(grid), self.grid, self.num_prefix_tokens)
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
